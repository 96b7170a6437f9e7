"""What a corpus looks like: documents, sentences, tokens and their lengths, a span at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjobs.errors import DataError
from bertjobs.text.blocks import Block
from bertjobs.text.corpus_encoding import BlockInfo, encode_span
from bertjobs.text.corpus_pieces import Span
from bertjobs.text.documents import read_span
from bertjobs.text.inspect import describe_lengths
from bertjobs.text.tokenizers import Tokenizer


def inspect_corpus(spans: Sequence[Span], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Describe a corpus in JSON types.

    Keys: `documents`, `sentences`, `tokens`, `dropped` (lines or rows that were skipped), `unit`
    (`wordpieces`, or `words` between spaces where no tokenizer is given), and `sentences_per_document`,
    `document_lengths`, `sentence_lengths` (mean, quantiles, histogram; without special tokens).

    Raises: DataError: see `read_span`; or there is no text.
    """
    measured = [_measure(span, tokenizer) for span in spans]
    lengths, num_sentences = (np.concatenate(parts) for parts in list(zip(*measured, strict=True))[:2])
    if not len(lengths):
        raise DataError("The corpus is empty: it has no text.", hint="Give files with text (--corpus).")
    return {
        "documents": len(num_sentences),
        "sentences": len(lengths),
        "tokens": int(lengths.sum()),
        "dropped": sum(num_dropped for _, _, num_dropped in measured),
        "unit": "words" if tokenizer is None else "wordpieces",
        "sentences_per_document": describe_lengths(num_sentences),
        "document_lengths": describe_lengths(
            np.add.reduceat(lengths, np.cumsum(num_sentences) - num_sentences)
        ),
        "sentence_lengths": describe_lengths(lengths),
    }


def _measure(span: Span, tokenizer: Tokenizer | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the lengths of a span's sentences, how many each document has, and what was skipped."""
    if tokenizer is not None:
        table = encode_span(span, tokenizer)
        block = Block.from_arrow(table)
        num_dropped = BlockInfo.of(table).num_dropped
        return np.diff(block.sentence_offsets), np.diff(block.document_offsets), num_dropped
    found = read_span(span)
    lengths = np.array([len(s.split()) for document in found.documents for s in document], dtype=np.int64)
    return lengths, np.array([len(d) for d in found.documents], dtype=np.int64), found.num_dropped
