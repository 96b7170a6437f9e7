"""From blocks of a corpus to what the model eats in pretraining, for one rank. Host work only.

Which examples, pairs and masks are functions of (seed, epoch, number of the example), whoever computes them.
"""
# ruff: noqa: N815 - the shape suffixes of the house are mixed case

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertjobs.modeling.dropout import row_keys
from bertjobs.modeling.inputs import ModelInputs
from bertjobs.text.batching import Ints, share_of_rank, split_microbatches
from bertjobs.text.pretraining.collate import Examples, collate_pretraining, draw_examples
from bertjobs.text.pretraining.masking import Masker, Vocabulary
from bertjobs.text.pretraining.pairing import Pairing
from bertjobs.training.corpus import Corpus
from bertjobs.training.feed import inputs_of
from bertjobs.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class PretrainMicrobatch:
    """Rows that go through the model at once."""

    inputs: ModelInputs
    masked_P: Tensor
    """Places in N that are predicted."""
    targets_P: Tensor
    """The ids that stood there."""
    labels_B: Tensor
    """0 where the second segment is the next one, 1 where it is not."""


@dataclass(frozen=True, kw_only=True)
class PretrainStepBatch:
    """One rank's part of a global batch; without microbatches where there are fewer rows than ranks."""

    microbatches: tuple[PretrainMicrobatch, ...]
    num_rows: int
    """Of the global batch."""
    num_tokens: int
    """Of the global batch, padding not counted."""
    num_masked: Tensor
    """Of the global batch; on the device, where nothing waits for it."""
    token_ids_T: None = None
    """Any row of the word table may be touched: by a random replacement, or by the decoder that it is."""


class PretrainFeed:
    """A corpus, as one rank's share of each batch."""

    def __init__(
        self,
        corpus: Corpus,
        *,
        pairing: Pairing,
        masker: Masker,
        vocabulary: Vocabulary,
        seed: int,
        max_tokens: int,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """seed: of pairs, masks and dropout."""
        self.corpus = corpus
        self._pairing, self._masker, self._vocabulary = pairing, masker, vocabulary
        self._seed, self._max_tokens = seed, max_tokens
        self._ranks, self._device = ranks, device

    def step_batch(
        self, step: int, *, batch_size: int, at_least: int = 1, most: int | None = None
    ) -> PretrainStepBatch:
        """Build this rank's part of a global batch, as `at_least` microbatches or more.

        most: use only so many of its examples.
        """
        epoch, parts = self.corpus.parts(step, batch_size=batch_size)
        examples = draw_examples(self._pairing, parts, seed=self._seed, epoch=epoch)
        rows = np.arange(len(examples.lengths_B))[:most]
        lengths = examples.lengths_B[rows]
        own = rows[share_of_rank(lengths, rank=self._ranks.rank, world_size=self._ranks.world_size)]
        microbatches = tuple(self._microbatches(examples, own, step=step, at_least=at_least))
        num_masked = torch.tensor(float(sum(len(m.masked_P) for m in microbatches)), device=self._device)
        self._ranks.add_up(num_masked)
        return PretrainStepBatch(
            microbatches=microbatches,
            num_rows=len(rows),
            num_tokens=int(lengths.sum()),
            num_masked=num_masked,
        )

    def _microbatches(
        self, examples: Examples, rows: Ints, *, step: int, at_least: int
    ) -> Iterator[PretrainMicrobatch]:
        lengths = examples.lengths_B[rows]
        for part in split_microbatches(lengths, max_tokens=self._max_tokens, at_least=at_least):
            batch = collate_pretraining(examples, rows[part], masker=self._masker, specials=self._vocabulary)
            keys_B = row_keys(torch.from_numpy(batch.indices_B), seed=self._seed, step=step)
            yield PretrainMicrobatch(
                inputs=inputs_of(batch, row_keys_B=keys_B).to(self._device),
                masked_P=self._on_device(batch.masked_P),
                targets_P=self._on_device(batch.targets_P),
                labels_B=self._on_device(batch.labels_B),
            )

    def _on_device(self, values: Ints) -> Tensor:
        return torch.from_numpy(values).to(self._device, non_blocking=True)
