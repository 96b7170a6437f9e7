"""Lines of files through the queue of a real stack: what lies there afterwards, and never half of it."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bertjobs.modeling import BertConfig, build_pretraining, save_pretrained
from bertjobs.text.vocabulary import train_wordpiece

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

TEXT = "a crane is flying over the old tower where he just left his driver"
WORDS = TEXT.split()
WORKER = "ray::MapWorker(MapBatches(EmbedLines))"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Random weights, large enough that a job takes a while."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_wordpiece([TEXT], vocab_size=120)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=1024, max_position_embeddings=64, initializer_range=0.1,
    )  # fmt: skip
    save_pretrained(build_pretraining(config, seed=0), folder)
    tokenizer.save(folder)
    return str(folder)


def write_lines(path: Path, count: int) -> Path:
    lines = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(3, 8 + i % 40)) for i in range(count)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def has_ended(status) -> bool:
    return status["ended_at"] is not None


def is_at_work(status) -> bool:
    return status["state"] == "RUNNING" and status["progress"].get("step", 0) >= 1


def test_each_line_has_the_vector_that_the_foreground_gives_it(cluster, model, tmp_path):
    (tmp_path / "lines.txt").write_text("a crane is flying\n\nthe old tower|he just left\ncrane\n")
    ended = cluster.json(
        "submit", "encode", "--model", model, "--data", str(tmp_path), "--pair-separator", "|", "--wait"
    )
    assert (ended["state"], ended["kind"], ended["attempts"]) == ("SUCCEEDED", "encode", 1)
    assert ended["metrics"]["dim"] == 256
    assert {name: ended["metrics"][name] for name in ("num_texts", "num_cut", "num_left_out")} == {
        "num_texts": 3,
        "num_cut": 0,
        "num_left_out": 1,
    }
    assert ended["metrics"]["texts_per_s"] > 0
    table = pq.read_table(ended["artifacts"]["embeddings"])
    texts = table["text"].to_pylist()
    assert table["line"].to_pylist() == [1, 3, 4]
    assert table["file"].to_pylist() == [str(tmp_path / "lines.txt")] * 3
    expected = cluster.json("encode", *texts, "--model", model)["texts"]
    assert table["num_tokens"].to_pylist() == [len(text["tokens"]) for text in expected]
    assert sum(table["num_tokens"].to_pylist()) == ended["metrics"]["num_tokens"]
    ours = np.stack(table["vector"].to_numpy())
    assert np.abs(ours - [text["vectors"][0]["vector"] for text in expected]).max() < 1e-4


def test_a_line_that_cannot_be_read_fails_the_job_by_its_number(cluster, model, tmp_path):
    (tmp_path / "x.txt").write_bytes(b"a crane\n\xff\n")
    ended = cluster.json(
        "submit", "encode", "--model", model, "--data", str(tmp_path / "x.txt"), "--wait", code=1
    )
    assert (ended["state"], ended["reason"], ended["attempts"]) == ("FAILED", "DataError", 1)
    assert "x.txt, line 2: byte 0xff" in cluster.json("status", ended["id"])["message"]
    assert not (Path(ended["artifacts"]["dir"]) / "embeddings").exists()


def test_a_killed_worker_costs_an_attempt_and_publishes_nothing_halfway(cluster, model, tmp_path):
    data = write_lines(tmp_path / "many.txt", 4_000)
    job = cluster.run("submit", "encode", "--model", model, "--data", str(data)).strip()
    cluster.wait_for(job, is_at_work)
    cluster.kill(WORKER)
    cluster.wait_for(job, lambda status: status["attempts"] == 2)
    assert not (cluster.home / "jobs" / job / "embeddings").exists()
    ended = cluster.wait_for(job, has_ended)
    assert (ended["state"], ended["attempts"]) == ("SUCCEEDED", 2)
    table = pq.read_table(ended["artifacts"]["embeddings"])
    assert table["line"].to_pylist() == list(range(1, 4_001))
    assert table["text"].to_pylist() == data.read_text().splitlines()
    folder = cluster.home / "jobs" / job
    assert json.loads((folder / "metrics.json").read_text())["num_texts"] == 4_000
    assert not list(folder.glob(".*"))  # nothing of the first attempt is left


def test_a_cancelled_job_leaves_no_vectors_and_no_process(cluster, model, tmp_path):
    data = write_lines(tmp_path / "many.txt", 30_000)
    job = cluster.run("submit", "encode", "--model", model, "--data", str(data)).strip()
    cluster.wait_for(job, is_at_work)
    cluster.run("cancel", job)
    status = cluster.wait_for(job, has_ended)
    assert (status["state"], status["attempts"]) == ("CANCELLED", 1)
    cluster.assert_nothing_is_left()
    assert not cluster.processes("MapWorker") and not cluster.processes(job)
    assert not (cluster.home / "jobs" / job / "embeddings").exists()
