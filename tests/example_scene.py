"""The jobs that the pictures in `docs/images` show."""

import math
import random
from typing import Any

from bertjobs.config.finetune import FinetuneConfig
from bertjobs.jobs.job import State
from bertjobs.jobs.scheduling.types import ReasonChanges, WaitReason
from bertjobs.runs.tune.trial_records import Search, Trial, TrialEvaluation, write_trial
from example_queue import ExampleJob, ExampleQueue

# An 8 by 8 picture that stands for a plot.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000008000000080806000000c40fbe8b0000001b49444154789c63fccfc0f09f010f60c227"
    "392a00110cff0c0c0000a3620311d0e0b2c80000000049454e44ae426082"
)


def furnish(queue: ExampleQueue) -> dict[str, ExampleJob]:
    """Fill the queue; returns the jobs that pictures are about, by name."""
    scene = {
        "first": finished(queue, "snli base, lr 2e-5", lr=2e-5, accuracy=0.884, seed=1),
        "second": finished(queue, "snli base, lr 5e-5", lr=5e-5, accuracy=0.897, seed=0),
        "third": finished(queue, "snli base, lr 1e-4", lr=1e-4, accuracy=0.871, seed=3),
        "failed": _failed(queue),
        "search": search(queue),
        "pretraining": _pretraining(queue),
        "live": _running(queue),
    }
    _waiting(queue, scene["live"])
    for number, name in enumerate(("first", "second", "third")):
        queue.clean_up(scene[name])
        queue.date_back(
            scene[name], 9000 - 900 * number, 8995 - 900 * number, 8980 - 900 * number, 8600 - 900 * number
        )
    queue.clean_up(scene["failed"])
    queue.date_back(scene["failed"], 5400, 5395, 5310, 5290)
    queue.date_back(scene["search"], 1900, 1890, 1880)
    queue.date_back(scene["pretraining"], 700, 690, 650)
    queue.date_back(scene["live"], 200, 190, 155)
    return scene


def config_of(**given: Any) -> dict[str, Any]:
    """Return the whole configuration of a fine-tuning job."""
    return FinetuneConfig.model_validate({"task": {"name": "snli"}, **given}).model_dump(mode="json")


def finished(queue: ExampleQueue, name: str, *, lr: float, accuracy: float, seed: int) -> ExampleJob:
    """Submit a job and run it to its end."""
    job = queue.start(
        queue.submit(name=name, config=config_of(optim={"lr": lr}, train={"batch_size": 64, "seed": seed}))
    )
    for step in range(4, 401, 4):
        job.step(step, lr=lr, seed=seed)
        if step % 80 == 0:
            job.evaluation(step, accuracy=accuracy - 0.3 * 0.5 ** (step / 80))
    job.write_log("loading model", "epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3", "done")
    job.job_dir.write_bytes("plots/curves.png", PNG)
    job.job_dir.write_bytes("model/config.json", b"{}")
    job.job_dir.write_bytes("metrics.json", b"{}")
    metrics = {
        "accuracy": accuracy,
        "loss": round(1.2 - accuracy, 4),
        "num_examples": 9842,
        "per_class": per_class(accuracy),
    }
    job.end(State.SUCCEEDED, reason="Done", message="The job has finished.", metrics=metrics)
    return job


def per_class(accuracy: float) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "precision": accuracy + by,
            "recall": accuracy - by / 2,
            "f1": accuracy + by / 4,
            "support": n,
        }
        for label, by, n in (
            ("entailment", 0.012, 3329),
            ("neutral", -0.031, 3235),
            ("contradiction", 0.02, 3278),
        )
    ]


def _failed(queue: ExampleQueue) -> ExampleJob:
    job = queue.start(queue.submit(name="cola large", user="bob", resources={"gpus": 1}), gpus=1)
    job.step(12)
    job.write_log(
        "Traceback (most recent call last):",
        '  File "step.py", line 88, in train_step',
        "torch.OutOfMemoryError",
    )
    job.end(
        State.FAILED,
        reason="CudaOutOfMemory",
        message="CUDA out of memory: tried to allocate 2.1 GiB; `--microbatch-tokens 8192` needs half",
    )
    return job


