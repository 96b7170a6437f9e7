"""The order in which the examples of a corpus are used: a function of (seed, epoch), with bounded memory.

Blocks are permuted, then examples are permuted inside windows of `shuffle_blocks` blocks, so that only the
blocks of a window need to be in memory. Every example is used once per epoch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertjobs.text import ragged
from bertjobs.text.batching import order_of_epoch
from bertjobs.text.pretraining.hashed_random import Purpose, row_keys
from bertjobs.text.ragged import Int64s

_NUM_CACHED_WINDOWS = 2
"""Permutations that are kept: a batch may need those of two windows."""


@dataclass(frozen=True)
class _Epoch:
    """Blocks in the order of one epoch."""

    number: int
    blocks: Int64s
    begins: Int64s
    """Positions in the epoch at which windows begin, and where the last one ends."""


class CorpusOrder:
    """The examples of all blocks, epoch after epoch."""

    def __init__(self, num_examples_per_block: Sequence[int], *, seed: int, shuffle_blocks: int) -> None:
        self._counts = np.asarray(num_examples_per_block, dtype=np.int64)
        self._seed, self._shuffle_blocks = seed, shuffle_blocks
        self._offsets = ragged.offsets_of(self._counts)
        self._epoch = self._order(0)
        self._windows: dict[tuple[int, int], Int64s] = {}
        assert self.num_examples > 0, "Pairing.check refuses a corpus that makes no examples"

    @property
    def num_examples(self) -> int:
        """Examples of one epoch."""
        return int(self._offsets[-1])

    def first_of(self, block: int) -> int:
        """Return the number of a block's first example in the corpus; it does not depend on the order."""
        return int(self._offsets[block])

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the steps until every example was used once; the last of them may be smaller."""
        return math.ceil(self.num_examples / batch_size)

    def batch(self, step: int, batch_size: int) -> tuple[int, list[tuple[int, Int64s]]]:
        """Return the epoch of a step, and its examples: block numbers, each with numbers inside the block."""
        epoch, begin, end = self._positions_of(step, batch_size)
        found = []
        for window in self._windows_between(epoch, begin, end):
            first = int(epoch.begins[window])
            found.append(self._window(epoch, window)[max(begin - first, 0) : end - first])
        examples = np.concatenate(found)
        blocks = np.searchsorted(self._offsets, examples, side="right") - 1
        return epoch.number, [
            (int(block), examples[blocks == block] - self._offsets[block]) for block in np.unique(blocks)
        ]

    def blocks_around(self, step: int, batch_size: int) -> list[int]:
        """Return the blocks of the windows that a step is in: what the steps around it need in memory."""
        epoch, begin, end = self._positions_of(step, batch_size)
        windows = self._windows_between(epoch, begin, end)
        blocks = np.concatenate([self._blocks_of(epoch, window) for window in windows])
        return [int(block) for block in blocks if self._counts[block]]

    def _positions_of(self, step: int, batch_size: int) -> tuple[_Epoch, int, int]:
        number, place = divmod(step, self.steps_per_epoch(batch_size))
        if number != self._epoch.number:
            self._epoch = self._order(number)
        begin = place * batch_size
        return self._epoch, begin, min(begin + batch_size, self.num_examples)

    def _windows_between(self, epoch: _Epoch, begin: int, end: int) -> range:
        first, last = np.searchsorted(epoch.begins, [begin, end - 1], side="right") - 1
        return range(int(first), int(last) + 1)

    def _window(self, epoch: _Epoch, window: int) -> Int64s:
        """Return the permuted examples of a window, by their numbers in the corpus."""
        key = (epoch.number, window)
        if key not in self._windows:
            blocks = self._blocks_of(epoch, window)
            examples = ragged.flat_indices(self._offsets[blocks], self._counts[blocks])
            seed = row_keys(np.array([window]), seed=self._seed, epoch=epoch.number, purpose=Purpose.ORDER)[0]
            self._windows[key] = examples[order_of_epoch(len(examples), seed=int(seed), epoch=epoch.number)]
            while len(self._windows) > _NUM_CACHED_WINDOWS:
                del self._windows[next(iter(self._windows))]
        return self._windows[key]

    def _blocks_of(self, epoch: _Epoch, window: int) -> Int64s:
        return epoch.blocks[window * self._shuffle_blocks : (window + 1) * self._shuffle_blocks]

    def _order(self, epoch: int) -> _Epoch:
        blocks = order_of_epoch(len(self._counts), seed=self._seed, epoch=epoch)
        begins = ragged.offsets_of(self._counts[blocks])
        last = begins[-1:]
        return _Epoch(epoch, blocks, np.append(begins[:-1][:: self._shuffle_blocks], last))
