"""Dropout whose masks follow from (seed, step, example, position, site) and from nothing else.

Drawing a random number per element costs a sixth of a BERT step on a CPU, and ties the masks to the layout
of the batch. Here a pool of mask rows, already scaled by 1 / (1 - p), is drawn once per epoch; each token of
each site picks its row by a hash of its counter. Padded, packed, split over workers or resumed, an example
gets the same masks.

Legend: N tokens, B rows, D hidden size, H heads, R rows of a pool, W their width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bertjobs.modeling.config import BertConfig

NUM_POOL_ROWS = 4096
"""A power of two: few enough to stay in the cache, many enough that two tokens rarely share one."""

_NARROW = 32
"""Attention masks are gathered from copies of the pool cut to a multiple of this width."""

# Odd 64-bit constants of splitmix64 (Steele et al. 2014), as signed integers: int64 products wrap as wanted.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64


def row_keys(rows_B: Tensor, *, seed: int, step: int) -> Tensor:
    """Return the dropout keys of table rows at a step: int64, a function of (seed, step, row) only."""
    key = _mix(torch.tensor(seed, dtype=torch.int64) * _GAMMA + step)
    return _mix(rows_B.to(torch.int64) * _GAMMA + key.to(rows_B.device))


class DropoutPool:
    """Scaled mask rows for one model and epoch; give it to `model.set_dropout`."""

    def __init__(
        self, config: BertConfig, *, seed: int, epoch: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        self.num_heads = config.num_attention_heads
        classifier_rate = config.classifier_dropout
        self._rates = {
            "hidden": config.hidden_dropout_prob,
            "attention": config.attention_probs_dropout_prob,
            "classifier": config.hidden_dropout_prob if classifier_rate is None else classifier_rate,
        }
        widths = {
            "hidden": config.hidden_size,
            "attention": config.max_position_embeddings,
            "classifier": config.hidden_size,
        }
        generator = torch.Generator().manual_seed(
            int(_mix(torch.tensor(seed) * _GAMMA + epoch)) & (2**63 - 1)
        )
        self._masks_RW = {
            kind: _draw_masks(rate, width=widths[kind], generator=generator).to(device)
            for kind, rate in self._rates.items()
            if rate
        }
        self._copies: dict[tuple[str, int, torch.dtype], Tensor] = {}

    def is_active(self, kind: str) -> bool:
        """Return whether this kind of dropout has a rate above 0."""
        return kind in self._masks_RW

    def gather(self, kind: str, rows: Tensor, *, width: int, dtype: torch.dtype) -> Tensor:
        """Return mask rows (len(rows), width) in the dtype of what they multiply."""
        return self._narrowed(kind, width, dtype).index_select(0, rows)[:, :width]

    def _narrowed(self, kind: str, width: int, dtype: torch.dtype) -> Tensor:
        masks_RW = self._masks_RW[kind]
        width = min(-(-width // _NARROW) * _NARROW, masks_RW.shape[1])
        key = (kind, width, dtype)
        if key not in self._copies:
            self._copies[key] = masks_RW[:, :width].to(dtype).contiguous()
        return self._copies[key]


@dataclass(frozen=True)
class Mask:
    """The mask of one site, as rows of a pool; gathered where it is used, and again in the backward pass."""

    pool: DropoutPool
    kind: str
    rows: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Return the mask of x, whose leading dimensions are those of `rows`."""
        width = x.shape[-1]
        return self.pool.gather(self.kind, self.rows.flatten(), width=width, dtype=x.dtype).view(x.shape)


class TokenMasks:
    """The masks of one forward pass, for tokens with these keys and positions."""

    def __init__(self, pool: DropoutPool, *, row_keys_N: Tensor, positions_N: Tensor) -> None:
        self._pool = pool
        self._keys_N = _mix(row_keys_N + positions_N * _GAMMA)

    def hidden(self, site: int) -> Mask | None:
        """Return the mask of the embeddings (site 0) or of a residual branch (from 1)."""
        return self._mask("hidden", self._keys_N + site)

    def attention(self, layer: int) -> Mask | None:
        """Return the mask of a layer's attention probabilities: rows (N, H), one per query and head."""
        num_heads = self._pool.num_heads
        sites_H = torch.arange(num_heads, device=self._keys_N.device) + layer * num_heads
        return self._mask("attention", self._keys_N[:, None] + sites_H)

    def classifier(self, cls_B: Tensor) -> Mask | None:
        """Return the mask before the classifier, keyed by each row's first token."""
        return self._mask("classifier", self._keys_N[cls_B])

    def _mask(self, kind: str, counters: Tensor) -> Mask | None:
        if not self._pool.is_active(kind):
            return None
        return Mask(self._pool, kind, _mix(counters) & (NUM_POOL_ROWS - 1))


def _draw_masks(rate: float, *, width: int, generator: torch.Generator) -> Tensor:
    kept_RW = torch.rand(NUM_POOL_ROWS, width, generator=generator) >= rate
    return kept_RW / (1 - rate)


def _mix(x: Tensor) -> Tensor:
    """Mix 64 bits as splitmix64 does: each bit of the input flips each bit of the result half of the time."""
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift as unsigned: torch's shift of int64 copies the sign."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
