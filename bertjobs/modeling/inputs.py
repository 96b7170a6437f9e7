"""Hold a batch as the encoder's input, and lay out its tokens for grouped or for packed attention.

Shape suffixes: N: tokens, padding included. B: rows. L: a group's padded length. K: rows of a group, or
tokens that are selected. D: hidden size.

A batch is cut into groups of rows of near-equal length. Callers give tokens row after row: the token at
position l of row r of a group lies at `start + r * L + l`. Inside the encoder a group lies position after
position, at `start + l * K + r`: row and head are then one batch dimension with one stride, so that queries,
keys and values of all heads are views of the linear layers' outputs and attention copies none of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

ON_HOST = "on_host"
"""In the metadata of a batch's field: the host reads it, so it does not move to the device."""


class PaddedGroup(NamedTuple):
    """Rows that follow one another in a batch and are padded to one length."""

    start: int
    """Index in N of the group's first token."""
    num_rows: int
    length: int


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """A batch with little padding, row after row; the rows of B are in the order of the groups."""

    ids_N: Tensor
    segments_N: Tensor
    positions_N: Tensor
    groups: Sequence[PaddedGroup]
    lengths_B: Tensor = field(metadata={ON_HOST: True})
    """Lengths without padding; on the CPU, so that the layout is decided without waiting for a device."""
    starts_B: Tensor
    """Index in N of each row's first token."""
    row_keys_B: Tensor | None = None
    """int64; the dropout masks of a row are a function of it. Needed while training with dropout."""

    def to(self, device: torch.device) -> "ModelInputs":
        """Return the batch with its tensors on a device."""
        # Without `lengths_B`: to read lengths on a device the host would have to wait for it.
        return replace(
            self,
            ids_N=self.ids_N.to(device, non_blocking=True),
            segments_N=self.segments_N.to(device, non_blocking=True),
            positions_N=self.positions_N.to(device, non_blocking=True),
            starts_B=self.starts_B.to(device, non_blocking=True),
            row_keys_B=None if self.row_keys_B is None else self.row_keys_B.to(device, non_blocking=True),
        )


def pad_rows(
    rows: Sequence[Sequence[int]],
    *,
    segments: Sequence[Sequence[int]],
    pad_id: int,
    row_keys_B: Tensor | None = None,
) -> ModelInputs:
    """Build one padded group from rows of ids: the plain form, for a few rows and for tests."""
    length = max(len(row) for row in rows)
    ids_BL = torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows])
    segments_BL = torch.tensor([[*row, *[0] * (length - len(row))] for row in segments])
    return ModelInputs(
        ids_N=ids_BL.flatten(),
        segments_N=segments_BL.flatten(),
        positions_N=torch.arange(length).repeat(len(rows)),
        groups=(PaddedGroup(0, len(rows), length),),
        lengths_B=torch.tensor([len(row) for row in rows]),
        starts_B=torch.arange(len(rows)) * length,
        row_keys_B=row_keys_B,
    )


class GroupedLayout:
    """Grouped attention: tokens are kept position after position inside each group of equal padded length."""

    def __init__(self, inputs: ModelInputs, *, num_heads: int) -> None:
        device = inputs.ids_N.device
        self.groups = tuple(_lay_out(inputs, num_heads=num_heads))
        """In the order of the batch, each with the bias that hides its padding."""
        # In a tensor of first tokens (B, D) the group's K rows begin at its first row.
        self.first_tokens = tuple(group._replace(start=group.first_row, length=1) for group in self.groups)
        """The same groups over B: what a layer that computes first tokens only queries with."""
        # From (rows, positions), as the caller has them, to (positions, rows).
        order = [
            torch.arange(g.start, g.start + g.num_rows * g.length).view(g.num_rows, g.length).t().flatten()
            for g in self.groups
        ]
        # The K rows in turn, once per position.
        rows = [torch.arange(g.first_row, g.first_row + g.num_rows).repeat(g.length) for g in self.groups]
        # Position after position: the first K tokens of a group are its rows' [CLS].
        cls = [torch.arange(g.start, g.start + g.num_rows) for g in self.groups]
        self.order_N = torch.cat(order).to(device)
        """The caller's index of the encoder's n-th token."""
        self.rows_N = torch.cat(rows).to(device)
        """The row of B of each token."""
        self.cls_B = torch.cat(cls).to(device)
        """The encoder's index of each row's first token."""

    def restore(self, hidden_ND: Tensor) -> Tensor:
        """Return hidden states in the caller's order."""
        # order_N is a permutation of all N, so every row of the empty tensor is written.
        return torch.empty_like(hidden_ND).index_copy(0, self.order_N, hidden_ND)

    def find(self, places_K: Tensor) -> Tensor:
        """Return the encoder's indices of the caller's tokens."""
        return _inverse(self.order_N, size=len(self.order_N))[places_K]


