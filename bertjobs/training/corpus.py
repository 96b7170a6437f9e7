"""The blocks of an encoded corpus as training asks for them: merged, counted, few of them at hand."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from bertjobs.text.corpus.blocks import Block, BlockInfo, merge_small
from bertjobs.text.corpus.order import CorpusOrder
from bertjobs.text.pretraining.collate import Part
from bertjobs.text.pretraining.pairing import Pairing
from bertjobs.training.ranks import Ranks


class BlockSource(Protocol):
    """Encoded blocks, wherever they are kept; alike on all ranks."""

    @property
    def infos(self) -> Sequence[BlockInfo]: ...

    def get(self, number: int) -> Block:
        """Return a block by its place among the infos."""


class ListOfBlocks:
    """Blocks in memory."""

    def __init__(self, blocks: Sequence[Block], infos: Sequence[BlockInfo]) -> None:
        assert len(blocks) == len(infos)
        self._blocks, self.infos = blocks, infos

    def get(self, number: int) -> Block:
        return self._blocks[number]


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
        """Look at every block once, each rank at its share of them, to count examples and words.

        Raises: DataError: no example can be made.
        """
        pairing.check(source.infos)
        self._source, self._pairing = source, pairing
        self._members = merge_small(source.infos)
        self._at_hand: dict[int, Block] = {}
        num_examples, self._word_counts_V = self._count(ranks, vocab_size=vocab_size)
        self._order = CorpusOrder(num_examples, seed=seed, shuffle_blocks=shuffle_blocks)

    @property
    def num_examples(self) -> int:
        return self._order.num_examples

    @property
    def num_tokens(self) -> int:
        """Of the text, special tokens and repetitions not counted."""
        return sum(info.num_tokens for info in self._source.infos)

    def parts(self, step: int, *, batch_size: int) -> tuple[int, list[Part]]:
        """Return the epoch of a step, and its examples block by block."""
        epoch, batch = self._order.batch(step, batch_size)
        around = set(self._order.blocks_around(step, batch_size))
        self._at_hand = {number: block for number, block in self._at_hand.items() if number in around}
        return epoch, [
            Part(block=self._block(number), indices=indices, first=self._order.first_of(number))
            for number, indices in batch
        ]

    def log_frequencies(self) -> torch.Tensor:
        """Return the logarithm of each wordpiece's share of the text (V); each counts once more."""
        counts_V = self._word_counts_V + 1.0
        return torch.log(counts_V / counts_V.sum())

    def _block(self, number: int) -> Block:
        if number not in self._at_hand:
            self._at_hand[number] = self._read(number)
        return self._at_hand[number]

    def _read(self, number: int) -> Block:
        return Block.join([self._source.get(member) for member in self._members[number]])

    def _count(self, ranks: Ranks, *, vocab_size: int) -> tuple[list[int], torch.Tensor]:
        """Return how many examples each block makes, and how often each wordpiece stands in all."""
        num_examples = torch.zeros(len(self._members), dtype=torch.int64)
        word_counts_V = torch.zeros(vocab_size, dtype=torch.int64)
        for number in range(ranks.rank, len(self._members), ranks.world_size):
            block = self._read(number)
            num_examples[number] = self._pairing.num_examples(block)
            word_counts_V += torch.from_numpy(np.bincount(block.ids, minlength=vocab_size))
        ranks.add_up_on_host(num_examples)
        ranks.add_up_on_host(word_counts_V)
        return num_examples.tolist(), word_counts_V
