"""Predictions of texts and files in this process: what comes out, and what is refused."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bertjobs.errors import ConfigError, DataError, ModelError
from bertjobs.runs.predict.prediction_files import to_json, write_prediction_file
from bertjobs.text.datasets.task import Task
from task_models import TASKS

TOWER = "the driver left his crane over the old tower"


def test_a_text_has_its_labels_by_probability(predict):
    found = predict.texts("cola", "a crane is flying")
    (ranked,) = found.ranked
    assert {value.value for value in ranked} == set(TASKS["cola"].labels)
    assert ranked[0].probability > ranked[1].probability
    assert sum(value.probability for value in ranked) == pytest.approx(1.0)
    assert found.table["prediction"].to_pylist() == [ranked[0].value]
    assert found.table[f"p_{ranked[0].value}"].to_pylist() == [ranked[0].probability]


def test_a_pair_is_the_same_with_a_bar_and_as_two_texts(predict):
    with_bar = predict.texts("rte", "a crane|he left").ranked
    assert with_bar == predict.texts("rte", "a crane", text_pair="he left").ranked
    assert predict.texts("stsb", "a crane|he left").ranked[0][0].probability is None


def test_a_bar_in_a_single_text_is_a_bar(predict):
    assert predict.texts("cola", "a|b").texts == [("a|b",)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_there_may_be_any_number_of_endings(predict, count):
    found = predict.texts("swag", "a crane|he", endings=["left", "flying", "came back", "a", "joy"][:count])
    (ranked,) = found.ranked
    assert sorted(value.value for value in ranked) == list(range(count))
    assert sum(value.probability for value in ranked) == pytest.approx(1.0)


def test_an_answer_is_at_its_offsets_also_where_the_context_needs_windows(predict):
    context = ". ".join([TOWER] * 12)
    found = predict.texts("squad", "who left the tower", "who", context=context)
    for ranked in found.ranked:
        assert all(context[v.start : v.end] == v.value for v in ranked)
        assert len(ranked) == 20
    assert predict.said == []


def test_the_threshold_decides_whether_there_is_an_answer(predict):
    answered, unanswered = (
        predict.texts("squad_v2", "who left", context=TOWER, values={"task.null_threshold": t})
        for t in (99, -99)
    )
    assert answered.ranked[0][0].value in TOWER
    assert answered.ranked[0][0].value
    assert unanswered.ranked[0][0].value == ""
    assert unanswered.table["start"].to_pylist() == [-1]
    assert answered.null_odds == unanswered.null_odds


@pytest.mark.parametrize("model", ["cola", "rte", "stsb", "squad_v2"])
def test_a_row_does_not_depend_on_the_rows_of_its_batch(predict, model):
    texts = ["a crane", "the old tower is flying", "he", "a driver left his crane over the tower", "joy"]
    more = {"context": TOWER} if model == "squad_v2" else {}
    rows = texts if model in ("cola", "squad_v2") else [f"{text}|he left" for text in texts]
    together = predict.texts(model, *rows, **more).table.drop_columns(["prediction"])
    one_by_one = pa.concat_tables(
        [predict.texts(model, row, **more).table.drop_columns(["prediction"]) for row in rows]
    )
    for name in together.column_names:
        if not pa.types.is_string(together[name].type):
            assert np.allclose(together[name], one_by_one[name], rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize(("model", "task"), [("cola", "cola"), ("stsb", "stsb"), ("swag", "swag")])
def test_a_plain_model_predicts_what_that_of_a_job_does(predict, model, task):
    more = {"endings": ["left", "flying", "came", "joy"]} if task == "swag" else {}
    text = "a crane|he left" if task != "cola" else "a crane"
    ours = predict.texts(model, text, **more).ranked
    if task == "swag":  # nothing says that a beginning is part of the endings
        more = {"endings": [f"he left {ending}" for ending in more["endings"]]}
        text = "a crane"
    assert predict.texts(f"plain-{model}", text, **more).ranked == ours


def test_transformers_gives_the_same_probabilities(predict, models):
    transformers = pytest.importorskip("transformers")
    folder, text = models / "plain-cola", "the old tower is flying"
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        (theirs,) = opened(**tokenizer(text, return_tensors="pt")).logits.softmax(dim=1).tolist()
    (ranked,) = predict.texts("plain-cola", text).ranked
    names = opened.config.id2label
    assert {v.value: v.probability for v in ranked} == pytest.approx(
        {names[i]: p for i, p in enumerate(theirs)}, abs=1e-5
    )


def test_a_truncated_text_is_warned_of(predict):
    predict.texts("cola", "a crane " * 60)
    assert predict.said[0].endswith("tokens and is truncated to 64 (--max-len)")


@pytest.mark.parametrize(
    ("model", "texts", "given", "message"),
    [
        ("cola", [], {}, "No text was given"),
        ("cola", [" "], {}, "The text ' ' is empty"),
        ("rte", ["a"], {}, "The text 'a' is a single one, but rte is about pairs"),
        ("rte", ["a|b|c"], {}, "has 2 separators"),
        ("rte", ["a"], {"text_pair": " "}, "The second text is empty"),
        ("cola", ["a"], {"text_pair": "b"}, "--text-pair has no effect: the task cola"),
        ("cola", ["a"], {"context": "b"}, "--context has no effect: the task cola (classification) reads"),
        ("rte", ["a|b"], {"endings": ["x", "y"]}, "--ending has no effect: the task rte"),
        ("squad", ["who"], {}, "There is no context: squad looks for the answer"),
        ("squad", ["who"], {"context": " "}, "There is no context"),
        ("swag", ["a|b"], {"endings": ["x"]}, "swag chooses among endings, and 1 was given"),
        ("swag", ["a|b"], {"endings": ["x", " "]}, "An ending is empty"),
        ("plain-cola", ["a|b", "a"], {}, "Some of the texts are pairs and some are not"),
        ("squad", ["who " * 60], {"context": TOWER}, "The question in row 1 has"),
    ],
)
def test_what_cannot_be_predicted_is_refused(predict, model, texts, given, message):
    with pytest.raises(DataError) as caught:
        predict.texts(model, *texts, **given)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("model", "values", "error", "message"),
    [
        ("pretrained", {}, ModelError, "it was pretrained and has no head to predict with"),
        ("cola", {"task.name": "squad"}, ModelError, "has the head of another type of task"),
        ("cola", {"task.name": "rte"}, ModelError, "was trained for cola"),
        ("plain-cola", {"task.name": "squad"}, ModelError, "has the head of another type of task"),
        ("plain-cola", {"task.name": "mnli"}, ModelError, "has 2 classes, but the task has 3"),
        ("cola", {"task.null_threshold": 1.0}, ConfigError, "--null-threshold has no effect"),
        ("cola", {"text.max_len": 32}, ConfigError, "--max-len 32: the model was trained with 64"),
        ("none", {}, ModelError, "there is no such file or folder"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(predict, model, values, error, message):
    context = {"context": TOWER} if "squad" in str(values) else {}
    with pytest.raises(error) as caught:
        text = "a|b" if values.get("task.name") in ("rte", "mnli") else "a"
        predict.texts(model, text, values=values, **context)
    assert message in caught.value.message


def rows_of(task: Task, count: int) -> list[dict]:
    """Rows with the columns that a task reads, and one more."""
    words = TOWER.split()
    return [
        {
            **{
                name: " ".join(words[(i * k + j) % len(words)] for k in range(1, 4 + i % 5))
                for j, name in enumerate(task.columns.texts)
            },
            "note": f"row {i}",
        }
        for i in range(count)
    ]


def write_rows(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("model", ["cola", "rte", "stsb", "swag", "squad_v2"])
def test_a_file_of_any_format_gives_what_its_texts_give(predict, tmp_path, model, suffix):
    task = TASKS[model]
    rows = rows_of(task, 7)
    found = predict.files(model, write_rows(tmp_path / f"rows{suffix}", rows))
    assert found.table["note"].to_pylist() == [row["note"] for row in rows]
    assert found.texts == [tuple(row[name] for name in task.columns.texts) for row in rows]
    if model in ("cola", "rte"):
        texts = ["|".join(texts) for texts in found.texts]
        alone = predict.texts(model, *texts)
        assert [v[0].value for v in found.ranked] == [v[0].value for v in alone.ranked]
        assert np.allclose(found.table["p_" + task.labels[0]], alone.table["p_" + task.labels[0]], atol=1e-6)


def test_a_plain_model_reads_pairs_where_the_file_has_them(predict, tmp_path):
    pairs = write_rows(tmp_path / "pairs.csv", [{"text_a": "a crane", "text_b": "he left"}])
    singles = write_rows(tmp_path / "singles.csv", [{"text_a": "a crane"}])
    assert predict.files("plain-cola", pairs).ranked == predict.texts("plain-cola", "a crane|he left").ranked
    assert predict.files("plain-cola", singles).ranked == predict.texts("plain-cola", "a crane").ranked


def test_output_files_have_the_columns_of_the_rows_and_of_the_predictions(predict, tmp_path):
    found = predict.files("cola", write_rows(tmp_path / "rows.csv", rows_of(TASKS["cola"], 3)))
    for suffix in (".csv", ".jsonl", ".parquet"):
        write_prediction_file(tmp_path / f"out{suffix}", found)
    names = ["sentence", "note", "prediction", "p_unacceptable", "p_acceptable"]
    with (tmp_path / "out.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == names
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == (
        found.table.to_pylist()
    )
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == found.table.to_pylist()
    assert [float(row["p_acceptable"]) for row in rows] == found.table["p_acceptable"].to_pylist()


def test_the_document_has_the_same_keys_for_each_type(predict):
    document = to_json(predict.texts("cola", "a"), model="m", top_k=None)
    (entry,) = document["predictions"]
    assert document["task"] == {"name": "cola", "type": "classification"}
    assert entry.keys() == {"texts", "prediction", "probability", "candidates"}
    assert len(entry["candidates"]) == 2
    (entry,) = to_json(predict.texts("squad_v2", "who", context=TOWER), model="m", top_k=3)["predictions"]
    assert entry.keys() == {
        "texts", "prediction", "probability", "candidates", "start", "end", "null_odds"
    }  # fmt: skip
    assert len(entry["candidates"]) == 3


@pytest.mark.parametrize(
    ("model", "content", "name", "message"),
    [
        (
            "rte",
            "sentence1,other\na,b\n",
            "x.csv",
            "no column 'sentence2'; the file has sentence1, other",
        ),
        ("cola", "sentence,prediction\na,b\n", "x.csv", "have a column 'prediction' already"),
        ("cola", "sentence\n", "x.csv", "there are no rows in it"),
        ("cola", "", "x.csv", "is empty"),
        ("cola", "sentence,n\na,b,c\n", "x.csv", "x.csv, line 2: expected 2 columns, but found 3"),
        ("cola", '{"sentence": 5}\n', "x.jsonl", "line 1: the field 'sentence' is not a text but 5"),
        ("cola", '{"sentence": "a"}\n{"other": "a"}\n', "x.jsonl", "line 2: there is no text in 'sentence'"),
        ("cola", '{"sentence": "a"}\n{"a\n', "x.jsonl", "line 2: broken JSON"),
        ("squad", "question,context\nwho,\n", "x.csv", "line 2: the column 'context' is empty"),
        ("cola", "a\n", "x.dat", "files ending in '.dat' cannot be read"),
        ("cola", "sentence,sentence\na,b\n", "x.csv", "the column 'sentence' occurs twice"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(predict, tmp_path, model, content, name, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        predict.files(model, tmp_path / name)
    assert message in caught.value.message


def test_bad_rows_are_left_out_when_asked_for(predict, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("question,context\nwho,\nwho left,he left\n")
    found = predict.files("squad", path, **{"data.on_bad_row": "skip"})
    assert found.texts == [("who left", "he left")]


def test_a_task_file_names_the_columns_of_a_plain_model(predict, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "columns: {text_a: tweet, label: label}\nlabels: [unacceptable, acceptable]\n"
    )
    path = write_rows(tmp_path / "rows.csv", [{"tweet": "a crane"}])
    found = predict.files("plain-cola", path, **{"task.name": str(tmp_path / "mine.yaml")})
    assert found.ranked == predict.texts("plain-cola", "a crane").ranked


def test_more_candidates_than_there_are_are_all_of_them(predict):
    found = predict.texts("squad", "who", context="he")
    (entry,) = to_json(found, model="m", top_k=50)["predictions"]
    assert [candidate["value"] for candidate in entry["candidates"]] == ["he"]


def test_of_several_labels_all_above_the_threshold_are_predicted(predict):
    found = predict.texts("topics", "a crane is flying", "the old tower")
    for ranked, predicted in zip(found.ranked, found.table["prediction"].to_pylist(), strict=True):
        above = {value.value for value in ranked if value.probability > 0.4}
        assert {value.value for value in ranked if value.is_predicted} == set(predicted) == above
        assert len(ranked) == 3
    (entry, _) = to_json(found, model="m", top_k=1)["predictions"]
    assert entry["prediction"] == found.table["prediction"][0].as_py()
    assert len(entry["candidates"]) == len(entry["prediction"])
    plain = predict.texts("plain-topics", "a crane is flying").ranked[0]
    assert [v.probability for v in plain] == pytest.approx([v.probability for v in found.ranked[0]])
