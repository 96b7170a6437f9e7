"""Make dropout masks that are functions of (seed, step, example, position, site) and of nothing else.

Drawing a random number per element costs a sixth of a BERT step on a CPU, and ties the masks to the layout
of the batch. Here a pool of mask rows, already scaled by 1 / (1 - p), is drawn once per epoch. At each site
an example picks a row by a hash of its key, and its tokens take the rows from there on. Padded, packed, split
over workers or resumed, an example gets the same masks.

Shape suffixes: N: tokens. B: rows. K: tokens that are selected. D: hidden size. H: heads. R: rows of a pool.
W: their width. Of one group: L: length. G: rows * heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bertjobs.modeling.config import BertConfig

NUM_POOL_ROWS = 4096
"""A power of two: few enough to fit the cache, enough that two tokens rarely share one."""

_CLASSIFIER_SITE = 1 << 20
_ATTENTION_SITES = 1 << 21
"""Sites are numbered: hidden states from 0, the classifier and attention from here, so that none coincide."""

_NARROW = 32
"""Attention masks are gathered from copies of the pool cut to a multiple of this width, in fp32."""

# Odd 64-bit constants of splitmix64 (Steele et al. 2014), as signed integers: int64 products wrap as wanted.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64


def row_keys(rows_B: Tensor, *, seed: int, step: int) -> Tensor:
    """Return the dropout keys of table rows at a step: int64, a function of (seed, step, row) only."""
    # Seed and step are mixed before the row is added, or row r + 1 of a seed would equal row r of the next.
    key = _mix(torch.tensor(seed, dtype=torch.int64) * _GAMMA + step)
    return _mix(rows_B.to(torch.int64) * _GAMMA + key.to(rows_B.device))


class DropoutPool:
    """Scaled mask rows for one model and epoch; give it to `set_dropout`."""

    def __init__(
        self, config: BertConfig, *, seed: int, epoch: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        self.num_heads = config.num_attention_heads
        # Drawn on the CPU, so that a run has the same masks on every device.
        generator = torch.Generator().manual_seed(
            int(_mix(torch.tensor(seed) * _GAMMA + epoch)) & (2**63 - 1)
        )
        # A token at position l takes the l-th row after its example's first one: hence the extra rows.
        num_rows = NUM_POOL_ROWS + config.max_position_embeddings
        self._masks_RW: dict[str, Tensor] = {}
        for kind, rate, width in (
            ("hidden", config.hidden_dropout_prob, config.hidden_size),
            ("attention", config.attention_probs_dropout_prob, config.max_position_embeddings),
            ("classifier", config.head_dropout, config.hidden_size),
        ):
            if rate > 0:
                # Drawn on the CPU, whatever the device: all ranks and devices get the same masks.
                kept_RW = torch.rand(num_rows, width, generator=generator) >= rate
                self._masks_RW[kind] = (kept_RW / (1 - rate)).to(device)
        self._copies: dict[tuple[str, int, torch.dtype], Tensor] = {}

    def is_active(self, kind: str) -> bool:
        """Return whether this kind of dropout has a rate above 0."""
        return kind in self._masks_RW

    def rows(self, kind: str, *, width: int, dtype: torch.dtype, multiple: int = _NARROW) -> Tensor:
        """Return all mask rows, cut to the width or a few columns more, in the dtype that they multiply."""
        masks_RW = self._masks_RW[kind]
        # Rounded up, so that batches of all lengths share a few copies.
        width = min(-(-width // multiple) * multiple, masks_RW.shape[1])
        # Cut and cast once: the copies are reused by all steps of the pool.
        key = (kind, width, dtype)
        if key not in self._copies:
            self._copies[key] = masks_RW[:, :width].to(dtype).contiguous()
        return self._copies[key]


@dataclass(frozen=True)
class HiddenMask:
    """The mask of one site over hidden states, as rows of a pool: gathered where it is used, and again in the
    backward pass."""

    pool: DropoutPool
    kind: str
    rows_N: Tensor

    def of(self, x_ND: Tensor) -> Tensor:
        """Return the mask, in x's dtype."""
        return self.pool.rows(self.kind, width=x_ND.shape[1], dtype=x_ND.dtype).index_select(0, self.rows_N)


