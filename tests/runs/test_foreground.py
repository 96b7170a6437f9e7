"""`bertjobs run`: the same work without a queue, and resuming an earlier run in the same folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertjobs.errors import RunError
from bertjobs.runs import foreground
from bertjobs.runs.foreground import FileReporter
from bertjobs.storage import JobDir


@pytest.fixture
def written(monkeypatch):
    """The steps that are written to progress.json, at a clock that advances by 10 ms per look."""
    written, write_json, now = [], JobDir.write_json, iter(i / 100 for i in range(1000))
    monkeypatch.setattr("bertjobs.jobs.driver.throttle.time.monotonic", lambda: next(now))

    def count(self, name, values):
        assert name == "progress.json"
        written.append(values["step"])
        write_json(self, name, values)

    monkeypatch.setattr(JobDir, "write_json", count)
    return written


def test_progress_is_written_once_a_second_and_at_the_last_step(tmp_path, written):
    reporter = FileReporter(JobDir(str(tmp_path), "run"))
    for step in range(1, 41):
        reporter.progress({"step": step, "num_steps": 40})
    assert written == [1, 40]


@pytest.mark.parametrize("end", [lambda r: r.close(), lambda r: r.set_phase("writing predictions")])
def test_the_last_progress_of_a_phase_is_written(tmp_path, written, end):
    reporter = FileReporter(JobDir(str(tmp_path), "run"))
    for step in (1, 2, 3):
        reporter.progress({"step": step, "num_steps": 40})
    end(reporter)
    assert written == [1, 3]
    assert JobDir(str(tmp_path), "run").read_json("progress.json")["step"] == 3


@pytest.mark.parametrize(("num_slow_starts", "is_up"), [(0, True), (1, True), (2, False)])
def test_a_ray_that_is_slow_to_start_is_tried_once_more(monkeypatch, num_slow_starts, is_up):
    starts = []

    def init(**_):
        starts.append(1)
        if len(starts) <= num_slow_starts:
            raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(foreground.ray, "init", init)
    monkeypatch.setattr(foreground.ray, "shutdown", lambda: None)
    if is_up:
        foreground._start_ray()
    else:
        with pytest.raises(RunError, match="did not start within 30 s, twice"):
            foreground._start_ray()
    assert len(starts) == min(num_slow_starts + 1, 2)


def test_another_error_of_ray_is_raised_as_it_is(monkeypatch):
    def init(**_):
        raise ConnectionError("no such address")

    monkeypatch.setattr(foreground.ray, "init", init)
    with pytest.raises(ConnectionError, match="no such address"):
        foreground._start_ray()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_foreground_run_leaves_the_same_artefacts_and_goes_on_in_the_same_folder(sample, tmp_path):
    words = ["run", "finetune", "--task", "cola", "--data", str(sample / "cola_public"), "--epochs", "1"]
    words += ["--max-len", "32", "--vocab-size", "512", "--precision", "fp32"]
    words += ["--output", str(tmp_path / "out"), "--json"]
    first = bertjobs(tmp_path, *words)
    assert (first["state"], first["attempts"]) == ("SUCCEEDED", 1)
    assert -1.0 <= first["metrics"]["mcc"] <= 1.0
    model = Path(first["artifacts"]["model"])
    assert {"config.json", "model.safetensors", "vocab.txt", "bertjobs.json"} <= {
        p.name for p in model.iterdir()
    }
    weights = (model / "model.safetensors").read_bytes()
    again = bertjobs(tmp_path, *words)  # nothing is left to do: the last checkpoint is taken up and judged
    assert (model / "model.safetensors").read_bytes() == weights
    assert {**again["metrics"], "run_s": 0} == {**first["metrics"], "run_s": 0}
    (checkpoint,) = (Path(first["artifacts"]["dir"]) / "checkpoints").iterdir()
    os.truncate(checkpoint / "model.safetensors", 1000)
    assert "was cut short or changed" in bertjobs(tmp_path, *words, code=2)  # it counts
    other = bertjobs(tmp_path, *words, "--lr", "1e-3", code=2)
    assert "holds a run of another configuration" in other


def bertjobs(tmp_path: Path, *words: str, code: int = 0):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("BERTJOBS_", "RAY_"))}
    if forced := os.environ.get("BERTJOBS_TEST_PRECISION"):
        env["BERTJOBS_TEST_PRECISION"] = forced
    done = subprocess.run(
        [sys.executable, "-m", "bertjobs", *words],
        env=env | {"BERTJOBS_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr
