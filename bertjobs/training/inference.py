"""Compute text vectors, token vectors, and predictions of masked words with a trained model. No gradients.

Rows are sorted by length, so that batches have nearly no padding.

Shape suffixes: N: tokens of a microbatch. B: rows of a microbatch. L: tokens of a row. D: hidden size.
R: rows of the table. P: masks of a text. V: vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertjobs.config.encode import Pooling
from bertjobs.config.sections import Precision, TextSection
from bertjobs.errors import ModelError
from bertjobs.modeling.bert import BertModel
from bertjobs.modeling.build import build_pretraining
from bertjobs.modeling.config import LoadedModel
from bertjobs.modeling.cpu import accelerate
from bertjobs.modeling.heads import BertForPreTraining
from bertjobs.modeling.inputs import ModelInputs, pack_rows
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.training.batches import BatchLoader, Microbatch
from bertjobs.training.device_feed import from_device, on_device
from bertjobs.training.distributed import current_ranks
from bertjobs.training.precision import autocast, inference_dtype

Floats = npt.NDArray[np.float32]

MAX_MICROBATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Most tokens per microbatch, whatever the batch size: as many as fit the caches, or keep a GPU busy."""


class TextEmbedder:
    """Compute the vectors of texts with an encoder, given the truncation and the pooling.

    Source: Reimers and Gurevych 2019 (Sentence-BERT), section 3, for the pooling over tokens or by [CLS].
    """

    def __init__(
        self,
        encoder: BertModel,
        *,
        text: TextSection,
        tokenizer: Tokenizer,
        pooling: Pooling,
        batch_size: int,
        precision: Precision = "auto",
    ) -> None:
        """Use the encoder on its device. batch_size: most texts per batch."""
        self._encoder = accelerate(encoder).eval()
        self._text = text
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._batch_size = batch_size
        self._device = next(encoder.parameters()).device
        self._dtype = inference_dtype(precision, self._device)

    @property
    def dim(self) -> int:
        """The length of a vector: D."""
        return self._encoder.config.hidden_size

    def lengths(self, table: EncodedTable) -> npt.NDArray[np.int64]:
        """Return the rows' lengths (R) after truncation, special tokens included."""
        return self._loader(table).lengths

    def vectors(self, table: EncodedTable) -> Floats:
        """Return a vector for each row (R, D)."""
        vectors_RD = np.empty((table.num_rows, self.dim), dtype=np.float32)
        with torch.inference_mode(), self._autocast():
            pooled = (
                (microbatch.rows_B, self._pooled(microbatch.inputs).float())
                for microbatch in on_device(self._microbatches(table), self._device)
            )
            for rows_B, vectors_BD in from_device(pooled):
                vectors_RD[rows_B] = vectors_BD
        return vectors_RD

    def tokens(self, table: EncodedTable) -> Iterator[tuple[int, list[int], Floats]]:
        """Yield each row's number, token ids (L) and last hidden states (L, D); the longest rows first."""
        with torch.inference_mode(), self._autocast():
            # As arrays, the ids and the places of the rows stay on the host.
            made = (
                (microbatch, microbatch.inputs.ids_N.numpy(), microbatch.inputs.starts_B.numpy())
                for microbatch in self._microbatches(table)
            )
            encoded = (
                ((microbatch, ids_N, starts_B), self._encoder(microbatch.inputs).float())
                for microbatch, ids_N, starts_B in on_device(made, self._device)
            )
            for (microbatch, ids_N, starts_B), hidden_ND in from_device(encoded):
                for row, start, length in zip(
                    microbatch.rows_B, starts_B, microbatch.inputs.lengths_B.numpy(), strict=True
                ):
                    place = slice(start, start + length)
                    yield int(row), ids_N[place].tolist(), hidden_ND[place]

    def _microbatches(self, table: EncodedTable) -> Iterator[Microbatch]:
        return self._loader(table).longest_first(batch_size=self._batch_size)

    def _loader(self, table: EncodedTable) -> BatchLoader:
        return BatchLoader(
            table,
            text=self._text,
            tokenizer=self._tokenizer,
            max_tokens=MAX_MICROBATCH_TOKENS[self._device.type],
            ranks=current_ranks(),
            vocab_size=self._encoder.config.vocab_size,
        )

    def _pooled(self, inputs: ModelInputs) -> Tensor:
        """Return the vector of each row (B, D)."""
        if self._pooling == "cls":
            return self._encoder.first_tokens(inputs)
        hidden_ND = self._encoder(inputs)
        lengths_B = inputs.offsets.diff()
        # `output_size` spares a wait for the device, which knows the lengths.
        rows_N = torch.arange(len(lengths_B), device=self._device).repeat_interleave(
            lengths_B, output_size=len(hidden_ND)
        )
        sums_BD = hidden_ND.new_zeros(len(lengths_B), hidden_ND.shape[1], dtype=torch.float32)
        sums_BD.index_add_(0, rows_N, hidden_ND.float())
        return sums_BD / lengths_B[:, None]

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self._device, self._dtype)


_MLM_HEAD = "cls.predictions."


def build_masked_language_model(loaded: LoadedModel) -> BertForPreTraining:
    """Build the model with its trained masked-language-model head.

    Raises: ModelError: the checkpoint has no such head.
    """
    model = build_pretraining(loaded, seed=0).eval()
    head = [name for name, _ in model.named_parameters() if name.startswith(_MLM_HEAD)]
    missing = [name for name in head if name not in loaded.state_dict]
    if missing:
        raise ModelError(
            f"--model {loaded.source} cannot fill masks: it has no masked-language-model head ({missing[0]})",
            hint="Give a pretrained model; one that was fine-tuned has lost its head.",
        )
    return model


def mask_probabilities(model: BertForPreTraining, ids: Sequence[int], *, masks: Sequence[int]) -> Tensor:
    """Return the probability of each wordpiece at the positions `masks` of one text, (P, V)."""
    inputs = pack_rows([ids], segments=[[0] * len(ids)])
    device = next(accelerate(model).parameters()).device
    with torch.inference_mode():
        logits_PV, _ = model(inputs.to(device), masked_P=torch.tensor(masks, device=device))
        return logits_PV.float().softmax(dim=1).cpu()
