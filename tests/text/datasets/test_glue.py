"""GLUE's tasks and SWAG, read from their official layouts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertjobs.errors import DataError
from bertjobs.text.datasets.read_split import Split
from bertjobs.text.datasets.sample import write_sample
from bertjobs.text.datasets.sample_tasks import NUM_ROWS
from bertjobs.text.datasets.splits import default_valid_split, expand_splits, has_split
from bertjobs.text.datasets.task import METRICS
from bertjobs.text.datasets.tasks import BUILT_IN, files_of, resolve_task

Read = Callable[..., Split]
FOLDERS = {
    "sst2": "SST-2", "mrpc": "MRPC", "qqp": "QQP", "stsb": "STS-B", "mnli": "MNLI", "qnli": "QNLI",
    "rte": "RTE", "wnli": "WNLI",
}  # fmt: skip


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_task_of_glue_is_read_from_its_folder_and_from_glues(name: str, sample: Path, read: Read) -> None:
    task = resolve_task(name)
    for folder in (sample / "glue", sample / "glue" / FOLDERS[name]):
        train = read(task, folder)
        assert train.table.num_rows == NUM_ROWS["train"]
        assert set(train.num_dropped.values()) == {0}
    targets = train.table["label"].to_numpy()
    if task.type == "regression":
        assert (targets.min(), targets.max()) == pytest.approx((1.2, 5.0))
    else:
        assert sorted(set(targets.tolist())) == list(range(len(task.labels)))
    for split in expand_splits(task, "test"):
        unlabelled = read(task, sample / "glue", split=split, require_labels=False)
        assert unlabelled.table.num_rows == NUM_ROWS["test"]
        with pytest.raises(DataError, match="none of its 30 rows has a label"):
            read(task, sample / "glue", split=split)


def test_the_columns_of_each_task_are_those_of_glue(tmp_path: Path, read: Read) -> None:
    """Rows as in the official files: quotes are text, and the label's column is where it is there."""
    (tmp_path / "train.tsv").write_text(
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t702876\t702977\tA "quote\tB\r\n', "utf-8"
    )
    found = read(resolve_task("mrpc"), tmp_path).table.to_pylist()
    assert found == [{"text_a": 'A "quote', "text_b": "B", "label": 1, "index": 0}]
    (tmp_path / "dev.tsv").write_text(
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain-captions\tMSRvid\t2012test\t0000\tnone\tnone\tA man.\tA woman.\t2.600\n"
    )
    (row,) = read(resolve_task("stsb"), tmp_path, split="dev").table.to_pylist()
    assert row == {"text_a": "A man.", "text_b": "A woman.", "label": pytest.approx(2.6), "index": 0}


def test_a_broken_row_is_named_by_file_and_line_or_counted(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\n4\t5\t6\tA?\tB?\t1\n")
    with pytest.raises(DataError) as e:
        read(resolve_task("qqp"), tmp_path)
    assert str(e.value).startswith(f"{path}, line 2: expected 6 columns, but found 4.")
    assert read(resolve_task("qqp"), tmp_path, on_bad_row="skip").num_dropped["broken row"] == 1


@pytest.mark.parametrize(("score", "cause"), [
    ("5.1", "the score 5.1 is outside of 0 to 5"), ("much", "the score 'much' is not a number"),
    ("nan", "the score nan is outside of 0 to 5"),
])  # fmt: skip
def test_a_wrong_score_is_named_by_file_and_line(tmp_path: Path, read: Read, score: str, cause: str) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(f"sentence1\tsentence2\tscore\na\tb\t1.0\nc\td\t{score}\n")
    with pytest.raises(DataError) as e:
        read(resolve_task("stsb"), tmp_path)
    assert str(e.value).startswith(f"{path}, line 3: {cause}.")


def test_both_development_sets_of_mnli_are_evaluated_and_the_matched_one_decides(sample: Path) -> None:
    mnli = resolve_task("mnli")
    path = str(sample / "glue")
    assert default_valid_split(mnli, path, cache=sample) == "dev_matched,dev_mismatched"
    assert expand_splits(mnli, "dev") == ("dev_matched", "dev_mismatched")
    assert expand_splits(mnli, "dev,test_matched,dev_matched") == (
        "dev_matched", "dev_mismatched", "test_matched",
    )  # fmt: skip
    assert expand_splits(mnli, "some,file.tsv") == ("some,file.tsv",)
    assert not has_split(mnli, path, split="diagnostic", cache=sample)


def test_each_task_of_glue_has_its_official_metric_and_the_file_that_its_server_wants() -> None:
    assert {name: resolve_task(name).metric for name in ("cola", *FOLDERS)} == {
        "cola": "mcc", "sst2": "accuracy", "mrpc": "f1", "qqp": "f1", "stsb": "spearman", "mnli": "accuracy",
        "qnli": "accuracy", "rte": "accuracy", "wnli": "accuracy",
    }  # fmt: skip
    wanted = {
        file for name in ("cola", *FOLDERS) for file in files_of(resolve_task(name)).submission.values()
    }
    assert wanted == {
        "CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv",
        "RTE.tsv", "WNLI.tsv", "AX.tsv",
    }  # fmt: skip
    assert all(task.metric in METRICS[task.type] for task in BUILT_IN.values())


def test_swag_is_read_with_its_endings_after_the_second_sentence(sample: Path, read: Read) -> None:
    swag = resolve_task("swag")
    (first, *_) = read(swag, sample / "swag").table.to_pylist()
    assert len(first["endings"]) == 4
    assert all(ending.startswith("This is about ") for ending in first["endings"])
    right = first["endings"][first["label"]].removeprefix("This is about ").removesuffix(".")
    assert right in first["text_a"]
    for split, num_rows in (("dev", 60), ("test", 30)):
        assert read(swag, sample / "swag", split=split).table.num_rows == num_rows


def test_a_row_without_an_ending_or_with_a_wrong_label_is_named(tmp_path: Path, read: Read) -> None:
    header = "sent1,sent2,ending0,ending1,ending2,ending3,label\n"
    path = tmp_path / "train.csv"
    for row, cause in (
        ("a,b,1,2,3,0", "expected 7 columns, but found 6."),
        ("a,b,1,2,3,4,4", "the label '4' is not one of 0, 1, 2, 3."),
        ("a,b,1,,3,4,0", "the column 'ending1' is empty."),
    ):
        path.write_text(header + "a,b,1,2,3,4,0\n" + row + "\n")
        with pytest.raises(DataError) as e:
            read(resolve_task("swag"), tmp_path)
        assert str(e.value).startswith(f"{path}, line 3: {cause}")
    path.write_text("sent1,sent2,ending0,ending1,label\na,b,1,2,0\n")
    with pytest.raises(DataError, match="there is no column 'ending2'; the file has sent1, sent2, ending0,"):
        read(resolve_task("swag"), tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "path", "rows"),
    [
        ("rte", "glue", (2490, 277)), ("stsb", "glue/STS-B", (5749, 1500)), ("swag", "swag", (1665, 556)),
    ],
)  # fmt: skip
def test_the_published_files_are_read_whole(
    name: str, path: str, rows: tuple[int, int], real_data: Path, read: Read
) -> None:
    found = [read(resolve_task(name), real_data / path, split=split) for split in ("train", "dev")]
    assert tuple(part.table.num_rows for part in found) == rows
    assert not any(np.isnan(part.table["label"].to_numpy()).any() for part in found)