@dataclass(frozen=True)
class AttentionMask:
    """The mask of a layer's attention probabilities: query l of an example and head takes row `first + l`."""

    pool: DropoutPool
    first_BH: Tensor

    def of(self, probs_GLL: Tensor, *, first_row: int) -> Tensor:
        """Return the mask of a group's probabilities, (rows x heads, queries, keys)."""
        G, num_queries, num_keys = probs_GLL.shape
        rows_RW = self.pool.rows("attention", width=num_keys, dtype=probs_GLL.dtype)
        windows, first_G = self._windows(rows_RW, num_queries=num_queries, first_row=first_row, num_masks=G)
        return windows.index_select(0, first_G).view(G, num_queries, -1)[:, :, :num_keys]

    def fill(self, mask_GLL: Tensor, *, first_row: int) -> None:
        """Write the same mask to a tensor without gaps; fast for the lengths that packed groups have."""
        G, num_queries, num_keys = mask_GLL.shape
        rows_RW = self.pool.rows("attention", width=num_keys, dtype=mask_GLL.dtype, multiple=1)
        windows, first_G = self._windows(rows_RW, num_queries=num_queries, first_row=first_row, num_masks=G)
        torch.index_select(windows, 0, first_G, out=mask_GLL.view(G, -1))

    def _windows(
        self, rows_RW: Tensor, *, num_queries: int, first_row: int, num_masks: int
    ) -> tuple[Tensor, Tensor]:
        """Return the masks that begin at each row of the pool, and which of them a group takes."""
        width = rows_RW.shape[1]
        # Overlapping windows (NUM_POOL_ROWS, Lq * width), as a view of the pool. The pool has
        # max_position_embeddings more rows than windows, so the last one ends inside it.
        # Neighbouring rows as one: a gather of G long pieces rather than of G * L short ones.
        windows = rows_RW.as_strided((NUM_POOL_ROWS, num_queries * width), (width, 1))
        # Row outermost, head innermost: the order of G.
        num_rows = num_masks // self.pool.num_heads
        return windows, self.first_BH[first_row : first_row + num_rows].flatten()


class TokenMasks:
    """The masks of one forward pass, for rows with these keys and for tokens of these rows and positions."""

    def __init__(self, pool: DropoutPool, *, row_keys_B: Tensor, rows_N: Tensor, positions_N: Tensor) -> None:
        self._pool = pool
        self._keys_B = row_keys_B
        self._rows_N = rows_N
        self._positions_N = positions_N

    @property
    def num_rows(self) -> int:
        return len(self._keys_B)

    def at(self, tokens_K: Tensor) -> "TokenMasks":
        """Return the masks of some of the tokens."""
        return TokenMasks(
            self._pool,
            row_keys_B=self._keys_B,
            rows_N=self._rows_N[tokens_K],
            positions_N=self._positions_N[tokens_K],
        )

    def hidden(self, site: int, *, first_only: bool = False) -> HiddenMask | None:
        """Return the mask of the embeddings (site 0) or of a residual branch (from 1)."""
        return self._of_tokens("hidden", site, first_only=first_only)

    def classifier(self) -> HiddenMask | None:
        """Return the mask before the classifier, of first tokens."""
        return self._of_tokens("classifier", _CLASSIFIER_SITE, first_only=True)

    def attention(self, layer: int) -> AttentionMask | None:
        """Return the mask of a layer's attention probabilities."""
        if not self._pool.is_active("attention"):
            return None
        num_heads = self._pool.num_heads
        # A site of its own for each head: heads of one example do not share masks.
        sites_H = torch.arange(num_heads, device=self._keys_B.device) + (_ATTENTION_SITES + layer * num_heads)
        return AttentionMask(self._pool, _pool_row(self._keys_B[:, None], sites_H))

    def _of_tokens(self, kind: str, site: int, *, first_only: bool) -> HiddenMask | None:
        if not self._pool.is_active(kind):
            return None
        first_B = _pool_row(self._keys_B, torch.tensor(site))
        # The pool's rows of an example are consecutive: a token at position l takes row `first + l`.
        rows = first_B if first_only else first_B[self._rows_N] + self._positions_N
        return HiddenMask(self._pool, kind, rows)


def _pool_row(keys: Tensor, site: Tensor) -> Tensor:
    """Return the pool's row for an example's first token; the token at position l takes the l-th after it."""
    # NUM_POOL_ROWS is a power of two, so the low bits are the row's number.
    return _mix(keys + site * _GAMMA) & (NUM_POOL_ROWS - 1)


def _mix(x: Tensor) -> Tensor:
    """Mix 64 bits as splitmix64 does: each bit of the input flips each bit of the result half of the time."""
    # int64 arithmetic wraps modulo 2^64 like the unsigned arithmetic of the reference.
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift as unsigned: torch's shift of int64 copies the sign."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
