"""What a split looks like: counts per label, lengths, and what each truncation strategy would cut."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertjobs.text.encoding import EncodedTable, encode_table
from bertjobs.text.sources import Split
from bertjobs.text.tokenizers import Tokenizer
from bertjobs.text.truncation import STRATEGIES, budget_of, report

NUM_BINS = 16


def inspect(split: Split, tokenizer: Tokenizer | None, *, max_len: int) -> dict[str, Any]:
    """Describe a split in JSON types.

    Keys: `rows`, `dropped` (by reason), `labels` (count per label), `unit` (`wordpieces`, or `words` between
    spaces where no tokenizer is given), `lengths` (of whole sequences with special tokens: mean, quantiles,
    histogram), `truncation` (per strategy what is cut at `max_len`; see `truncation.Report`).
    """
    is_pair = "text_b" in split.table.column_names
    len_a, len_b = _text_lengths(split.table, tokenizer)
    num_special = 3 if is_pair else 2
    lengths = len_a + (0 if len_b is None else len_b) + num_special
    return {
        "rows": split.table.num_rows,
        "dropped": split.num_dropped,
        "labels": _label_counts(split),
        "unit": "words" if tokenizer is None else "wordpieces",
        "lengths": describe_lengths(lengths),
        "max_len": max_len,
        "truncation": {
            strategy: _cuts(len_a, len_b, budget=budget_of(max_len, is_pair=is_pair), strategy=strategy)
            for strategy in STRATEGIES
        },
    }


def _text_lengths(table: pa.Table, tokenizer: Tokenizer | None) -> tuple[np.ndarray, np.ndarray | None]:
    if tokenizer is not None:
        encoded = EncodedTable.from_arrow(encode_table(table, tokenizer))
        return encoded.lengths_a, encoded.lengths_b
    len_a = _num_words(table["text_a"])
    return len_a, _num_words(table["text_b"]) if "text_b" in table.column_names else None


def _num_words(texts: pa.ChunkedArray) -> np.ndarray:
    trimmed = pc.utf8_trim_whitespace(texts)
    counts = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return np.asarray(pc.if_else(pc.equal(trimmed, ""), 0, counts), dtype=np.int64)


def _label_counts(split: Split) -> dict[str, int]:
    labels = split.table["label"].to_numpy()
    counts = {name: int((labels == number).sum()) for number, name in enumerate(split.labels)}
    num_without = int((labels < 0).sum())
    return counts | ({"(none)": num_without} if num_without else {})


def describe_lengths(lengths: np.ndarray) -> dict[str, Any]:
    """Return mean, quantiles and a histogram in JSON types; there is one length at least."""
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
    cut = report(len_a, len_b, **how)
    return {
        **asdict(cut),
        "rows_cut_ratio": round(cut.num_cut / max(cut.num_rows, 1), 6),
        "tokens_cut_ratio": round(cut.num_tokens_cut / max(cut.num_tokens, 1), 6),
    }
