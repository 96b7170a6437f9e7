"""Several gloo processes follow the losses of one: dropout on, a last batch with fewer rows than ranks.

In fp32 where a test does not say bf16, and on one thread each.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

NUM_ROWS = 65
"""At batch 8: 9 steps an epoch, the last with a single row."""
TRAIN = {"epochs": 2}


def _run_ranks(
    folder: Path, *, world_size: int, script: str = "two_ranks_worker.py", **spec: Any
) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    (folder / "rendezvous").unlink(missing_ok=True)
    path = folder / "spec.json"
    path.write_text(
        json.dumps({"folder": str(folder), "world_size": world_size, "num_rows": NUM_ROWS, **spec})
    )
    worker = Path(__file__).with_name(script)
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(path), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(outputs)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world_size)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Give the folder of a run of so many ranks, run once for all tests."""

    @cache
    def run(world_size: int) -> Path:
        folder = tmp_path_factory.mktemp("ranks")
        _run_ranks(folder, world_size=world_size, train=TRAIN)
        return folder

    return run


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_follow_the_losses_of_one(
    tiny: ModuleType, tmp_path: Path, undisturbed: Callable[[int], Path], world_size: int
) -> None:
    _, model, hooks = tiny.run_finetune(tmp_path, tiny.make_config(**TRAIN), num_rows=NUM_ROWS)
    many = undisturbed(world_size)
    first, *others = [json.loads(path.read_text()) for path in sorted(many.glob("rank?.json"))]
    assert len(hooks.progress) == 18
    expected = [[p.step, p.loss, p.grad_norm] for p in hooks.progress]
    np.testing.assert_allclose(first["steps"], expected, rtol=1e-4)
    best = max(hooks.epochs, key=lambda epoch: epoch.metrics.accuracy).metrics
    assert first["metrics"]["confusion"] == [list(row) for row in best.confusion]
    assert first["metrics"]["loss"] == pytest.approx(best.loss, rel=1e-3)
    assert len(others) == world_size - 1
    weights = load_file(many / "rank0.st")
    for name, tensor in model.state_dict().items():
        if name.endswith("key.bias"):
            continue  # its true gradient is 0: AdamW makes steps of what rounding leaves
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=2e-4)
    for rank, other in enumerate(others, start=1):
        assert other["steps"] == [] and other["published"] == []  # rank 0 speaks
        assert other["metrics"] == first["metrics"]
        theirs = load_file(many / f"rank{rank}.st")
        assert all(torch.equal(theirs[name], weights[name]) for name in weights)


def test_ranks_that_exchange_by_ddp_follow_the_losses_of_one(tiny: ModuleType, tmp_path: Path) -> None:
    """Two microbatches on each of three ranks; an epoch's last batch leaves two ranks without rows."""
    _, model, hooks = tiny.run_finetune(tmp_path / "one", tiny.make_config(**TRAIN), num_rows=NUM_ROWS)
    train = {**TRAIN, "accumulation": 2, "grad_exchange": "fp32"}
    first, *others = _run_ranks(tmp_path / "three", world_size=3, train=train)
    expected = [[p.step, p.loss, p.grad_norm] for p in hooks.progress]
    np.testing.assert_allclose(first["steps"], expected, rtol=1e-4)
    weights = load_file(tmp_path / "three" / "rank0.st")
    for name, tensor in model.state_dict().items():
        if name.endswith("key.bias"):
            continue  # its true gradient is 0: AdamW makes steps of what rounding leaves
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=2e-4)
    for rank, other in enumerate(others, start=1):
        assert other["metrics"] == first["metrics"]
        theirs = load_file(tmp_path / "three" / f"rank{rank}.st")
        assert all(torch.equal(theirs[name], weights[name]) for name in weights)


