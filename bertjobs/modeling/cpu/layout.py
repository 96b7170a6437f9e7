"""Lay the tokens of a packed batch out in groups of rows padded to one length, for grouped attention.

Inside the encoder a group lies position after position: token l of row r of a group of K rows is at
`start + l * K + r`. Row and head are then one batch dimension with one stride, so that queries, keys and
values of all heads are views of the linear layers' outputs and attention copies none of them.

Padding repeats the last token of its row. Nobody attends to it, and it gets no gradient.

Shape suffixes: N: tokens of the encoder, padding included; of the caller, without. B: rows. L: a group's
padded length. K: rows of a group, or tokens that are selected. D: hidden size.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bertjobs.modeling.inputs import ModelInputs


class AttentionGroup(NamedTuple):
    """A group with what attention over it needs."""

    start: int
    """Index in N of the encoder."""
    first_row: int
    """Index in B."""
    num_rows: int
    length: int
    key_bias: Tensor | None
    """(K * heads, 1, L), -inf at padding keys; None where there is no padding."""


class GroupedLayout:
    """The places of a batch's tokens inside the encoder."""

    def __init__(self, inputs: ModelInputs, *, num_heads: int) -> None:
        self.groups = tuple(_lay_out(inputs, num_heads=num_heads))
        """In the order of the batch, each with the bias that hides its padding."""
        # In a tensor of first tokens (B, D) the group's K rows begin at its first row.
        self.first_tokens = tuple(group._replace(start=group.first_row, length=1) for group in self.groups)
        """The same groups over B: what a layer that computes first tokens only queries with."""
        self._inputs = inputs
        lengths_B, starts_B = inputs.lengths_B, inputs.starts_B
        order, rows, cls = [], [], []
        for g in self.groups:
            rows_K = torch.arange(g.first_row, g.first_row + g.num_rows)
            # (L, K): position after position; a position behind the row's end repeats its last token.
            within_LK = torch.minimum(torch.arange(g.length)[:, None], lengths_B[rows_K] - 1)
            order.append((starts_B[rows_K] + within_LK).flatten())
            rows.append(rows_K.repeat(g.length))
            # Position after position: the first K tokens of a group are its rows' [CLS].
            cls.append(torch.arange(g.start, g.start + g.num_rows))
        self.order_N = torch.cat(order)
        """The caller's index of the encoder's n-th token."""
        self.rows_N = torch.cat(rows)
        """The row of B of each token."""
        self.cls_B = torch.cat(cls)
        """The encoder's index of each row's first token."""
        sizes = torch.tensor([group.num_rows for group in self.groups])
        self._strides_B = sizes.repeat_interleave(sizes)

    def restore(self, hidden_ND: Tensor) -> Tensor:
        """Return hidden states in the caller's order, without padding."""
        return hidden_ND.index_select(0, self.find(torch.arange(len(self._inputs.ids_N))))

    def find(self, places_K: Tensor) -> Tensor:
        """Return the encoder's indices of the caller's tokens."""
        offsets = self._inputs.offsets[1:]
        rows_K = torch.searchsorted(offsets, places_K.to(offsets.dtype), right=True)
        within_K = places_K - self._inputs.starts_B[rows_K]
        # From a row's first token it is as many tokens to the next position as its group has rows.
        return self.cls_B[rows_K] + within_K * self._strides_B[rows_K]


def _lay_out(inputs: ModelInputs, *, num_heads: int) -> Iterator[AttentionGroup]:
    start = first_row = 0
    for num_rows, length in inputs.groups:
        lengths_K = inputs.lengths_B[first_row : first_row + num_rows]
        is_padding_KL = torch.arange(length) >= lengths_K[:, None]
        key_bias = None
        if is_padding_KL.any():  # most groups have none: their attention adds no bias
            bias_KL = torch.zeros(is_padding_KL.shape).masked_fill_(is_padding_KL, float("-inf"))
            # (K, L) -> (K * heads, 1, L): head innermost, as in `kernels._heads`; alike for each query.
            key_bias = bias_KL.repeat_interleave(num_heads, dim=0)[:, None]
        yield AttentionGroup(start, first_row, num_rows, length, key_bias)
        start, first_row = start + num_rows * length, first_row + num_rows
