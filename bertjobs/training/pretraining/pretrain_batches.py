"""Load one rank's share of each pretraining batch from the blocks of an encoded corpus, on the host.

Examples, pairs and masks are functions of (seed, epoch, number of the example), on whichever rank.
Only the blocks around the current step are in memory. Where blocks are stored is not known here.

Shape suffixes: N: tokens of a microbatch. B: its rows. P: its masked positions.
V: vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bertjobs.modeling.cpu.dropout import row_keys
from bertjobs.modeling.inputs import ModelInputs
from bertjobs.text.batching import share_of_rank, split_microbatches
from bertjobs.text.corpus.blocks import Block, BlockInfo, group_small_blocks
from bertjobs.text.corpus.order import CorpusOrder
from bertjobs.text.pretraining.collate import Examples, collate_pretraining, draw_examples
from bertjobs.text.pretraining.masking import Masker
from bertjobs.text.pretraining.pairing import BlockSelection, Pairing
from bertjobs.text.ragged import Int64s
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.training.batches import inputs_of
from bertjobs.training.distributed import Ranks


class BlockSource(Protocol):
    """Read encoded blocks, the same on all ranks. `runs` implements it over files that all nodes can read."""

    @property
    def infos(self) -> Sequence[BlockInfo]: ...

    def get(self, number: int) -> Block:
        """Return a block by its index in `infos`."""


class Corpus:
    """The examples of a corpus in the order of training, from blocks of two documents or more."""

    def __init__(
        self,
        source: BlockSource,
        *,
        pairing: Pairing,
        ranks: Ranks,
        seed: int,
        shuffle_blocks: int,
        vocab_size: int,
    ) -> None:
        """Read every block once, each rank its share of them, to count examples and wordpieces.

        Raises: DataError: no example can be made.
        """
        pairing.check(source.infos)
        self._source, self._pairing = source, pairing
        # A random second segment comes from another document of the block, so each needs two.
        self._members = group_small_blocks(source.infos)
        self._loaded: dict[int, Block] = {}
        num_examples, self._word_counts_V = self._count(ranks, vocab_size=vocab_size)
        self._order = CorpusOrder(num_examples, seed=seed, shuffle_blocks=shuffle_blocks)

    @property
    def num_examples(self) -> int:
        return self._order.num_examples

    @property
    def num_tokens(self) -> int:
        """Tokens of the text, special tokens and repetitions not counted."""
        return sum(info.num_tokens for info in self._source.infos)

    def parts(self, step: int, *, batch_size: int) -> tuple[int, list[BlockSelection]]:
        """Return the epoch of a step, and its examples block by block."""
        epoch, batch = self._order.batch(step, batch_size)
        # Keep the blocks that this step and those around it draw from. Others are freed, or the whole corpus
        # would end up in memory.
        around = set(self._order.blocks_around(step, batch_size))
        self._loaded = {number: block for number, block in self._loaded.items() if number in around}
        return epoch, [
            # `first` numbers the examples in the whole corpus: pairs and masks are hashes of that number.
            BlockSelection(block=self._block(number), indices=indices, first=self._order.first_of(number))
            for number, indices in batch
        ]

    def log_frequencies(self) -> torch.Tensor:
        """Return the log of each wordpiece's frequency (V); each count is one higher, so that none is 0."""
        counts_V = self._word_counts_V + 1.0
        return torch.log(counts_V / counts_V.sum())

    def _block(self, number: int) -> Block:
        if number not in self._loaded:
            self._loaded[number] = self._read(number)
        return self._loaded[number]

    def _read(self, number: int) -> Block:
        return Block.join([self._source.get(member) for member in self._members[number]])

    def _count(self, ranks: Ranks, *, vocab_size: int) -> tuple[list[int], torch.Tensor]:
        """Return the number of examples of each block, and of occurrences of each wordpiece in all blocks."""
        # Every rank reads a share of the blocks; the sum over the ranks gives all of them the whole counts.
        num_examples = torch.zeros(len(self._members), dtype=torch.int64)
        word_counts_V = torch.zeros(vocab_size, dtype=torch.int64)
        # Each rank fills every world_size-th entry; the sums below add the others' to its zeros.
        for number in range(ranks.rank, len(self._members), ranks.world_size):
            block = self._read(number)
            num_examples[number] = self._pairing.num_examples(block)
            word_counts_V += torch.from_numpy(np.bincount(block.ids, minlength=vocab_size))
        ranks.all_reduce_on_host(num_examples)
        ranks.all_reduce_on_host(word_counts_V)
        return num_examples.tolist(), word_counts_V


