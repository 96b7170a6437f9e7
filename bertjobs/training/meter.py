"""Reads what a step computed without making the device wait: on CUDA many steps at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bertjobs.errors import TrainingError
from bertjobs.training.objective import AnyStepBatch, Objective
from bertjobs.training.optim import CLOCK, LOSSES, STOP
from bertjobs.training.position import Position
from bertjobs.training.progress import Progress, Speed

_STEPS_PER_READ_CUDA = 20


@dataclass(frozen=True)
class _Unread:
    after: Position
    lr: float
    num_examples: int
    num_tokens: int
    numbers: Tensor
    """Wish to stop, clock, parts of the loss, gradient norm; still on the device."""


class Meter:
    """Collects steps and turns them into `Progress`."""

    def __init__(self, objective: Objective, *, device: torch.device, clock: Callable[[], float]) -> None:
        self._objective = objective
        self._speed = Speed(clock)
        self._steps_per_read = _STEPS_PER_READ_CUDA if device.type == "cuda" else 1
        self._unread: list[_Unread] = []
        self.stop_is_agreed = False
        """Whether a rank's wish to stop has reached all ranks, this one included."""
        self.train_s = 0.0
        """Rank 0's clock as all ranks have read it."""

    def add(
        self, after: Position, *, lr: float, batch: AnyStepBatch, riders: Tensor, grad_norm: Tensor
    ) -> None:
        """Note a step whose gradients were gathered; it led to the position `after`."""
        numbers = torch.cat((riders[: LOSSES + len(self._objective.loss_names)], grad_norm.view(1)))
        self._unread.append(_Unread(after, lr, batch.num_rows, batch.num_tokens, numbers))

    def is_due(self) -> bool:
        """Return whether it is time to read; the same answer on all ranks."""
        return len(self._unread) >= self._steps_per_read

    def read(self) -> list[Progress]:
        """Return the steps since the last reading. This is where the host waits for the device.

        Raises: TrainingError: a loss or a gradient is not finite; on all ranks at once.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return []
        numbers = torch.stack([step.numbers for step in unread]).tolist()
        self._speed.add(
            num_steps=len(unread),
            num_examples=sum(step.num_examples for step in unread),
            num_tokens=sum(step.num_tokens for step in unread),
        )
        self.stop_is_agreed, self.train_s = numbers[-1][STOP] > 0, numbers[-1][CLOCK]
        return [self._progress(step, read) for step, read in zip(unread, numbers, strict=True)]

    def skip_pause(self) -> None:
        """Leave an evaluation or a checkpoint out of the rates."""
        self._speed.skip_pause()

    def _progress(self, unread: _Unread, numbers: list[float]) -> Progress:
        *_, grad_norm = numbers
        parts = dict(zip(self._objective.loss_names, numbers[LOSSES:-1], strict=True))
        loss, num_done = sum(parts.values()), unread.after.num_done
        num_steps = self._objective.budget.total_steps(replace(unread.after, train_s=self.train_s).spent)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingError(
                f"At step {num_done} of {num_steps} the loss is {loss:g} and the gradient's norm "
                f"{grad_norm:g}, at a learning rate of {unread.lr:.3g}.",
                hint="Try a lower --lr, more --warmup-ratio, or --precision fp32.",
            )
        steps_per_s, examples_per_s, tokens_per_s = self._speed.rates()
        return Progress(
            step=num_done,
            num_steps=num_steps,
            epoch=self._objective.epoch_of(num_done - 1),
            loss=loss,
            lr=unread.lr,
            grad_norm=grad_norm,
            examples_per_s=examples_per_s,
            tokens_per_s=tokens_per_s,
            eta_s=(num_steps - num_done) / steps_per_s,
            losses={} if "loss" in parts else parts,
        )
