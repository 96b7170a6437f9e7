"""The published data: how many rows there are, and that both paths of tokenization agree on all of them."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bertjobs.text.batching import collate, order_of_epoch
from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.read_split import Split, holdout
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.datasets.splits import has_split
from bertjobs.text.datasets.task import Task
from bertjobs.text.encoding import EncodedTable, encode_table
from bertjobs.text.tokenizer import WordTokenizer
from bertjobs.text.tokenizer_files import load_tokenizer

Read = Callable[..., Split]
pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(
    ("task", "folder", "split", "num_rows", "num_dropped"),
    [
        (SNLI, "snli_1.0", "train", 8580, 0),
        (SNLI, "snli_1.0", "dev", 1277 - 23, 23),
        (SNLI, "snli_1.0_format_sample", "train", 10, 0),
        (SNLI, "snli_1.0_format_sample", "dev", 10, 0),
        (SNLI, "snli_1.0_format_sample", "test", 10, 0),
        (COLA, "cola_public", "train", 8551, 0),
        (COLA, "cola_public/raw", "out_of_domain_dev", 516, 0),
    ],
)
def test_every_published_row_is_read(
    real_data: Path, read: Read, task: Task, folder: str, split: str, num_rows: int, num_dropped: int
) -> None:
    found = read(task, real_data / folder, split=split)
    assert found.table.num_rows == num_rows
    assert found.num_dropped == {"no gold label": num_dropped, "broken row": 0}
    assert found.table["index"].to_pylist() == list(range(num_rows))
    assert set(found.table["label"].to_pylist()) <= set(range(len(task.labels)))


def test_both_published_forms_give_the_texts_as_written(real_data: Path, read: Read) -> None:
    row = read(SNLI, real_data / "snli_1.0_format_sample", split="dev").table.slice(0, 1).to_pylist()[0]
    assert row == {
        "text_a": "Two women are embracing while holding to go packages.",
        "text_b": "The sisters are hugging goodbye while holding to go packages after just eating lunch.",
        "label": SNLI.labels.index("neutral"),
        "index": 0,
    }
    row = read(SNLI, real_data / "snli_1.0_format_sample").table.slice(1, 1).to_pylist()[0]
    assert row["text_b"] == "A person is at a diner, ordering an omelette."
    assert SNLI.labels[row["label"]] == "contradiction"


def test_colas_recipe_holds_out_856_of_its_training_rows(real_data: Path, read: Read) -> None:
    assert not has_split(COLA, str(real_data / "cola_public"), split="dev", cache=real_data)
    train, valid = holdout(read(COLA, real_data / "cola_public").table.num_rows, ratio=0.1, seed=2018)
    assert (len(train), len(valid)) == (7695, 856)


def test_every_real_text_has_the_ids_of_the_whole_text(real_data: Path, read: Read) -> None:
    tokenizer = load_tokenizer(real_data / "vocab" / "bert-base-uncased-vocab.txt")
    assert (tokenizer.vocab_size, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        30522,
        101,
        102,
        103,
    )
    texts = []
    for task, folder, split in (
        (SNLI, "snli_1.0", "train"), (SNLI, "snli_1.0", "dev"), (COLA, "cola_public", "train"),
    ):  # fmt: skip
        table = read(task, real_data / folder, split=split).table
        texts += [
            t for name in ("text_a", "text_b") if name in table.column_names for t in table[name].to_pylist()
        ]
    texts += (real_data / "wikitext-2" / "wiki.valid.tokens").read_text(encoding="utf-8").split("\n")
    assert len(texts) > 30_000
    ids, offsets = tokenizer.encode_column(pa.array(texts))
    expected = tokenizer._encode(texts)
    assert np.diff(offsets).tolist() == [len(e) for e in expected]
    assert ids.tolist() == [i for e in expected for i in e]


def test_d2ls_words_in_sentences_as_written_are_those_of_the_parses(real_data: Path) -> None:
    """d2l trains on the parses; ours reads the sentences, and must find nearly all of the same words."""
    with zipfile.ZipFile(real_data.parent / "golden" / "d2l" / "bert.tiny.torch.zip") as archive:
        tokenizer = WordTokenizer(json.loads(archive.read("bert.tiny.torch/vocab.json")))
    lines = (real_data / "snli_1.0" / "snli_1.0_dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    written = tokenizer._encode([row["sentence1"] for row in rows])
    parses = [row["sentence1_binary_parse"].replace("(", " ").replace(")", " ") for row in rows]
    expected = tokenizer._encode(parses)
    assert len(rows) == 1277
    same = sum(a == b for a, b in zip(written, expected, strict=True))
    assert same / len(rows) > 0.9


def test_batches_of_the_real_pairs_carry_little_padding(real_data: Path, read: Read) -> None:
    tokenizer = load_tokenizer(real_data / "vocab" / "bert-base-uncased-vocab.txt")
    table = EncodedTable.from_arrow(encode_table(read(SNLI, real_data / "snli_1.0").table, tokenizer))
    order = order_of_epoch(table.num_rows, seed=0, epoch=0)
    specials = {"cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id}
    num_places = num_tokens = 0
    seen: list[int] = []
    for start in range(0, len(order), 32):
        batch = collate(table, order[start : start + 32], max_len=128, truncation="longest_first", **specials)
        num_places += sum(group.num_rows * group.length for group in batch.groups)
        num_tokens += batch.num_tokens
        seen += batch.rows_B.tolist()
    assert sorted(seen) == list(range(8580))
    assert num_tokens < num_places < 1.1 * num_tokens