@dataclass(frozen=True, kw_only=True)
class PretrainMicrobatch:
    """Rows that go through the model together."""

    inputs: ModelInputs
    masked_P: Tensor
    """Indices in N that are predicted."""
    targets_P: Tensor
    """The original ids at these positions."""
    labels_B: Tensor
    """0 where the second segment is the next one, 1 where it is not."""


@dataclass(frozen=True, kw_only=True)
class PretrainStepBatch:
    """One rank's share of a global batch; without microbatches where there are fewer rows than ranks."""

    microbatches: tuple[PretrainMicrobatch, ...]
    num_rows: int
    """Of the global batch."""
    num_tokens: int
    """Of the global batch, padding not counted."""
    num_masked: Tensor
    """Of this rank's share until `sum_counts`, then of the global batch; where the other tensors are, so that
    the host does not wait for it."""
    token_ids_T: None = None
    """Any row of the word table may get a gradient: from a random replacement, or from the tied decoder."""

    def sum_counts(self, ranks: Ranks) -> None:
        """Sum over the ranks what the losses are divided by, before the forward pass; a collective operation.

        Each microbatch divides its loss by the global number, so that gradients add up to that of the mean.
        """
        ranks.all_reduce(self.num_masked)


class PretrainBatchLoader:
    """Load one rank's share of each global batch from a corpus."""

    def __init__(
        self,
        corpus: Corpus,
        *,
        pairing: Pairing,
        masker: Masker,
        tokenizer: Tokenizer,
        seed: int,
        max_tokens: int,
        ranks: Ranks,
    ) -> None:
        """Use `seed` for pairs, masks and dropout."""
        self.corpus = corpus
        self._pairing, self._masker, self._tokenizer = pairing, masker, tokenizer
        self._seed, self._max_tokens = seed, max_tokens
        self._ranks = ranks

    def step_batch(
        self, step: int, *, batch_size: int, min_microbatches: int = 1, max_examples: int | None = None
    ) -> PretrainStepBatch:
        """Build this rank's part of a global batch, in at least `min_microbatches` microbatches.

        max_examples: use only the first examples of it.
        """
        epoch, parts = self.corpus.parts(step, batch_size=batch_size)
        # Each rank draws all examples of the global batch: it needs their lengths to find its share. Only
        # its own are collated and masked.
        examples = draw_examples(self._pairing, parts, seed=self._seed, epoch=epoch)
        rows = np.arange(len(examples.lengths_B))[:max_examples]
        lengths = examples.lengths_B[rows]
        own = rows[share_of_rank(lengths, rank=self._ranks.rank, world_size=self._ranks.world_size)]
        microbatches = tuple(self._microbatches(examples, own, step=step, min_microbatches=min_microbatches))
        num_masked = torch.tensor(float(sum(len(m.masked_P) for m in microbatches)))
        return PretrainStepBatch(
            microbatches=microbatches,
            num_rows=len(rows),
            num_tokens=int(lengths.sum()),
            num_masked=num_masked,
        )

    def _microbatches(
        self, examples: Examples, rows: Int64s, *, step: int, min_microbatches: int
    ) -> Iterator[PretrainMicrobatch]:
        lengths = examples.lengths_B[rows]
        for part in split_microbatches(
            lengths, max_tokens=self._max_tokens, min_microbatches=min_microbatches
        ):
            batch = collate_pretraining(examples, rows[part], masker=self._masker, tokenizer=self._tokenizer)
            # Keyed by number in the corpus: dropout does not depend on the rank or the microbatch.
            keys_B = row_keys(torch.from_numpy(batch.indices_B), seed=self._seed, step=step)
            yield PretrainMicrobatch(
                inputs=inputs_of(batch, row_keys_B=keys_B),
                masked_P=torch.from_numpy(batch.masked_P),
                targets_P=torch.from_numpy(batch.targets_P),
                labels_B=torch.from_numpy(batch.labels_B),
            )
