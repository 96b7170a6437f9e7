"""Which rows a run works on, and what is written of its predictions."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.config.finetune import DataSection, EvalTextSection
from bertjobs.config.sections import TextSection
from bertjobs.errors import ConfigError, ModelError
from bertjobs.runs.artefacts import Artefact, Predictions, read_artefact, write_predictions
from bertjobs.runs.data.rows import read_training_rows
from bertjobs.runs.evaluate import check_task, trained_text
from bertjobs.storage import JobDir
from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.vocabulary import train_wordpiece


def test_snli_validates_on_its_development_file(sample, tmp_path):
    train, valid = read_training_rows(SNLI, DataSection(path=str(sample / "snli_1.0")), cache=tmp_path)
    assert (train.split, valid.split) == ("train", "dev")
    assert train.table.num_rows > 500 > valid.table.num_rows > 100


def test_cola_holds_out_a_tenth_even_beside_a_development_file(sample, tmp_path):
    train, valid = read_training_rows(COLA, DataSection(path=str(sample / "cola_public")), cache=tmp_path)
    num_rows = train.table.num_rows + valid.table.num_rows
    assert valid.table.num_rows == -(-num_rows // 10)
    assert not set(train.table["index"].to_pylist()) & set(valid.table["index"].to_pylist())


def test_a_limit_takes_the_first_rows_and_has_an_encoded_form_of_its_own(sample, tmp_path):
    path = str(sample / "snli_1.0")
    full, _ = read_training_rows(SNLI, DataSection(path=path), cache=tmp_path)
    some, _ = read_training_rows(SNLI, DataSection(path=path, limit_train=20), cache=tmp_path)
    assert some.table.equals(full.table.slice(0, 20))
    tokenizer = train_wordpiece(full.table["text_a"], vocab_size=256)
    keys = {full.key(SNLI, tokenizer), some.key(SNLI, tokenizer)}
    assert len(keys) == 2
    again, _ = read_training_rows(SNLI, DataSection(path=path), cache=tmp_path)
    assert again.key(SNLI, tokenizer) in keys


def test_parts_of_two_ranks_are_joined_with_texts_and_labels(tmp_path):
    job_dir = JobDir(str(tmp_path), "j")
    table = pa.table(
        {
            "text_a": ["one", "two", "three"],
            "label": pa.array([1, -1, 0], pa.int32()),
            "index": pa.array([0, 1, 2], pa.int64()),
        }
    )
    first, second = Predictions(3, num_labels=2), Predictions(3, num_labels=2)
    first.add(np.array([2, 0]), np.array([[0.9, 0.1], [0.25, 0.75]], dtype=np.float32))
    second.add(np.array([1]), np.array([[0.5, 0.5]], dtype=np.float32))
    first.write(job_dir, rank=0)
    second.write(job_dir, rank=1)
    written = pq.read_table(write_predictions(job_dir, table, task=COLA, num_ranks=2)).to_pydict()
    assert written["text_a"] == ["one", "two", "three"]
    assert written["label"] == ["acceptable", None, "unacceptable"]
    assert written["prediction"] == ["acceptable", "unacceptable", "unacceptable"]
    assert written["p_acceptable"] == [0.75, 0.5, pytest.approx(0.1)]
    assert job_dir.list(".parts") == []


def test_evaluation_cuts_texts_as_training_did_and_refuses_a_contradiction():
    artefact = Artefact(task=SNLI, text=TextSection(max_len=64, truncation="ratio"), trained_by="j-1")
    assert trained_text(EvalTextSection(), artefact) == artefact.text
    assert trained_text(EvalTextSection(max_len=64), artefact) == artefact.text
    with pytest.raises(ConfigError, match=r"--max-len 32: the model was trained with 64. Leave the flag out"):
        trained_text(EvalTextSection(max_len=32), artefact)
    assert trained_text(EvalTextSection(max_len=32), None).max_len == 32


def test_an_artefact_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path):
    artefact = Artefact(task=COLA, text=TextSection(), trained_by="j-1")
    assert read_artefact(tmp_path) is None
    artefact.write(tmp_path)
    assert read_artefact(tmp_path) == artefact
    content = json.loads((tmp_path / "bertjobs.json").read_text())
    del content["task"]["labels"]
    (tmp_path / "bertjobs.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"bertjobs\.json is damaged"):
        read_artefact(tmp_path)


def test_a_pretrained_artefact_has_no_task_and_evaluating_it_says_what_to_do(tmp_path):
    artefact = Artefact(task=None, text=TextSection(max_len=64), trained_by="j-1")
    artefact.write(tmp_path)
    assert read_artefact(tmp_path) == artefact
    with pytest.raises(ModelError, match=r"was pretrained and has no classifier\. Fine-tune it first"):
        check_task(COLA, artefact, tmp_path)
