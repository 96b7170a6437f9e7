"""Pretraining through the queue: a lost worker costs nothing, and what it made is fine-tuned and asked."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file

pytestmark = [pytest.mark.ray, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = ("--max-steps", "120", "--checkpoint-steps", "20")


def test_a_pretrained_model_survives_a_lost_worker_and_is_used_by_others(cluster, sample) -> None:
    corpus = sample / "corpus" / "train.tokens"
    words = ("submit", "pretrain", "--preset", "demo", "--corpus", str(corpus), *STEPS, "--precision", "fp32")
    undisturbed = cluster.run(*words).strip()
    disturbed = cluster.run(*words).strip()
    follower = cluster.run(
        "submit", "finetune", "--task", "cola", "--data", str(sample / "cola_public"), "--model", disturbed,
        "--max-steps", "4", "--max-len", "32",
    ).strip()  # fmt: skip
    cluster.wait_for(disturbed, lambda s: s["state"] == "RUNNING" and s["progress"]["step"] >= 50)
    cluster.kill("RayTrainWorker")
    first, second, third = (cluster.json("wait", job) for job in (undisturbed, disturbed, follower))
    assert [job["state"] for job in (first, second, third)] == ["SUCCEEDED"] * 3
    assert second["attempts"] == 2
    weights = [load_file(Path(job["artifacts"]["model"]) / "model.safetensors") for job in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert first["metrics"]["mlm_loss"] == second["metrics"]["mlm_loss"] < 4.5  # 6.2 is ln(512)
    assert {"nsp_loss", "nsp_accuracy", "mlm_accuracy", "perplexity"} <= first["metrics"].keys()
    assert [Path(plot).name for plot in first["artifacts"]["plots"]] == ["curves.png"]
    answer = cluster.json("fill-mask", "a [MASK] is swimming in a barn", "--model", disturbed)
    assert len(answer["texts"][0]["masks"][0]["predictions"]) == 5
