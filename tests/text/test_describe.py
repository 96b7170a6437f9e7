from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.read_split import Split
from bertjobs.text.datasets.sample import write_sample
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.describe import describe_split
from bertjobs.text.encoding import EncodedTable, encode_table
from bertjobs.text.truncation import STRATEGIES
from bertjobs.text.vocabulary import train_wordpiece

Read = Callable[..., Split]


@pytest.mark.parametrize("task", [SNLI, COLA], ids=["pairs", "single"])
def test_counts_lengths_and_cuts_add_up(tmp_path: Path, read: Read, task: object) -> None:
    write_sample(tmp_path)
    split = read(task, tmp_path, split="dev")
    tokenizer = train_wordpiece(split.table["text_a"], vocab_size=300)
    found = describe_split(split, tokenizer, max_len=12)
    table = EncodedTable.from_arrow(encode_table(split.table, tokenizer))
    lengths = table.lengths_a + (table.lengths_b + 3 if table.lengths_b is not None else 2)
    assert found["rows"] == sum(found["labels"].values()) == split.table.num_rows
    assert list(found["labels"]) == list(task.labels)
    assert found["dropped"] == split.num_dropped
    assert found["unit"] == "wordpieces"
    assert sum(bin_["rows"] for bin_ in found["lengths"]["histogram"]) == found["rows"]
    for bin_ in found["lengths"]["histogram"]:
        assert bin_["rows"] == ((lengths >= bin_["from"]) & (lengths <= bin_["to"])).sum()
    assert (found["lengths"]["min"], found["lengths"]["max"]) == (lengths.min(), lengths.max())
    assert found["lengths"]["p50"] == int(np.percentile(lengths, 50, method="higher"))
    assert list(found["truncation"]) == list(STRATEGIES)
    for cuts in found["truncation"].values():
        assert cuts["num_cut"] == (lengths > 12).sum()
        assert cuts["num_tokens_cut"] == (lengths - 12).clip(0).sum()
        assert cuts["rows_cut_ratio"] == round(cuts["num_cut"] / found["rows"], 6)


def test_without_a_tokenizer_words_are_counted(snli_file: Path, read: Read) -> None:
    found = describe_split(read(SNLI, snli_file), None, max_len=128)
    assert found["unit"] == "words"
    assert (found["lengths"]["min"], found["lengths"]["max"]) == (2 + 2 + 3, 2 + 2 + 3)
    assert found["labels"] == {"entailment": 1, "neutral": 1, "contradiction": 1}
    assert found["dropped"] == {"no gold label": 1, "broken row": 0}


def test_rows_without_labels_are_counted_apart(tmp_path: Path, read: Read) -> None:
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tone two\n1\t\n")
    found = describe_split(read(COLA, tmp_path, split="test", require_labels=False), None, max_len=128)
    assert found["labels"] == {"unacceptable": 0, "acceptable": 0, "(none)": 2}
    assert (found["lengths"]["min"], found["lengths"]["max"]) == (2, 4)