def search(queue: ExampleQueue) -> ExampleJob:
    """Submit a search and run it until 16 of its 24 trials have ended."""
    job = queue.submit(
        "tune",
        name="snli search",
        user="cleo",
        resources={"gpus": 4},
        config={"task": {"name": "snli"}, "search": {"trials": 24}},
    )
    queue.start(job, node="node-b", gpus=4)
    space = {
        "optim.lr": "loguniform:1e-05,0.0005",
        "text.truncation": "choice:longest_first,head_tail",
        "train.batch_size": "choice:16,32,64",
        "model.hidden_dropout": "uniform:0.0,0.3",
    }
    Search(metric="accuracy", space=space, algorithm="random", stopper="asha", num_trials=24).write(
        job.job_dir
    )
    choose = random.Random(7)
    for number in range(1, 19):
        lr = 10 ** choose.uniform(-5, -3.3)
        dropout = round(choose.uniform(0, 0.3), 3)
        values: dict[str, Any] = {
            "optim.lr": lr,
            "text.truncation": choose.choice(["longest_first", "head_tail"]),
            "train.batch_size": choose.choice([16, 32, 64]),
            "model.hidden_dropout": dropout,
        }
        best = (
            0.9 - 0.05 * abs(-4.3 - math.log10(lr)) ** 1.6 - 0.2 * abs(dropout - 0.1) + choose.gauss(0, 0.004)
        )
        state = (
            "running"
            if number > 16
            else "stopped"
            if best < 0.84
            else "failed"
            if number == 9
            else "finished"
        )
        epochs = 1 if state == "stopped" else 3
        history = tuple(
            TrialEvaluation(
                num_examples=9000 * e,
                step=140 * e,
                epoch=e,
                scores={"accuracy": best - 0.1 / 2**e, "loss": 1.1 - best},
            )
            for e in range(1, epochs + 1)
        )
        write_trial(
            job.job_dir,
            Trial(
                number=number,
                values=values,
                config={},
                state=state,
                reason="asha" if state == "stopped" else "CudaOutOfMemory" if state == "failed" else "",
                history=() if state == "failed" else history,
                train_s=60.0 * epochs,
            ),
        )  # type: ignore[arg-type]
    assert job.driver is not None
    job.driver.report(
        progress={
            "step": 16,
            "num_trials": 24,
            "num_ended": 16,
            "num_stopped_early": 6,
            "num_failed": 1,
            "best": 3,
            "metric": "accuracy",
            "examples_per_s": 4120.0,
            "trials": [],
        }
    )
    return job


def _pretraining(queue: ExampleQueue) -> ExampleJob:
    first = queue.submit(
        "pretrain", name="wikitext-2", config={"corpus": {"name": "wikitext-2"}}, resources={"gpus": 2}
    )
    queue.start(first, node="node-a", gpus=2)
    for step in range(10, 130, 10):
        first.step(step)
    return first


def _running(queue: ExampleQueue) -> ExampleJob:
    job = queue.submit(
        name="snli large",
        config=config_of(
            optim={"lr": 3e-5}, train={"batch_size": 128}, model={"source": "bert-large-uncased"}
        ),
        resources={"gpus": 4},
        user="ada",
    )
    queue.start(job, node="node-a", gpus=4)
    for step in range(1, 171):
        job.step(step, lr=3e-5, seed=1)
        if step % 40 == 0:
            job.evaluation(step, accuracy=0.88 - 0.3 * 0.6 ** (step / 40))
    job.write_log(
        *(
            f"step {step} of 400, loss {0.4 + 0.6 * 0.98**step:.3f}, 1,180 examples/s"
            for step in range(1, 171)
        )
    )
    return job


def _waiting(queue: ExampleQueue, live: ExampleJob) -> None:
    big = [
        queue.submit(name=f"swag base, seed {seed}", user="bob", resources={"gpus": 8}) for seed in range(4)
    ]
    after = queue.submit(
        "evaluate",
        name="snli large on the test split",
        after=[live.id],
        config={"model": {"source": live.id}},
    )
    queue.submit(name="squad v2 tryout", user="cleo", hold=True, resources={"gpus": 1})
    texts = {
        "g8": WaitReason(word="InsufficientGpus", message="needs 8 GPUs, 6 of 16 are free", group="g8"),
        "dep": WaitReason(
            word="WaitingForDependency", message=f"starts when {live.id} has succeeded", group="dep"
        ),
    }
    groups = {**{job.id: "g8" for job in big}, after.id: "dep"}
    queue.dispatch.write_reasons(ReasonChanges(groups=groups, texts=texts, unused=frozenset()))
