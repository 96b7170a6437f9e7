"""Questions through the queue of a real stack: fine-tune, evaluate, open in transformers."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def answered(cluster, sample) -> dict[str, Any]:
    return cluster.json(
        "submit", "finetune", "--task", "squad_v2", "--data", str(sample / "squad"), "--model", "tiny",
        "--vocab-size", "512", "--max-len", "48", "--doc-stride", "12", "--max-steps", "24", "--lr", "1e-3",
        "--limit-train", "300", "--limit-valid", "60", "--precision", "fp32", "--wait",
    )  # fmt: skip


def test_a_job_reports_the_metrics_of_squad_and_writes_what_its_scripts_read(answered):
    assert (answered["state"], answered["attempts"]) == ("SUCCEEDED", 1)
    metrics = answered["metrics"]
    assert 0 <= metrics["exact"] <= metrics["f1"] <= 1
    assert metrics["num_has_answer"] + metrics["num_no_answer"] == metrics["num_examples"] == 60
    assert metrics["null_threshold_is_tuned"] is True
    folder = Path(answered["artifacts"]["dir"])
    rows = pq.read_table(answered["artifacts"]["predictions"]).to_pydict()
    predictions = json.loads((folder / "predictions.json").read_text())
    assert predictions == dict(zip(rows["id"], rows["prediction"], strict=True))
    assert json.loads((folder / "null_odds.json").read_text()).keys() == predictions.keys()
    official = json.loads((folder / "scores.json").read_text())
    assert official["f1"] == pytest.approx(100 * metrics["f1"])


def test_evaluating_it_uses_the_threshold_of_the_model_and_gives_its_metrics_again(cluster, sample, answered):
    evaluated = cluster.json(
        "submit", "evaluate", "--model", answered["id"], "--task", "squad_v2",
        "--data", str(sample / "squad"), "--limit", "60", "--wait",
    )  # fmt: skip
    assert evaluated["state"] == "SUCCEEDED"
    assert evaluated["metrics"]["null_threshold"] == answered["metrics"]["null_threshold"]
    assert evaluated["metrics"]["null_threshold_is_tuned"] is False
    for name in ("exact", "f1", "has_answer_f1", "no_answer_f1", "num_windows"):
        assert evaluated["metrics"][name] == answered["metrics"][name]


def test_its_model_opens_in_transformers(answered):
    transformers = pytest.importorskip("transformers")
    model, report = transformers.AutoModelForQuestionAnswering.from_pretrained(
        answered["artifacts"]["model"], output_loading_info=True
    )
    assert type(model).__name__ == "BertForQuestionAnswering"
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
