"""What a run tells those who watch it, and how fast it is. Values only."""

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from bertjobs.training.metrics import Metrics


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
    """Global L2 norm before clipping."""
    examples_per_s: float
    tokens_per_s: float
    """Without padding; this and the examples over all ranks, averaged over the last steps."""
    eta_s: float
    """Seconds left at this pace, evaluations not counted."""
    losses: dict[str, float] = field(default_factory=dict)
    """Parts that add up to the loss, by name; empty where it has none."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it flat, the parts of the loss beside the loss."""
        values = asdict(self)
        return values | values.pop("losses")


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """The state after an evaluation: after an epoch, every so many steps, or after the last step."""

    epoch: int
    step: int
    metrics: Any
    """On the development split: `Metrics` of a classifier, `PretrainMetrics` in pretraining."""
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """How a run ended. The model given to `finetune` holds the best weights."""

    num_steps: int
    """Optimizer steps in all, those of earlier attempts included."""
    metrics: Metrics | None
    """Of the best weights on the development split; None where the run was stopped before one evaluation."""
    best_step: int
    """Steps after which those weights were reached."""
    stopped: str | None
    """Why the run ended before its last step: `early stopping`, or what `Hooks.should_stop` said."""
    plots: tuple[str, ...] = ()
    """Names of the pictures in the job's folder."""


class Hooks(Protocol):
    """What a run calls while it goes, on rank 0 only, between steps: each must be quick or seldom act."""

    def on_progress(self, progress: Progress) -> None:
        """Called after every step on a CPU, every 20 on CUDA; keep it under 4 a second towards Redis."""

    def on_epoch(self, result: EpochResult) -> None:
        """Called after each evaluation, before the checkpoint."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Called when `checkpoints/<name>` is in place: from now on it is what to resume from.

        Raises: LeaseLost: another attempt owns the job; older checkpoints then stay as they are.
        """

    def should_stop(self) -> str | None:
        """Return a reason to write a checkpoint and stop, or None; called as often as `on_progress`."""


class Speed:
    """A moving average over the last steps."""

    def __init__(self, clock: Callable[[], float], *, num_steps: int = 50) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int, int, int]] = deque(maxlen=num_steps + 1)
        self._done = (0, 0, 0)
        self.skip_pause()

    def skip_pause(self) -> None:
        """Forget the past: an evaluation or a checkpoint lay in between."""
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
    """Seconds of training over all attempts; runs from the last `go_on`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._before_s = self._began = 0.0

    def go_on(self, before_s: float) -> None:
        """Count from now on, beginning at so many seconds."""
        self._before_s, self._began = before_s, self._clock()

    def elapsed_s(self) -> float:
        return self._before_s + self._clock() - self._began
