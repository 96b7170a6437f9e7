"""The shipped sample: the same every time, in the official formats, and balanced enough to learn from."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.read_split import Split
from bertjobs.text.datasets.sample import NUM_PAIRS, NUM_SENTENCES, write_sample
from bertjobs.text.datasets.sample_squad import NUM_CONTEXTS, SCENES_PER_CONTEXT
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.datasets.squad import SQUAD, SQUAD_V2

Read = Callable[..., Split]
FILES = {
    "snli_1.0/snli_1.0_train.jsonl",
    "snli_1.0/snli_1.0_dev.jsonl",
    "snli_1.0/snli_1.0_test.txt",
    "cola_public/raw/in_domain_train.tsv",
    "cola_public/raw/in_domain_dev.tsv",
    "cola_public/raw/out_of_domain_dev.tsv",
    *(f"squad/{split}-{version}.json" for split in ("train", "dev") for version in ("v1.1", "v2.0")),
    "corpus/train.tokens",
    "corpus/valid.tokens",
    *(
        f"glue/{task}/{split}.tsv"
        for task in ("SST-2", "MRPC", "QQP", "STS-B", "QNLI", "RTE", "WNLI")
        for split in ("train", "dev", "test")
    ),
    "glue/MNLI/train.tsv",
    *(f"glue/MNLI/{split}_{kind}.tsv" for split in ("dev", "test") for kind in ("matched", "mismatched")),
    *(f"swag/{split}.csv" for split in ("train", "val", "test")),
}
SNLI_FIELDS = {
    *("annotator_labels", "captionID", "gold_label", "pairID"),
    *("sentence1", "sentence1_binary_parse", "sentence1_parse"),
    *("sentence2", "sentence2_binary_parse", "sentence2_parse"),
}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    one, two, other = (write_sample(tmp_path / n, seed=s) for n, s in (("1", 0), ("2", 0), ("3", 1)))
    assert {str(path.relative_to(tmp_path / "1")) for path in one} == FILES
    contents = [[path.read_bytes() for path in files] for files in (one, two, other)]
    assert contents[0] == contents[1]
    assert all(a != b for a, b in zip(contents[0], contents[2], strict=True))


def test_questions_are_read_and_some_of_v2_have_no_answer(tmp_path: Path, read: Read) -> None:
    write_sample(tmp_path)
    for split, count in NUM_CONTEXTS.items():
        answered = read(SQUAD, tmp_path / "squad", split=split)
        both = read(SQUAD_V2, tmp_path / "squad", split=split)
        assert answered.table.num_rows == count * SCENES_PER_CONTEXT
        assert both.table["label"].to_pylist().count(1) == answered.table.num_rows
        assert both.table["label"].to_pylist().count(0) > 0.5 * count
        assert answered.num_dropped == both.num_dropped == {"broken row": 0}


def test_pairs_are_read_balanced_and_some_of_dev_are_disputed(tmp_path: Path, read: Read) -> None:
    write_sample(tmp_path)
    num_disputed = {"train": 0, "dev": 6, "test": 0}
    for split, count in NUM_PAIRS.items():
        found = read(SNLI, tmp_path, split=split)
        assert found.num_dropped == {"no gold label": num_disputed[split], "broken row": 0}
        assert found.table.num_rows == count - num_disputed[split]
        counts = Counter(found.table["label"].to_pylist())
        assert min(counts.values()) >= 0.3 * found.table.num_rows
        assert set(counts) == {0, 1, 2}


def test_sentences_are_read_with_both_labels(tmp_path: Path, read: Read) -> None:
    write_sample(tmp_path)
    for split, count in NUM_SENTENCES.items():
        name = "train" if split == "in_domain_train" else split
        found = read(COLA, tmp_path, split=name)
        assert found.table.num_rows == count
        acceptable = sum(found.table["label"].to_pylist()) / count
        assert 0.5 < acceptable < 0.75


def test_no_premise_and_no_sentence_is_in_two_splits(tmp_path: Path, read: Read) -> None:
    write_sample(tmp_path)
    premises = [set(read(SNLI, tmp_path, split=s).table["text_a"].to_pylist()) for s in NUM_PAIRS]
    names = ("train", "in_domain_dev", "out_of_domain_dev")
    sentences = [read(COLA, tmp_path, split=s).table["text_a"].to_pylist() for s in names]
    for sets in (premises, [set(s) for s in sentences]):
        assert len(set.union(*sets)) == sum(len(s) for s in sets)
    assert all(len(set(s)) == len(s) for s in sentences)


def test_every_field_of_the_published_files_is_there(tmp_path: Path) -> None:
    write_sample(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "snli_1.0/snli_1.0_dev.jsonl").read_text().splitlines()]
    assert len(rows) == NUM_PAIRS["dev"]
    assert all(set(row) == SNLI_FIELDS for row in rows)
    assert {len(row["annotator_labels"]) for row in rows if row["gold_label"] == "-"} == {3}
    for row in rows:
        words = row["sentence2_binary_parse"].replace("(", "").replace(")", "").split()
        assert " ".join(words[:-1]) + words[-1] == row["sentence2"]
        assert row["sentence2_binary_parse"].count("(") == row["sentence2_binary_parse"].count(")")


@pytest.mark.real_data
def test_the_text_form_has_the_published_columns(tmp_path: Path, real_data: Path) -> None:
    write_sample(tmp_path)
    published = (real_data / "snli_1.0_format_sample" / "snli_1.0_test.txt").read_text().splitlines()
    ours = (tmp_path / "snli_1.0" / "snli_1.0_test.txt").read_text().splitlines()
    assert ours[0] == published[0]
    assert {line.count("\t") for line in ours} == {published[0].count("\t")}
