"""Hold a batch as the model's input: the tokens of all rows, packed one after another without padding.

    row 0             row 1                row 2
    [CLS] a b [SEP]   [CLS] c [SEP]        [CLS] d e f [SEP]       ids_N, segments_N, positions_N
    0                 4                    7                 12    offsets (B + 1)

Shape suffixes: N: tokens. B: rows. L: tokens of the longest row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

ON_HOST = "on_host"
"""In the metadata of a batch's field: the host reads it, so it does not move to the device."""


class RowGroup(NamedTuple):
    """Rows of near-equal length that follow one another in a batch."""

    num_rows: int
    length: int
    """Of the longest row."""


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """A packed batch, row after row."""

    ids_N: Tensor
    segments_N: Tensor
    positions_N: Tensor
    """Positions inside the rows, from 0."""
    offsets: Tensor
    """(B + 1), int32: the index in N of each row's first token, and at the end the number of tokens."""
    starts_B: Tensor
    """int64: the same without the end."""
    lengths_B: Tensor = field(metadata={ON_HOST: True})
    """On the CPU, so that nothing waits for a device to know them."""
    max_len: int
    """The length of the longest row."""
    groups: Sequence[RowGroup]
    """How the rows could be padded together, in the order of the batch; what is fast on CPUs does so."""
    row_keys_B: Tensor | None = None
    """int64: what a row's dropout masks follow from where they are keyed, as on CPUs; else not needed."""

    @cached_property
    def padded(self) -> "PaddedPlaces":
        """Where the tokens are when rows are padded to the longest one; found once per batch."""
        return padded_places(self)

    def to(self, device: torch.device) -> "ModelInputs":
        """Return the batch with its tensors on a device."""
        return replace(
            self,
            ids_N=self.ids_N.to(device, non_blocking=True),
            segments_N=self.segments_N.to(device, non_blocking=True),
            positions_N=self.positions_N.to(device, non_blocking=True),
            offsets=self.offsets.to(device, non_blocking=True),
            starts_B=self.starts_B.to(device, non_blocking=True),
            row_keys_B=None if self.row_keys_B is None else self.row_keys_B.to(device, non_blocking=True),
        )


class PaddedPlaces(NamedTuple):
    """Index arithmetic between packed and padded tokens."""

    token_BL: Tensor
    """The index in N of each padded place."""
    is_token_BL: Tensor
    """Whether the place holds a token; the others are padding."""
    place_N: Tensor
    """The index in the flattened (B, L) of each token."""


def padded_places(inputs: ModelInputs) -> PaddedPlaces:
    """Return where the tokens are when rows are padded to the longest one."""
    starts_B, L = inputs.starts_B, inputs.max_len
    lengths_B = inputs.offsets.diff().long()
    range_L = torch.arange(L, device=starts_B.device)
    # `output_size` spares a wait for the device, which knows the lengths.
    rows_N = torch.arange(len(starts_B), device=starts_B.device).repeat_interleave(
        lengths_B, output_size=len(inputs.ids_N)
    )
    within_N = torch.arange(len(inputs.ids_N), device=starts_B.device) - starts_B.index_select(0, rows_N)
    return PaddedPlaces(
        # Padding repeats the last token of its row: any finite number does, since nobody attends to it.
        token_BL=starts_B.unsqueeze(1) + torch.minimum(range_L, lengths_B.unsqueeze(1) - 1),
        is_token_BL=range_L < lengths_B.unsqueeze(1),
        place_N=rows_N * L + within_N,
    )


def offsets_of(lengths_B: Tensor) -> Tensor:
    """Return where rows of these lengths begin, and the end: (B + 1), int32, as attention kernels read it."""
    return torch.cat((lengths_B.new_zeros(1), lengths_B.cumsum(0))).to(torch.int32)


def pack_rows(
    rows: Sequence[Sequence[int]],
    *,
    segments: Sequence[Sequence[int]],
    row_keys_B: Tensor | None = None,
    group_sizes: Sequence[int] | None = None,
) -> ModelInputs:
    """Pack rows of ids: the plain form, for a few rows and for tests. Without sizes they are one group."""
    lengths_B = torch.tensor([len(row) for row in rows])
    offsets = offsets_of(lengths_B)
    return ModelInputs(
        ids_N=torch.tensor([token for row in rows for token in row]),
        segments_N=torch.tensor([segment for row in segments for segment in row]),
        positions_N=torch.cat([torch.arange(len(row)) for row in rows]),
        offsets=offsets,
        starts_B=offsets[:-1].long(),
        lengths_B=lengths_B,
        max_len=int(lengths_B.max()),
        groups=tuple(
            RowGroup(len(part), int(part.max())) for part in lengths_B.split(group_sizes or len(rows))
        ),
        row_keys_B=row_keys_B,
    )
