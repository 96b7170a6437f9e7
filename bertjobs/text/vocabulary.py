"""Make a vocabulary from a corpus of any size: wordpieces trained on a sample, or all frequent words.

The same texts always give the same vocabulary. `tokenizer_files` opens those that exist already.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.trainers import WordPieceTrainer

from bertjobs.config.pretrain import VocabKind
from bertjobs.errors import DataError
from bertjobs.text.corpus.documents import Shard, read_shard
from bertjobs.text.tokenizer import Tokenizer, WordPieceTokenizer, WordTokenizer
from bertjobs.text.tokenizer_files import BERT_SPECIALS, bert_tokenizer

D2L_SPECIALS = ("<unk>", "<pad>", "<mask>", "<cls>", "<sep>")
"""In the order in which d2l numbers them from 0."""

MAX_TRAINING_TEXTS = 200_000
"""More texts do not make a vocabulary of some thousand wordpieces better, only slower to train."""
MAX_ALPHABET = 1000
"""Characters that get a wordpiece of their own, as in BERT's own vocabularies."""
_SAMPLE_BYTES = 256 << 20
"""Of a larger corpus, only evenly spaced shards are read for wordpieces, about this much in all."""


def make_vocabulary(
    shards: Sequence[Shard],
    *,
    kind: VocabKind,
    size: int,
    min_count: int,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Tokenizer:
    """Train `size` wordpieces on a sample of the corpus, or count all its words.

    on_progress: is told how many shards have been read, and how many will be.

    Raises: DataError: see `read_shard`; or no word occurs `min_count` times.
    """
    if kind == "word":
        read = _told(shards, on_progress)
        return train_words((_sentences(shard) for shard in read), min_count=min_count)
    num_bytes = sum(shard.num_bytes for shard in shards)
    chosen = shards[:: max(1, -(-num_bytes // _SAMPLE_BYTES))]
    return train_wordpiece(
        pa.chunked_array(list(_evenly_spaced(chosen, on_progress)), pa.string()), vocab_size=size
    )


def _told(shards: Sequence[Shard], on_progress: Callable[[int, int], None]) -> Iterator[Shard]:
    """Yield the shards, and tell each time how many have been read."""
    for num_done, shard in enumerate(shards):
        on_progress(num_done, len(shards))
        yield shard
    on_progress(len(shards), len(shards))


def train_wordpiece(
    texts: Iterable[str] | pa.Array | pa.ChunkedArray, *, vocab_size: int
) -> WordPieceTokenizer:
    """Train an uncased WordPiece vocabulary; the same texts give the same vocabulary.

    Repeated texts count once; of more than MAX_TRAINING_TEXTS texts, evenly spaced ones are used.
    """
    distinct = _one_array(texts).unique().drop_null()
    if len(distinct) > MAX_TRAINING_TEXTS:
        distinct = distinct.take(np.linspace(0, len(distinct) - 1, MAX_TRAINING_TEXTS).astype(np.int64))
    learner = bert_tokenizer({}, lowercase=True)
    room = min(MAX_ALPHABET, (vocab_size - len(BERT_SPECIALS)) // 2)
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        limit_alphabet=0,  # the alphabet is given below
        special_tokens=[*BERT_SPECIALS.values(), *_alphabet(distinct, learner, room)],
    )
    learner.train_from_iterator(distinct.to_pylist(), trainer)
    # The alphabet was given as special tokens to fix its ids. A tokenizer built from the vocabulary alone
    # does not treat those characters as special.
    return WordPieceTokenizer(bert_tokenizer(learner.get_vocab(), lowercase=True), BERT_SPECIALS)


def train_words(texts: Iterable[pa.Array], *, min_count: int) -> WordTokenizer:
    """Make a vocabulary of all words that occur `min_count` times: by frequency, then alphabetically.

    texts: columns of texts, read one after another; only counts are kept in memory.

    Raises: DataError: no word occurs `min_count` times.
    Source: Dive into Deep Learning, section 15.9, `_WikiTextDataset`: `Vocab(sentences, min_freq=5,
    reserved_tokens=[...])`.
    """
    num_of: Counter[str] = Counter()
    for column in texts:
        for chunk, count in _counted_chunks(column.drop_null()):
            for word in chunk.lower().split():
                num_of[word] += count
    words = [word for word, count in num_of.items() if count >= min_count and word not in D2L_SPECIALS]
    if not words:
        raise DataError(
            f"No word occurs {min_count} times in the corpus",
            hint="Lower --vocab-min-count, or give more text (--corpus).",
        )
    return WordTokenizer([*D2L_SPECIALS, *sorted(words, key=lambda word: (-num_of[word], word))])


def _alphabet(texts: pa.Array, rules: FastTokenizer, room: int) -> list[str]:
    """Return the most frequent characters, plain and as continuations, in a fixed order.

    The trainer numbers characters in the order of a hash map, and breaks ties between merges by those
    numbers: without a fixed alphabet two runs over the same texts give different vocabularies.
    """
    assert rules.normalizer is not None and rules.pre_tokenizer is not None
    num_of: Counter[str] = Counter()
    num_inside: Counter[str] = Counter()
    for chunk, count in _counted_chunks(texts):
        for word, _ in rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(chunk)):
            for i, character in enumerate(word):
                num_of[character] += count
                num_inside[character] += count if i else 0
    kept = sorted(num_of, key=lambda c: (-num_of[c], c))[:room]
    return sorted(kept) + [f"##{c}" for c in sorted(kept) if num_inside[c]]


def _counted_chunks(texts: pa.Array) -> Iterable[tuple[str, int]]:
    counted = pc.value_counts(pc.split_pattern(texts.cast(pa.large_string()), " ").flatten())
    return zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)


def _evenly_spaced(shards: Sequence[Shard], on_progress: Callable[[int, int], None]) -> Iterator[pa.Array]:
    """Yield evenly spaced sentences of each shard, about MAX_TRAINING_TEXTS in all."""
    share = MAX_TRAINING_TEXTS // len(shards)
    for shard in _told(shards, on_progress):
        sentences = _sentences(shard)
        step = max(1, -(-len(sentences) // max(share, 1)))
        yield sentences.take(pa.array(range(0, len(sentences), step)))


def _sentences(shard: Shard) -> pa.Array:
    return pa.array((s for document in read_shard(shard).documents for s in document), pa.string())


def _one_array(texts: Iterable[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return texts as one Arrow array."""
    if isinstance(texts, pa.ChunkedArray):
        return texts.combine_chunks()
    return texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