def test_gradients_that_travel_in_bf16_change_losses_a_little_and_ranks_stay_equal(
    tiny: ModuleType, tmp_path: Path
) -> None:
    _, _, hooks = tiny.run_finetune(tmp_path / "one", tiny.make_config(epochs=1), num_rows=NUM_ROWS)
    train = {"epochs": 1, "grad_exchange": "bf16"}
    first, _ = _run_ranks(tmp_path / "two", world_size=2, train=train)
    _, losses, norms = zip(*first["steps"], strict=True)
    expected = [p.grad_norm for p in hooks.progress]
    assert losses == pytest.approx([p.loss for p in hooks.progress], rel=tiny.BF16_EPS)
    assert norms == pytest.approx(expected, rel=4 * tiny.BF16_EPS)
    assert norms != pytest.approx(expected, rel=1e-6), "they travelled in fp32"
    ours, theirs = (load_file(tmp_path / "two" / f"rank{rank}.st") for rank in (0, 1))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ranks_follow_the_losses_of_one_in_bf16(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row's result is rounded another way beside other rows; ranks agree with each other all the same."""
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "bf16")
    train = {"epochs": 1, "precision": "bf16"}
    _, _, hooks = tiny.run_finetune(tmp_path / "one", tiny.make_config(**train), num_rows=NUM_ROWS)
    first, second = _run_ranks(tmp_path / "two", world_size=2, train=train)
    assert len(first["steps"]) == len(hooks.progress) == 9
    _, losses, norms = zip(*first["steps"], strict=True)
    assert losses == pytest.approx([p.loss for p in hooks.progress], rel=tiny.BF16_EPS)
    assert norms == pytest.approx([p.grad_norm for p in hooks.progress], rel=4 * tiny.BF16_EPS)
    assert first["metrics"] == second["metrics"]
    ours, theirs = (load_file(tmp_path / "two" / f"rank{rank}.st") for rank in (0, 1))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ranks_stop_together_and_go_on_to_the_same_end(
    tmp_path: Path, undisturbed: Callable[[int], Path]
) -> None:
    many = undisturbed(2)
    whole = json.loads((many / "rank0.json").read_text())
    first = _run_ranks(tmp_path, world_size=2, train=TRAIN, stop_after=10)
    assert [rank["num_steps"] for rank in first] == [11, 11]
    assert [rank["stopped"] for rank in first] == ["asked to", "rank 0 asked to stop"]
    rest = _run_ranks(tmp_path, world_size=2, train=TRAIN, resume=first[0]["published"][-1])
    assert rest[0]["steps"] == whole["steps"][11:]
    ours, theirs = load_file(tmp_path / "rank1.st"), load_file(many / "rank0.st")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "budget", [{"max_steps": 12}, {"max_steps": 12, "grad_exchange": "fp32"}, {"max_time_s": 30.0}]
)
def test_pretraining_ranks_follow_the_losses_of_one(
    tiny_pretrain: ModuleType, tmp_path: Path, budget: dict[str, float]
) -> None:
    train = {"batch_size": 7, "eval_steps": 5, **budget}
    many = _run_ranks(tmp_path, world_size=2, script="pretrain_ranks_worker.py", train=train)
    assert many[0]["num_steps"] == many[1]["num_steps"] > 8
    assert many[0]["metrics"] == many[1]["metrics"]
    assert many[1]["steps"] == []  # rank 0 speaks
    if "max_steps" not in budget:
        return  # where a clock decides, two runs are no two equal runs
    config = tiny_pretrain.make_config(**train)
    result, _, hooks = tiny_pretrain.run_pretrain(tmp_path / "one", config)
    expected = [[p.losses["mlm_loss"], p.losses["nsp_loss"], p.grad_norm] for p in hooks.progress]
    np.testing.assert_allclose(many[0]["steps"], expected, rtol=1e-4)
    assert many[0]["num_tokens"] == result.num_tokens
    assert many[0]["metrics"]["num_masked"] == result.metrics.num_masked
    assert many[0]["metrics"]["loss"] == pytest.approx(result.metrics.loss, rel=1e-4)
