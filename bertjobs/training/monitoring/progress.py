"""Report the progress of a run: the values, the hooks that receive them, and the meter that measures them.

Reading a number from a GPU makes the host wait for it. So on CUDA losses are read once per 20 steps; in
between the host runs ahead and queues work.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from bertjobs.errors import TrainingError
from bertjobs.modeling.cpu.flat_adamw import CLOCK, LOSSES, STOP
from bertjobs.training.checkpoints.run_state import RunState
from bertjobs.training.objective import AnyStepBatch, Objective


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The state after an optimizer step."""

    step: int
    """Steps done, so that the last one equals `num_steps`."""
    num_steps: int
    """Steps of the whole run; an estimate where its budget is one of tokens or time."""
    epoch: int
    """From 0: the epoch that the step belonged to."""
    loss: float
    """Mean cross-entropy over the global batch, in nats, before the step."""
    lr: float
    grad_norm: float
    """Global L2 norm before clipping; 0 where gradients overflowed in fp16, so that the step was skipped."""
    examples_per_s: float
    tokens_per_s: float
    """Without padding; this and the examples over all ranks, averaged over the last steps."""
    eta_s: float
    """Seconds left at this pace, evaluations not counted."""
    losses: dict[str, float] = field(default_factory=dict)
    """Parts that add up to the loss, by name; empty where it has only one."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it flat, the parts of the loss beside the loss."""
        values = asdict(self)
        return values | values.pop("losses")


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """The state after an evaluation: after an epoch, every `eval_steps` steps, or after the last step."""

    epoch: int
    step: int
    metrics: Any
    """On the development split: those of the task's type, or `PretrainMetrics` in pretraining."""
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """How a run ended. The model given to `finetune` holds the best weights."""

    num_steps: int
    """Optimizer steps in all, those of earlier attempts included."""
    metrics: Any
    """Of the best weights on the development split; None where the run was stopped before one evaluation."""
    best_step: int
    """Steps after which those weights were reached."""
    stopped: str | None
    """Why the run ended before its last step: `early stopping`, or what `Hooks.should_stop` said."""
    plots: tuple[str, ...] = ()
    """Names of the pictures in the job's folder."""


class Hooks(Protocol):
    """Callbacks of a run, on rank 0 only, between steps. Training waits for them, so they must be quick."""

    def on_progress(self, progress: Progress) -> None:
        """Called after every step on a CPU, every 20 on CUDA; send at most 4 of them a second to Redis."""

    def on_epoch(self, result: EpochResult) -> None:
        """Called after each evaluation, before the checkpoint."""

    def before_checkpoint(self) -> None:
        """Called before anything of a checkpoint is written; may wait.

        Raises: LeaseLost: another attempt owns the job. QueueError: whether one does cannot be found out.
        """

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Called when `checkpoints/<name>` is complete: from now on a resumed run starts from it.

        Raises: LeaseLost: another attempt owns the job; older checkpoints then stay as they are.
        """

    def should_stop(self) -> str | None:
        """Return a reason to write a checkpoint and stop, or None; called as often as `on_progress`."""


class Throughput:
    """Steps, examples and tokens per second, averaged over the last steps."""

    def __init__(self, clock: Callable[[], float], *, num_steps: int = 50) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int, int, int]] = deque(maxlen=num_steps + 1)
        self._done = (0, 0, 0)
        self.skip_pause()

    def skip_pause(self) -> None:
        """Start a new average, which leaves out the evaluation or checkpoint that came before."""
        self._marks.clear()
        self._mark()

    def add(self, *, num_steps: int, num_examples: int, num_tokens: int) -> None:
        """Count work done since the last call."""
        steps, examples, tokens = self._done
        self._done = (steps + num_steps, examples + num_examples, tokens + num_tokens)
        self._mark()

    def rates(self) -> tuple[float, float, float]:
        """Return steps, examples and tokens per second."""
        (start, *before), (now, *after) = self._marks[0], self._marks[-1]
        elapsed_s = max(now - start, 1e-9)
        steps, examples, tokens = ((b - a) / elapsed_s for a, b in zip(before, after, strict=True))
        return steps, examples, tokens

    def _mark(self) -> None:
        self._marks.append((self._clock(), *self._done))


class Stopwatch:
    """Measure the seconds of training over all attempts, from the last `start` on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._before_s = self._began = 0.0

    def start(self, before_s: float) -> None:
        """Measure from now on, starting at `before_s` seconds."""
        self._before_s, self._began = before_s, self._clock()

    def elapsed_s(self) -> float:
        return self._before_s + self._clock() - self._began


_STEPS_PER_READ_CUDA = 20
_MAX_OVERFLOWS = 30
"""In a row: the loss scale is then 2^-14, and there is nothing left to scale down."""


@dataclass(frozen=True)
class _Unread:
    after: RunState
    lr: float
    num_examples: int
    num_tokens: int
    numbers: Tensor
    """Stop requests, clock, parts of the loss, gradient norm; still on the device."""


class ProgressMeter:
    """Collect the numbers of steps on the device, and turn them into `Progress` when they are read."""

    def __init__(
        self,
        objective: Objective,
        *,
        device: torch.device,
        clock: Callable[[], float],
        may_overflow: bool = False,
    ) -> None:
        """may_overflow: whether the optimizer skips steps whose gradients are not finite, as in fp16."""
        self._objective = objective
        self._may_overflow, self._num_overflows = may_overflow, 0
        self._speed = Throughput(clock)
        self._steps_per_read = _STEPS_PER_READ_CUDA if device.type == "cuda" else 1
        self._unread: list[_Unread] = []
        self.is_stop_requested = False
        """Whether any rank has requested a stop; all ranks read the same answer at the same step."""
        self.train_s = 0.0
        """Rank 0's clock as all ranks have read it."""

    def add(
        self, after: RunState, *, lr: float, batch: AnyStepBatch, scalars: Tensor, grad_norm: Tensor
    ) -> None:
        """Add a step whose gradients were summed over the ranks; `after` is the state after it."""
        # A copy: the optimizer clears these numbers before the next step.
        numbers = torch.cat((scalars[: LOSSES + len(self._objective.loss_names)], grad_norm.view(1)))
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
        self.is_stop_requested, self.train_s = numbers[-1][STOP] > 0, numbers[-1][CLOCK]
        return [self._progress(step, read) for step, read in zip(unread, numbers, strict=True)]

    def skip_pause(self) -> None:
        """Leave an evaluation or a checkpoint out of the rates."""
        self._speed.skip_pause()

    def _progress(self, unread: _Unread, numbers: list[float]) -> Progress:
        *_, grad_norm = numbers
        parts = dict(zip(self._objective.loss_names, numbers[LOSSES:-1], strict=True))
        loss, num_done = sum(parts.values()), unread.after.num_done
        num_steps = self._objective.budget.total_steps(replace(unread.after, train_s=self.train_s).totals)
        # Steps in a row: each halves the loss scale, so a few at the start are as it should be.
        self._num_overflows = 0 if math.isfinite(grad_norm) else self._num_overflows + 1
        if self._may_overflow and 0 < self._num_overflows <= _MAX_OVERFLOWS and math.isfinite(loss):
            grad_norm = 0.0
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingError(
                f"At step {num_done} of {num_steps} the loss is {loss:g} and the gradient's norm "
                f"{grad_norm:g}, at a learning rate of {unread.lr:.3g}",
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
