"""Packed rows as other models take them: padded, with a mask."""

import torch
from torch import Tensor

from bertjobs.modeling import ModelInputs


def padded_rows(inputs: ModelInputs) -> dict[str, Tensor]:
    """Return a packed batch as the arguments of a model of `transformers`, built row by row."""
    lengths = inputs.lengths_B.tolist()
    ids, segments = (
        torch.nn.utils.rnn.pad_sequence(list(x_N.split(lengths)), batch_first=True)
        for x_N in (inputs.ids_N, inputs.segments_N)
    )
    mask = torch.arange(ids.shape[1]) < inputs.lengths_B[:, None]
    return {"input_ids": ids, "token_type_ids": segments, "attention_mask": mask.long()}


def packed(x_BL: Tensor, inputs: ModelInputs) -> Tensor:
    """Return what a model computed for padded rows (B, L, ...) as packed tokens (N, ...)."""
    return torch.cat([row[:length] for row, length in zip(x_BL, inputs.lengths_B.tolist(), strict=True)])
