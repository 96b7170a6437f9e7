"""Statistics of a data set in JSON types, for `data inspect`: of a split of a task, or of a corpus."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertjobs.errors import DataError
from bertjobs.text.corpus.blocks import Block, BlockInfo, encode_shard
from bertjobs.text.corpus.documents import Shard, read_shard
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.read_split import Split
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.truncation import STRATEGIES, budget_of, truncation_report, uncut_sequence_lengths

NUM_BINS = 16


def describe_split(split: Split, tokenizer: Tokenizer | None, *, max_len: int) -> dict[str, Any]:
    """Describe a split in JSON types.

    Keys: `rows`, `dropped` (by reason), `labels` (count per label), `unit` (`wordpieces`, or `words` between
    spaces where no tokenizer is given), `lengths` (of whole sequences with special tokens: mean, quantiles,
    histogram), `truncation` (per strategy what is cut at `max_len`; see `truncation.TruncationReport`).
    """
    is_pair = split.task.is_pair
    len_a, len_b = _text_lengths(split, tokenizer)
    return {
        "rows": split.table.num_rows,
        "dropped": split.num_dropped,
        "labels": _label_counts(split),
        "unit": "words" if tokenizer is None else "wordpieces",
        "lengths": describe_lengths(uncut_sequence_lengths(len_a, len_b)),
        "max_len": max_len,
        "truncation": {
            strategy: _cuts(len_a, len_b, budget=budget_of(max_len, is_pair=is_pair), strategy=strategy)
            for strategy in STRATEGIES
        },
    }


def _text_lengths(split: Split, tokenizer: Tokenizer | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the lengths of the two texts of each sequence."""
    if tokenizer is not None:
        encoded = EncodedTable.from_arrow(example_format(split.task).encode(split.table, tokenizer))
        return encoded.lengths_a, encoded.lengths_b
    firsts, seconds = example_format(split.task).sequences(split.table)
    return _num_words(firsts), None if seconds is None else _num_words(seconds)


def _num_words(texts: pa.ChunkedArray) -> np.ndarray:
    trimmed = pc.utf8_trim_whitespace(texts)
    counts = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return np.asarray(pc.if_else(pc.equal(trimmed, ""), 0, counts), dtype=np.int64)


def _label_counts(split: Split) -> dict[str, int]:
    examples = example_format(split.task)
    counts, num_without = examples.label_counts(split.table), examples.num_unlabelled(split.table)
    return counts | ({"(none)": num_without} if num_without else {})


def describe_lengths(lengths: np.ndarray) -> dict[str, Any]:
    """Return mean, quantiles and a histogram in JSON types; `lengths` is not empty."""
    width = max(1, -(-int(lengths.max()) // NUM_BINS))
    counts = np.bincount(lengths // width)
    return {
        "mean": round(float(lengths.mean()), 2),
        "min": int(lengths.min()),
        **{f"p{q}": int(np.percentile(lengths, q, method="higher")) for q in (50, 90, 99)},
        "max": int(lengths.max()),
        "histogram": [
            {"from": i * width, "to": (i + 1) * width - 1, "rows": int(count)}
            for i, count in enumerate(counts)
        ],
    }


def _cuts(len_a: np.ndarray, len_b: np.ndarray | None, **how: Any) -> dict[str, Any]:
    cut = truncation_report(len_a, len_b, **how)
    return {
        **asdict(cut),
        "rows_cut_ratio": round(cut.num_cut / max(cut.num_rows, 1), 6),
        "tokens_cut_ratio": round(cut.num_tokens_cut / max(cut.num_tokens, 1), 6),
    }


def describe_corpus(shards: Sequence[Shard], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Describe a corpus in JSON types.

    Keys: `documents`, `sentences`, `tokens`, `dropped` (lines or rows that were skipped), `unit`
    (`wordpieces`, or `words` between spaces where no tokenizer is given), and `sentences_per_document`,
    `document_lengths`, `sentence_lengths` (mean, quantiles, histogram; without special tokens).

    Raises: DataError: a shard cannot be read (see `read_shard`), or there is no text.
    """
    measured = [_measure(shard, tokenizer) for shard in shards]
    lengths, num_sentences = (np.concatenate(parts) for parts in list(zip(*measured, strict=True))[:2])
    if not len(lengths):
        raise DataError("The corpus is empty: it has no text", hint="Give files with text (--corpus).")
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


def _measure(shard: Shard, tokenizer: Tokenizer | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the lengths of a shard's sentences, how many each document has, and what was skipped."""
    if tokenizer is not None:
        table = encode_shard(shard, tokenizer)
        block = Block.from_arrow(table)
        num_dropped = BlockInfo.of(table).num_dropped
        return np.diff(block.sentence_offsets), np.diff(block.document_offsets), num_dropped
    found = read_shard(shard)
    lengths = np.array([len(s.split()) for document in found.documents for s in document], dtype=np.int64)
    return lengths, np.array([len(d) for d in found.documents], dtype=np.int64), found.num_dropped
