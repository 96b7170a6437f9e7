"""Find and open the vocabulary files that a checkpoint brings, and train a vocabulary where there is none.

Make a vocabulary from a corpus of any size: counted or sampled a span at a time.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from bertjobs.config.pretrain import VocabKind
from bertjobs.errors import DataError, ModelError
from bertjobs.text.corpus.documents import read_span
from bertjobs.text.corpus.format import Span
from bertjobs.text.tokenizer import Tokenizer, WordPieceTokenizer, WordTokenizer, texts_of

BERT_SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""In the order in which BERT numbers them from 0."""

D2L_SPECIALS = ("<unk>", "<pad>", "<mask>", "<cls>", "<sep>")
"""In the order in which d2l numbers them from 0."""

__all__ = ["BERT_SPECIALS", "Tokenizer", "load_tokenizer", "train_wordpiece", "train_words"]

MAX_TRAINING_TEXTS = 200_000
"""A vocabulary of some thousand pieces does not get better from more texts, only slower."""
MAX_ALPHABET = 1000
"""Characters that get a piece of their own, as in BERT's own vocabularies."""


def load_tokenizer(path: Path) -> Tokenizer:
    """Open a checkpoint's folder, or one file: `tokenizer.json`, `vocab.txt`, d2l's `vocab.json`.

    Raises: ModelError: there is none, it is damaged, or it lacks a special token.
    """
    file = _find(path)
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ModelError(f"{file} cannot be read: {e}.", hint="Give a vocabulary file (--vocab).") from e
    if file.suffix != ".json":
        return _from_vocab_txt(file, content)
    parsed = _parse_json(file, content)
    if isinstance(parsed, list) and all(isinstance(word, str) for word in parsed):
        return WordTokenizer(parsed)
    if isinstance(parsed, dict) and "model" in parsed:
        return WordPieceTokenizer(_from_json(file, content), _specials(file.parent))
    raise ModelError(
        f"{file} is neither a tokenizer.json nor a d2l vocab.json (a list of words).",
        hint="Give vocab.txt, tokenizer.json or d2l's vocab.json (--vocab).",
    )


def train_wordpiece(
    texts: Iterable[str] | pa.Array | pa.ChunkedArray, *, vocab_size: int
) -> WordPieceTokenizer:
    """Train an uncased WordPiece vocabulary; the same texts give the same vocabulary.

    Repeated texts count once, and of more than MAX_TRAINING_TEXTS evenly spaced ones are used.
    """
    distinct = texts_of(texts).unique().drop_null()
    if len(distinct) > MAX_TRAINING_TEXTS:
        distinct = distinct.take(np.linspace(0, len(distinct) - 1, MAX_TRAINING_TEXTS).astype(np.int64))
    learner = _bert_rules({}, lowercase=True)
    room = min(MAX_ALPHABET, (vocab_size - len(BERT_SPECIALS)) // 2)
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        limit_alphabet=0,  # the alphabet is given below
        special_tokens=[*BERT_SPECIALS.values(), *_alphabet(distinct, learner, room)],
    )
    learner.train_from_iterator(distinct.to_pylist(), trainer)
    # The alphabet was given as special tokens to fix its numbers; a tokenizer built from the bare vocabulary
    # forgets that they were special.
    return WordPieceTokenizer(_bert_rules(learner.get_vocab(), lowercase=True), BERT_SPECIALS)


def train_words(texts: Iterable[pa.Array], *, min_count: int) -> WordTokenizer:
    """Take every word that occurs `min_count` times, the most frequent first, ties by the alphabet.

    texts: columns of texts, one after another; only the counts are kept of them.

    Raises: DataError: no word occurs so often.
    Source: d2l, `_WikiTextDataset`: `Vocab(sentences, min_freq=5, reserved_tokens=[...])`.
    """
    num_of: Counter[str] = Counter()
    for column in texts:
        for chunk, count in _counted_chunks(column.drop_null()):
            for word in chunk.lower().split():
                num_of[word] += count
    words = [word for word, count in num_of.items() if count >= min_count and word not in D2L_SPECIALS]
    if not words:
        raise DataError(
            f"No word occurs {min_count} times in the corpus.",
            hint="Lower the least count (--vocab-min-count), or give more text (--corpus).",
        )
    return WordTokenizer([*D2L_SPECIALS, *sorted(words, key=lambda word: (-num_of[word], word))])


