"""Rows of a file through the queue of a real stack: their columns, and what the foreground predicts."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from task_models import TASKS, write_model

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_each_row_has_the_prediction_that_the_foreground_gives_it(cluster, tmp_path):
    model = str(write_model(tmp_path / "model", TASKS["rte"]))
    words = ["the", "driver", "left", "his", "old", "crane"]
    rows = [f'{i},"{" ".join(words[: 1 + i % 6])}",he left' for i in range(1_500)]
    (tmp_path / "rows.csv").write_text("n,sentence1,sentence2\n" + "\n".join([*rows, "broken"]) + "\n")
    ended = cluster.json(
        "submit", "predict", "--model", model, "--data", str(tmp_path / "rows.csv"),
        "--on-bad-row", "skip", "--wait",
    )  # fmt: skip
    assert (ended["state"], ended["kind"], ended["attempts"]) == ("SUCCEEDED", "predict", 1)
    counted = {name: ended["metrics"][name] for name in ("num_rows", "num_cut", "num_left_out")}
    assert counted == {"num_rows": 1_500, "num_cut": 0, "num_left_out": 1}
    table = pq.read_table(ended["artifacts"]["predictions"])
    assert table.column_names == [
        "n", "sentence1", "sentence2", "prediction", "p_entailment", "p_not_entailment"
    ]  # fmt: skip
    assert table["n"].to_pylist() == [str(i) for i in range(1_500)]
    given = [f"{a}|{b}" for a, b in zip(table["sentence1"][:6], table["sentence2"][:6], strict=True)]
    alone = cluster.json("predict", *given, "--model", model)["predictions"]
    assert [row["prediction"] for row in alone] == table["prediction"][:6].to_pylist()
    best = np.maximum(table["p_entailment"], table["p_not_entailment"])
    assert np.allclose([row["probability"] for row in alone], best[:6], atol=1e-5)
