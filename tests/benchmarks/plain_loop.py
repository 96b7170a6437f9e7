"""What the benchmarks of single tasks share: a plain `transformers` loop, and the timing of ours."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from bertjobs.training.monitoring.progress import EpochResult, Progress
from bertjobs.training.precision import training_dtype


def run_variant(script: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Run one variant of a benchmark in a process of its own; return the JSON of its last line."""
    command = [sys.executable, script, *(f"--{name}={value}" for name, value in values.items())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


class PlainLoop:
    """AdamW with linear warmup and decay, clipping at 1, and autocast where the processor has bf16."""

    def __init__(self, model: Any, *, lr: float, num_steps: int) -> None:
        import transformers

        no_decay = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
        decay = [p for n, p in model.named_parameters() if not (n.endswith("bias") or "LayerNorm" in n)]
        groups = [{"params": decay, "weight_decay": 0.01}, {"params": no_decay, "weight_decay": 0.0}]
        self._model = model.train()
        self._optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
        self._schedule = transformers.get_linear_schedule_with_warmup(
            self._optimizer, num_steps // 10, num_steps
        )
        self._dtype = training_dtype("auto", torch.device("cpu"))

    def step(self, **batch: torch.Tensor) -> None:
        """Take one step on what the model's `forward` takes, labels included."""
        with torch.autocast("cpu", dtype=self._dtype, enabled=self._dtype != torch.float32):
            loss = self._model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()


class Stopwatch:
    """Hooks that time the steps after the warmup, without evaluations."""

    def __init__(self, *, warmup_steps: int) -> None:
        self._warmup_steps = warmup_steps
        self.step = self.paused_s = self.began = self.ended = 0.0

    def on_progress(self, progress: Progress) -> None:
        self.ended = time.perf_counter()
        self.step = progress.step
        if progress.step <= self._warmup_steps:
            self.began = self.ended

    def on_epoch(self, result: EpochResult) -> None:
        """Evaluate once, after the last step: nothing to leave out."""

    def before_checkpoint(self) -> None:
        """Nobody else writes."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Not timed: it lies after the last step."""

    def should_stop(self) -> str | None:
        return None
