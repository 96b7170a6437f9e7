"""Whole jobs through the queue of a real stack: what a user types, and what is there afterwards."""

import hashlib
import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

FINETUNE = ("submit", "finetune", "--preset", "demo", "--epochs", "4")
"""Trained with `--precision auto`, as users do: in bf16 or in fp32, and what is asserted holds in either."""


def is_running_after(step: int) -> Any:
    return lambda status: status["state"] == "RUNNING" and status["progress"].get("step", 0) > step


def has_ended(status: dict[str, Any]) -> bool:
    return status["ended_at"] is not None


@pytest.fixture(scope="session")
def finetuned(cluster, sample) -> dict[str, Any]:
    """Return what `submit finetune --wait --json` says of an undisturbed job."""
    return cluster.json(*FINETUNE, "--data", str(sample / "snli_1.0"), "--wait")


def test_a_finetuned_job_reports_the_promised_document(finetuned):
    promised = {"id", "kind", "state", "reason", "attempts", "metrics", "artifacts"}
    assert promised | {"submitted_at", "started_at", "ended_at"} <= finetuned.keys()
    assert (finetuned["kind"], finetuned["state"], finetuned["reason"]) == ("finetune", "SUCCEEDED", None)
    assert finetuned["attempts"] == 1
    assert finetuned["metrics"]["accuracy"] > 0.45  # three classes, and a model that saw 600 pairs four times
    for key in ("submitted_at", "started_at", "ended_at"):
        assert finetuned[key].endswith(("Z", "+00:00"))
    for path in [finetuned["artifacts"][k] for k in ("dir", "model", "predictions")]:
        assert Path(path).exists()
    assert [Path(p).read_bytes()[:4] for p in finetuned["artifacts"]["plots"]] == [b"\x89PNG"] * 2


