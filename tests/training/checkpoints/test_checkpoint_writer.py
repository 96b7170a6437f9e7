"""Checkpoints that a thread writes are those that the training thread writes; in fp32 on the CPU."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bertjobs.errors import StorageError
from bertjobs.storage import JobDir
from bertjobs.training.checkpoints import checkpoint_writer
from bertjobs.training.checkpoints.checkpoint import Checkpoint, read_checkpoint
from bertjobs.training.monitoring.progress import Progress

CONFIG = {"checkpoint_steps": 4, "max_steps": 14}
"""Checkpoints after steps 4, 8, 9 (the epoch's end), 12 and 14."""


def _files(folder: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "j-test" / "checkpoints" / name).iterdir()}


def _published_files(tiny: ModuleType, folder: Path, **run: Any) -> dict[str, dict[str, bytes]]:
    """Run, and return the files of each checkpoint at the time when it was published."""
    found: dict[str, dict[str, bytes]] = {}
    hooks = tiny.MemoryHooks(before_publish=lambda name, _: found.update({name: _files(folder, name)}))
    tiny.run_finetune(folder, tiny.make_config(**CONFIG), hooks=hooks, **run)
    assert hooks.published == list(found)
    return found


@dataclass
class Gate:
    """Stands in for `store_checkpoint`: writes nothing before the hooks have seen a step."""

    store: Callable[..., str]
    opens: threading.Event = field(default_factory=threading.Event)
    num_writing: int = 0
    most_writing: int = 0

    def __call__(self, *given: Any, **named: Any) -> str:
        self.num_writing += 1
        self.most_writing = max(self.most_writing, self.num_writing)
        assert self.opens.wait(60)
        name = self.store(*given, **named)
        self.num_writing -= 1
        return name


def test_steps_are_taken_while_a_checkpoint_is_written_and_do_not_change_it(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _published_files(tiny, tmp_path / "at once")
    assert list(expected) == [f"step-{step:08d}" for step in (4, 8, 9, 12, 14)]

    gate = Gate(checkpoint_writer.store_checkpoint)
    monkeypatch.setattr(checkpoint_writer, "store_checkpoint", gate)
    published_at: list[tuple[int, int]] = []

    class Hooks(tiny.MemoryHooks):  # type: ignore[misc, name-defined]
        def on_progress(self, progress: Progress) -> None:
            published_at.append((progress.step, len(self.published)))
            if progress.step == 8:  # the next checkpoint is due, and waits for this one
                gate.opens.set()

    found: dict[str, dict[str, bytes]] = {}
    hooks = Hooks(before_publish=lambda name, _: found.update({name: _files(tmp_path / "behind", name)}))
    tiny.run_finetune(tmp_path / "behind", tiny.make_config(**CONFIG), hooks=hooks, writes_behind=True)
    assert published_at[:8] == [(step, 0) for step in range(1, 9)], "steps 5 to 8 waited for a checkpoint"
    assert gate.most_writing == 1
    assert found == expected
    kept = JobDir(str(tmp_path / "behind"), "j-test").list("checkpoints")
    assert kept == JobDir(str(tmp_path / "at once"), "j-test").list("checkpoints")


def test_a_run_resumes_exactly_from_a_checkpoint_that_a_thread_wrote(
    tiny: ModuleType, tmp_path: Path
) -> None:
    whole = tiny.run_finetune(tmp_path / "whole", tiny.make_config(**CONFIG))[1].state_dict()
    hooks = tiny.MemoryHooks(stop_after=5)
    tiny.run_finetune(tmp_path / "parts", tiny.make_config(**CONFIG), hooks=hooks, writes_behind=True)
    assert hooks.published == ["step-00000004", "step-00000006"]
    _, model, _ = tiny.run_finetune(
        tmp_path / "parts", tiny.make_config(**CONFIG), resume=hooks.published[-1], writes_behind=True,
        model=tiny.make_model(seed=9),
    )  # fmt: skip
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, whole[name])] == []


@pytest.mark.parametrize(("fails_at", "last_step"), [(4, 8), (14, 14)])
def test_an_error_of_the_thread_ends_the_run_at_the_next_checkpoint_or_the_end(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, last_step: int
) -> None:
    store = checkpoint_writer.store_checkpoint

    def full(job_dir: JobDir, checkpoint: Checkpoint, *, num_done: int) -> str:
        if num_done == fails_at:
            raise StorageError("No space left on device")
        return store(job_dir, checkpoint, num_done=num_done)

    monkeypatch.setattr(checkpoint_writer, "store_checkpoint", full)
    hooks = tiny.MemoryHooks()
    with pytest.raises(StorageError, match="No space left on device"):
        tiny.run_finetune(tmp_path, tiny.make_config(**CONFIG), hooks=hooks, writes_behind=True)
    assert hooks.progress[-1].step <= last_step
    assert f"step-{fails_at:08d}" not in hooks.published
    assert not any(thread.name == "bertjobs-checkpoint" for thread in threading.enumerate())


def test_an_error_in_a_step_waits_for_the_thread_and_publishes_nothing(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(checkpoint_writer.store_checkpoint)
    monkeypatch.setattr(checkpoint_writer, "store_checkpoint", gate)

    class Hooks(tiny.MemoryHooks):  # type: ignore[misc, name-defined]
        def on_progress(self, progress: Progress) -> None:
            if progress.step == 6:
                gate.opens.set()
                raise RuntimeError("step 6 fails")

    hooks = Hooks()
    with pytest.raises(RuntimeError, match="step 6 fails"):
        tiny.run_finetune(tmp_path, tiny.make_config(**CONFIG), hooks=hooks, writes_behind=True)
    assert hooks.published == []
    assert not any(thread.name == "bertjobs-checkpoint" for thread in threading.enumerate())


def test_a_full_disk_is_told_of_the_checkpoint_that_filled_it(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> str:
        assert opens.wait(60)
        raise StorageError("step-00000004: No space left on device")

    class Hooks(tiny.MemoryHooks):  # type: ignore[misc, name-defined]
        def on_progress(self, progress: Progress) -> None:
            if progress.step == 6:  # the thread has filled the disk, and has not failed yet
                opens.set()
                raise StorageError("progress.json: No space left on device")

    opens = threading.Event()
    monkeypatch.setattr(checkpoint_writer, "store_checkpoint", full)
    with pytest.raises(StorageError, match="step-00000004: No space left on device"):
        tiny.run_finetune(tmp_path, tiny.make_config(**CONFIG), hooks=Hooks(), writes_behind=True)


def test_a_kill_while_the_thread_writes_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_writer.py")
    path = os.pathsep.join([str(script.parents[1]), *sys.path])
    killed = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    assert killed.stdout.split() == ["step-00000004"]
    assert JobDir(str(tmp_path), "j-test").list("checkpoints") == ["step-00000004"]
    read = read_checkpoint(tmp_path / "j-test" / "checkpoints" / "step-00000004")
    assert read.state["num_done"] == 4