class AttentionGroup(NamedTuple):
    """A group with what attention over it needs."""

    start: int
    """Index in N, in the encoder's order as in the caller's."""
    first_row: int
    """Index in B."""
    num_rows: int
    length: int
    key_bias: Tensor | None
    """(K * heads, 1, L), -inf at padding keys; None where there is no padding."""


def _lay_out(inputs: ModelInputs, *, num_heads: int) -> Iterator[AttentionGroup]:
    first_row = 0
    lengths_B = inputs.lengths_B.cpu()
    for group in inputs.groups:
        lengths_K = lengths_B[first_row : first_row + group.num_rows]
        is_padding_KL = torch.arange(group.length) >= lengths_K[:, None]
        key_bias = None
        if is_padding_KL.any():  # most groups have none: their attention adds no bias
            bias_KL = torch.zeros(is_padding_KL.shape).masked_fill_(is_padding_KL, float("-inf"))
            # (K, L) -> (K * heads, 1, L): head innermost, as in `kernels._heads`; alike for each query.
            key_bias = bias_KL.repeat_interleave(num_heads, dim=0)[:, None].to(inputs.ids_N.device)
        yield AttentionGroup(group.start, first_row, group.num_rows, group.length, key_bias)
        first_row += group.num_rows


class PackedLayout:
    """Packed attention: no padding, row after row, for kernels that take cumulative lengths."""

    def __init__(self, inputs: ModelInputs) -> None:
        device = inputs.ids_N.device
        lengths_B = inputs.lengths_B.cpu()
        ends_B = lengths_B.cumsum(0)
        self.num_tokens_padded = inputs.ids_N.shape[0]
        self.max_len = int(lengths_B.max())
        self.rows_N = torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B).to(device)
        self.cls_B = (ends_B - lengths_B).to(device)
        self.cumulative = torch.cat([torch.zeros(1, dtype=torch.int64), ends_B]).to(device, torch.int32)
        """(B + 1): the index of each row's first token, and the number of tokens."""
        self.first_cumulative = torch.arange(len(lengths_B) + 1, device=device, dtype=torch.int32)
        """The same for first tokens only."""
        # A token's position in its row; the caller's place is the padded row's start plus it.
        offsets_N = torch.arange(int(ends_B[-1]), device=device) - self.cls_B[self.rows_N]
        self.order_N = inputs.starts_B[self.rows_N] + offsets_N

    def restore(self, hidden_ND: Tensor) -> Tensor:
        """Return hidden states in the caller's order, zero at padding."""
        padded = hidden_ND.new_zeros(self.num_tokens_padded, hidden_ND.shape[1])
        return padded.index_copy(0, self.order_N, hidden_ND)

    def find(self, places_K: Tensor) -> Tensor:
        """Return the encoder's indices of the caller's tokens, none of which is padding."""
        return _inverse(self.order_N, size=self.num_tokens_padded)[places_K]


def _inverse(order_N: Tensor, *, size: int) -> Tensor:
    """Return the inverse of a permutation: the place of each of `size` tokens in `order_N`."""
    inverse = torch.empty(size, dtype=torch.int64, device=order_N.device)
    # Padding of a packed batch has no place in the encoder: its entries stay unset, and nobody reads them.
    inverse[order_N] = torch.arange(len(order_N), device=order_N.device)
    return inverse


AttentionLayout = GroupedLayout | PackedLayout