def test_the_model_opens_in_transformers_and_predicts_what_we_predicted(finetuned):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = finetuned["artifacts"]["model"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = pq.read_table(finetuned["artifacts"]["predictions"]).slice(0, 16).to_pydict()
    encoded = tokenizer(rows["text_a"], rows["text_b"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        probabilities = model(**encoded).logits.softmax(dim=1).numpy()
    names = [model.config.id2label[i] for i in range(3)]
    ours = np.stack([rows[f"p_{name}"] for name in names], axis=1)
    assert np.abs(probabilities - ours).max() < 1e-4
    assert rows["prediction"] == [names[i] for i in probabilities.argmax(axis=1)]


def test_evaluating_the_job_on_its_development_file_gives_its_metrics_again(cluster, sample, finetuned):
    data = str(sample / "snli_1.0")
    evaluated = cluster.json(
        "submit", "evaluate", "--model", finetuned["id"], "--task", "snli", "--data", data, "--wait"
    )
    assert evaluated["state"] == "SUCCEEDED"
    for metric in ("accuracy", "mcc", "f1", "num_examples"):
        assert evaluated["metrics"][metric] == finetuned["metrics"][metric]
    assert evaluated["metrics"]["loss"] == pytest.approx(finetuned["metrics"]["loss"], abs=1e-5)


def test_a_task_that_the_model_was_not_trained_for_is_refused_with_the_remedy(cluster, sample, finetuned):
    data = str(sample / "cola_public")
    ended = cluster.json(
        "submit", "evaluate", "--model", finetuned["id"], "--task", "cola", "--split", "out_of_domain_dev",
        "--data", data, "--wait", code=1,
    )  # fmt: skip
    assert (ended["state"], ended["reason"], ended["attempts"]) == ("FAILED", "ModelError", 1)
    assert "Give --task snli" in cluster.json("status", ended["id"])["message"]


def test_the_log_and_the_curves_are_there_afterwards(cluster, finetuned, tmp_path):
    assert "steps 0 to" in cluster.run("logs", finetuned["id"])
    cluster.run("plot", finetuned["id"], "--output", str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_job_runs_from_submit_to_its_log_through_the_server_of_the_page(cluster, sample, finetuned):
    data = str(sample / "snli_1.0")
    words = ("submit", "evaluate", "--model", finetuned["id"], "--task", "snli", "--data", data, "--wait")
    with cluster.through_a_server() as server:
        ended = cluster.json(*words)
        assert ended["state"] == "SUCCEEDED"
        assert ended["metrics"]["accuracy"] == finetuned["metrics"]["accuracy"]
        assert "evaluate" in cluster.run("logs", ended["id"])
        page = cluster.json("status", ended["id"])["dashboard_url"]
        assert page.startswith(f"{server['BERTJOBS_SERVER']}/ray/#/jobs/")
        address = f"{page.partition('#')[0]}api/jobs/bj-{ended['id']}-a1"
        request = urllib.request.Request(
            address, headers={"Authorization": f"Bearer {server['BERTJOBS_TOKEN']}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            # Ray may not have seen the driver's process end yet.
            assert json.load(answer)["submission_id"] == f"bj-{ended['id']}-a1"
    assert not (cluster.home / "nobody").exists(), "no command has started a stack"


def test_more_gpus_than_the_cluster_has_waits_with_the_reason_and_is_cancelled_at_once(cluster, sample):
    job = cluster.run(*FINETUNE, "--data", str(sample / "snli_1.0"), "--gpus", "8").strip()
    status = cluster.wait_for(job, lambda status: status["reason"] == "ExceedsCluster")
    assert (status["state"], status["attempts"]) == ("QUEUED", 0)
    assert "Needs 8 GPUs, the cluster has 0. Submit with --gpus 0" in status["message"]
    cluster.run("cancel", job)
    assert cluster.json("status", job)["state"] == "CANCELLED"


def test_a_cancelled_job_leaves_no_process_and_frees_its_place(cluster, sample):
    job = cluster.run(*FINETUNE, "--data", str(sample / "snli_1.0"), "--epochs", "200").strip()
    cluster.wait_for(job, is_running_after(2))
    cluster.run("cancel", job)
    status = cluster.wait_for(job, has_ended)
    assert (status["state"], status["attempts"]) == ("CANCELLED", 1)
    cluster.assert_nothing_is_left()
    assert not cluster.processes("RayTrainWorker") and not cluster.processes(job)


def test_a_checkpoint_cut_short_fails_the_job_and_says_so(cluster, sample, finetuned, tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in Path(finetuned["artifacts"]["model"]).iterdir():
        content = file.read_bytes()
        (cut / file.name).write_bytes(content[:1000] if file.suffix == ".safetensors" else content)
    data = str(sample / "snli_1.0")
    ended = cluster.json(
        "submit", "finetune", "--task", "snli", "--data", data, "--model", str(cut), "--wait", code=1
    )  # fmt: skip
    assert (ended["state"], ended["reason"], ended["attempts"]) == ("FAILED", "ModelError", 1)
    assert "model.safetensors is cut short" in cluster.json("status", ended["id"])["message"]


def test_two_workers_follow_the_losses_of_one(cluster, sample):
    """In fp32: in bf16 a row's result depends on the rows that share its batch; see `test_two_ranks.py`."""
    given = (*FINETUNE, "--precision", "fp32", "--data", str(sample / "snli_1.0"), "--wait")
    one, two = cluster.json(*given), cluster.json(*given, "--workers", "2")
    one_losses, two_losses = losses_of(one), losses_of(two)
    assert len(one_losses) == len(two_losses) == one["metrics"]["num_steps"]
    assert np.abs(two_losses / one_losses - 1).max() < 1e-4


def test_what_is_killed_one_after_the_other_ends_with_the_weights_of_an_undisturbed_run(
    cluster, sample, finetuned
):
    """The same job; its worker, its driver, the dispatcher and Redis are killed while it trains."""
    job = cluster.run(
        *FINETUNE, "--data", str(sample / "snli_1.0"), "--checkpoint-steps", "5", "--name", "killed"
    ).strip()
    cluster.wait_for(job, is_running_after(7))
    cluster.kill("ray::RayTrainWorker")
    cluster.wait_for(job, lambda status: status["attempts"] == 2)
    cluster.wait_for(job, is_running_after(12))
    cluster.kill_members("dispatcher", "redis")
    # The watchdog restarts both; the driver continues meanwhile, and the new dispatcher adopts it.
    cluster.wait_for(job, is_running_after(20))
    assert cluster.json("status", job)["attempts"] == 2
    cluster.kill(f"bertjobs.runs {job}")
    ended = cluster.wait_for(job, has_ended)
    assert (ended["state"], ended["attempts"]) == ("SUCCEEDED", 3)
    assert weights_of(ended) == weights_of(finetuned)
    assert np.array_equal(losses_of(ended), losses_of(finetuned))
    listed = [job["id"] for job in cluster.json("list", "--all")]
    assert listed.index(job) < listed.index(finetuned["id"])  # latest first; Redis forgot none of them


def losses_of(job: dict[str, Any]) -> np.ndarray:
    lines = (Path(job["artifacts"]["dir"]) / "metrics.jsonl").read_text().splitlines()
    return np.array([row["loss"] for row in map(json.loads, lines) if row["kind"] == "step"])


def weights_of(job: dict[str, Any]) -> str:
    return hashlib.sha256((Path(job["artifacts"]["model"]) / "model.safetensors").read_bytes()).hexdigest()