def _alphabet(texts: pa.Array, rules: FastTokenizer, room: int) -> list[str]:
    """Return the most frequent characters, plain and as continuations, in a fixed order.

    The trainer numbers characters as it meets them in a hash map, and breaks ties between merges by those
    numbers: left alone, no two runs over the same texts give the same vocabulary.
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


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    for name in ("tokenizer.json", "vocab.txt", "vocab.json"):
        if (path / name).is_file():
            return path / name
    raise ModelError(
        f"{path} holds no vocabulary (tokenizer.json, vocab.txt, or d2l's vocab.json).",
        hint="Give the folder of a whole checkpoint (--model), or a vocabulary file (--vocab).",
    )


def _from_vocab_txt(file: Path, content: str) -> WordPieceTokenizer:
    pieces = content.removesuffix("\n").split("\n")
    pieces = [piece.removesuffix("\r") for piece in pieces]
    place_of = {piece: i for i, piece in enumerate(pieces)}
    if len(pieces) < 6 or "\0" in content:
        raise ModelError(f"{file} is no vocabulary: it has {len(pieces)} lines.", hint="One piece a line.")
    specials = _specials(file.parent)
    settings = _settings(file.parent)
    lowercase = {"do_lower_case": not _is_cased(pieces), **settings}["do_lower_case"]
    if specials["unk"] not in place_of:
        raise ModelError(
            f"{file} lacks the unk token {specials['unk']!r}, so it is no WordPiece vocabulary.",
            hint="Give a vocab.txt as BERT checkpoints bring it, one piece a line (--vocab).",
        )
    return WordPieceTokenizer(_bert_rules(place_of, lowercase=bool(lowercase), specials=specials), specials)


def _is_cased(pieces: list[str]) -> bool:
    """Whether words stand there in capitals; an uncased vocabulary has them in `[CLS]` and the like only."""
    return any(piece.isascii() and piece.isalpha() and piece != piece.lower() for piece in pieces)


def _bert_rules(
    place_of: dict[str, int], *, lowercase: bool, specials: dict[str, str] = BERT_SPECIALS
) -> FastTokenizer:
    """Return BERT's normalizer, pre-tokenizer, model and template over a vocabulary."""
    fast = FastTokenizer(WordPiece(place_of, unk_token=specials["unk"]))
    fast.normalizer = BertNormalizer(lowercase=lowercase)
    fast.pre_tokenizer = BertPreTokenizer()
    if place_of:
        fast.add_special_tokens([token for token in specials.values() if token in place_of])
        cls, sep = specials["cls"], specials["sep"]
        if cls in place_of and sep in place_of:
            fast.post_processor = TemplateProcessing(
                single=f"{cls} $A {sep}",
                pair=f"{cls} $A {sep} $B:1 {sep}:1",
                special_tokens=[(cls, place_of[cls]), (sep, place_of[sep])],
            )
    return fast


def _from_json(file: Path, content: str) -> FastTokenizer:
    try:
        return FastTokenizer.from_str(content)
    except Exception as e:  # the library raises bare Exception for a file it does not understand
        raise ModelError(f"{file} is not understood: {e}.", hint="Give a whole tokenizer.json.") from e


def _specials(folder: Path) -> dict[str, str]:
    """Return the special tokens as the checkpoint's settings name them, BERT's where they say nothing."""
    settings = _settings(folder)
    named = {}
    for name, default in BERT_SPECIALS.items():
        key = f"{name}_token"
        given = {key: default, **settings}[key]
        named[name] = str(given["content"] if isinstance(given, dict) else given)
    return named


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return {}
    parsed = _parse_json(file, file.read_text(encoding="utf-8"))
    return {k: v for k, v in parsed.items() if v is not None} if isinstance(parsed, dict) else {}


def _parse_json(file: Path, content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as e:
        raise ModelError(f"{file} is damaged: {e}.", hint="Fetch the checkpoint again.") from e


_SAMPLE_BYTES = 256 << 20
"""Of a larger corpus, evenly spaced spans of about this size together are read for wordpieces."""


def make_vocabulary(spans: Sequence[Span], *, kind: VocabKind, size: int, min_count: int) -> Tokenizer:
    """Train `size` wordpieces on a sample of the corpus, or count all its words, as `kind` says.

    Raises: DataError: see `read_span`; or no word occurs `min_count` times.
    """
    if kind == "word":
        return train_words((_sentences(span) for span in spans), min_count=min_count)
    num_bytes = sum(span.num_bytes for span in spans)
    chosen = spans[:: max(1, -(-num_bytes // _SAMPLE_BYTES))]
    return train_wordpiece(pa.chunked_array(list(_thinned(chosen)), pa.string()), vocab_size=size)


def _thinned(spans: Sequence[Span]) -> Iterator[pa.Array]:
    """Yield evenly spaced sentences of each span, together what training uses at most."""
    share = MAX_TRAINING_TEXTS // len(spans)
    for span in spans:
        sentences = _sentences(span)
        step = max(1, -(-len(sentences) // max(share, 1)))
        yield sentences.take(pa.array(range(0, len(sentences), step)))


def _sentences(span: Span) -> pa.Array:
    return pa.array((s for document in read_span(span).documents for s in document), pa.string())
