"""Lay a batch out for bf16: tokens stay packed, and attention gathers them into a few groups of fixed sizes.

In bf16 oneDNN makes a primitive for each shape that it has not multiplied yet, which takes as long as a small
product itself. `GroupedLayout` has other shapes in every step. Here few occur, and all are soon in the cache:

    linear layers       the tokens of all rows, rounded up to a multiple of 32
    attention           groups of equally many rows, padded to a multiple of 8, of long rows to more

The last of the linear layers' tokens is always padding. Nothing reads it, so its gradient is zero: what pads
a group is a copy of it.

Shape suffixes: N: tokens, rounded up. B: rows. K: rows of a group, or tokens that are selected. L: a group's
padded length. H: heads. M: padded places of all groups, heads included. S: what a token has of each head
(query, key and value, or some of them).
"""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from bertjobs.modeling.inputs import ModelInputs

_TOKENS = 32
"""What token counts are rounded up to."""
_FEWEST_ROWS, _MOST_GROUPS = 8, 8
"""Rows of a group at least, and groups of a batch at most."""


class PackedGroup(NamedTuple):
    """Consecutive rows that attention pads together."""

    first_row: int
    """Index in B."""
    num_rows: int
    length: int


class PackedLayout:
    """The places of a batch's tokens in the linear layers, and in attention's groups."""

    def __init__(self, inputs: ModelInputs, *, num_heads: int, max_length: int) -> None:
        """max_length: that dropout masks of attention are made for."""
        self.num_heads = num_heads
        self.groups = _groups_of(inputs.lengths_B, max_length=max_length)
        self._lengths_B, self._starts_B = inputs.lengths_B, inputs.starts_B
        self._num_tokens = len(inputs.ids_N)
        num_padded = _round_up(self._num_tokens + 1, _TOKENS)
        # Padding repeats the last token.
        self.order_N = torch.arange(num_padded).clamp_(max=self._num_tokens - 1)
        """The caller's index of each token."""
        rows = torch.arange(len(inputs.lengths_B)).repeat_interleave(inputs.lengths_B)
        self.rows_N = rows[self.order_N]
        """The row of B of each token."""
        self.cls_B = inputs.starts_B
        """The index of each row's first token."""

    def restore(self, hidden_ND: Tensor) -> Tensor:
        """Return hidden states without padding."""
        return hidden_ND[: self._num_tokens]

    def find(self, places_K: Tensor) -> Tensor:
        """Return the encoder's indices of the caller's tokens: the same."""
        return places_K

    @cached_property
    def heads_M(self) -> Tensor:
        """Of each place of the groups the index in (N * H), where heads are innermost.

        Places are in the order (K, H, L) group after group.
        """
        num_places_B = self._padded_lengths_B * self.num_heads
        rows_M = torch.arange(len(num_places_B)).repeat_interleave(num_places_B)
        within_M = torch.arange(len(rows_M)) - self._first_places_B[rows_M]
        lengths_M = self._padded_lengths_B[rows_M]
        head_M = within_M // lengths_M
        position_M = within_M - head_M * lengths_M
        tokens_M = torch.where(
            position_M < self._lengths_B[rows_M],
            self._starts_B[rows_M] + position_M,
            len(self.order_N) - 1,  # the last token is padding
        )
        return tokens_M * self.num_heads + head_M

    @cached_property
    def places_NH(self) -> Tensor:
        """Of each token and head the index in M; of padding the number of places, which is behind them."""
        within_N = self.order_N - self._starts_B[self.rows_N]
        first_N = self._first_places_B[self.rows_N] + within_N
        places_NH = (
            first_N[:, None] + torch.arange(self.num_heads) * self._padded_lengths_B[self.rows_N, None]
        )
        places_NH[self._num_tokens :] = len(self.heads_M)
        return places_NH

    def gather_index(self, num_parts: int) -> Tensor:
        """Return, for (N, S, H) vectors side by side, which of them fill the places (S * M)."""
        return self._gather_indices[num_parts - 1]

    def scatter_index(self, num_parts: int) -> Tensor:
        """Return which of the places (S * M), and of one zero behind them, make the vectors (N, S, H)."""
        return self._scatter_indices[num_parts - 1]

    @cached_property
    def context_index(self) -> Tensor:
        """The same for one part, where padding may take any vector."""
        return self.places_NH.clamp(max=len(self.heads_M) - 1).flatten()

    @cached_property
    def key_bias(self) -> Tensor:
        """What is added to the scores of all groups, (K, H, queries, keys) flat: -inf at padding keys."""
        return torch.cat(
            [bias.expand(-1, self.num_heads, bias.shape[-1], -1).flatten() for bias in self._biases]
        )

    @cached_property
    def first_key_bias(self) -> Tensor:
        """The same where there are queries of first tokens only: (K, H, 1, keys)."""
        return torch.cat([bias.expand(-1, self.num_heads, 1, -1).flatten() for bias in self._biases])

    @cached_property
    def _biases(self) -> list[Tensor]:
        biases = []
        for first_row, num_rows, length in self.groups:
            lengths_K = self._lengths_B[first_row : first_row + num_rows]
            is_padding_KL = torch.arange(length) >= lengths_K[:, None]
            bias_KL = torch.zeros(is_padding_KL.shape).masked_fill_(is_padding_KL, float("-inf"))
            biases.append(bias_KL[:, None, None])
        return biases

    @cached_property
    def _padded_lengths_B(self) -> Tensor:
        sizes = torch.tensor([group.num_rows for group in self.groups])
        return torch.tensor([group.length for group in self.groups]).repeat_interleave(sizes)

    @cached_property
    def _first_places_B(self) -> Tensor:
        num_places_B = self._padded_lengths_B * self.num_heads
        return num_places_B.cumsum(0) - num_places_B

    @cached_property
    def _gather_indices(self) -> tuple[Tensor, ...]:
        tokens_M, head_M = self.heads_M // self.num_heads, self.heads_M % self.num_heads
        found = [self.heads_M]
        for num_parts in (2, 3):
            parts = [(tokens_M * num_parts + s) * self.num_heads + head_M for s in range(num_parts)]
            found.append(torch.cat(parts))
        return tuple(found)

    @cached_property
    def _scatter_indices(self) -> tuple[Tensor, ...]:
        num_places, found = len(self.heads_M), [self.places_NH.flatten()]
        for num_parts in (2, 3):
            offsets_S1 = torch.arange(num_parts)[:, None] * num_places
            places_NSH = self.places_NH[:, None] + offsets_S1
            places_NSH[self._num_tokens :] = num_parts * num_places
            found.append(places_NSH.flatten())
        return tuple(found)


def _groups_of(lengths_B: Tensor, *, max_length: int) -> tuple[PackedGroup, ...]:
    """Cut rows into groups of equally many: the last one may be smaller."""
    lengths, num_rows = lengths_B.tolist(), max(_FEWEST_ROWS, -(-len(lengths_B) // _MOST_GROUPS))
    groups = []
    for first in range(0, len(lengths), num_rows):
        part = lengths[first : first + num_rows]
        longest = max(part)
        # An eighth of the length at most is padding, and up to 512 tokens there are 24 lengths.
        rounded = _round_up(longest, 8 if longest <= 64 else 16 if longest <= 128 else 32)
        length = max(min(rounded, max_length), longest)
        groups.append(PackedGroup(first, len(part), length))
    return tuple(groups)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
