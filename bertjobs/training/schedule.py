"""Compute the learning rate, and how much of a run's length is used: pure functions of the work done so far.

So resuming needs no state of its own, and all ranks decide alike. A `Budget` is the length of a run in steps,
tokens or seconds; the learning rate follows the share of it that is used.

Source: linear warmup and decay: Devlin et al. 2019 (BERT), appendix A.2. Cosine: Loshchilov and Hutter 2017
    (SGDR), eq. 5, without restarts. WSD (warmup, stable, decay): Hu et al. 2024 (MiniCPM), section 4.
"""

import math
from dataclasses import dataclass

from bertjobs.config.sections import OptimSection, Schedule
from bertjobs.errors import ConfigError

_FIRST_STEP_RATIO = 1e-3
"""Share of a budget by time that the first step is assumed to take: its speed is not known yet."""


@dataclass(frozen=True, kw_only=True)
class RunTotals:
    """The work that a run has done so far, over all its attempts."""

    num_steps: int = 0
    num_tokens: int = 0
    """Padding not counted."""
    train_s: float = 0.0
    """Evaluations and checkpoints not counted; 0 where the budget does not ask for it."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The length of a run in one of three units; the other two are None."""

    num_steps: int | None = None
    num_tokens: int | None = None
    train_s: float | None = None

    def is_used_up(self, totals: RunTotals) -> bool:
        """Return whether the run is over."""
        return self.used_ratio(totals) >= 1.0

    def used_ratio(self, totals: RunTotals) -> float:
        """Return the share of the budget that is used; the last step may carry it past 1."""
        if self.num_steps is not None:
            return totals.num_steps / self.num_steps
        if self.num_tokens is not None:
            return totals.num_tokens / self.num_tokens
        assert self.train_s is not None, "a budget has one measure"
        return totals.train_s / self.train_s

    def total_steps(self, totals: RunTotals) -> int:
        """Return the number of steps of the whole run; an estimate where the budget is tokens or time."""
        if self.num_steps is not None:
            return self.num_steps
        used = self.used_ratio(totals)
        if used >= 1.0:
            return totals.num_steps
        # Steps so far divided by the share they used; at least one more, as the budget is not used up.
        return max(totals.num_steps + 1, math.ceil(totals.num_steps / used)) if used else totals.num_steps + 1

    def lr(self, totals: RunTotals, *, batch_tokens: int, optim: OptimSection) -> float:
        """Return the learning rate of the next step, whose batch has `batch_tokens` tokens."""
        if self.num_steps is not None:
            return lr_at(totals.num_steps, num_steps=self.num_steps, optim=optim)
        used = self.used_ratio(totals)
        if self.num_tokens is not None:
            # Tokens of the next batch are known.
            step_ratio = batch_tokens / self.num_tokens
        else:
            # By time, the next step is assumed to take as long as the steps so far did on average.
            step_ratio = used / totals.num_steps if used else _FIRST_STEP_RATIO
        return lr_at_share(used, step_ratio=step_ratio, optim=optim)


def lr_at(step: int, *, num_steps: int, optim: OptimSection) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0, of `num_steps`.

    Warmup is linear and reaches `optim.lr` at step ceil(warmup_ratio * num_steps). No step has a rate of 0,
    as the first one of `transformers` has: the line begins one step earlier.
    """
    num_warmup = num_warmup_steps(num_steps, optim=optim)
    if step < num_warmup:
        return optim.lr * (step + 1) / (num_warmup + 1)
    return optim.lr * _factor_after_warmup(step, num_warmup=num_warmup, num_steps=num_steps, optim=optim)


def lr_at_share(used_ratio: float, *, step_ratio: float, optim: OptimSection) -> float:
    """Return the learning rate when `used_ratio` of the budget is used and the step takes `step_ratio` more.

    The same curve as `lr_at` has with used_ratio = step / num_steps and step_ratio = 1 / num_steps.
    """
    if used_ratio < optim.warmup_ratio:
        return optim.lr * min(1.0, (used_ratio + step_ratio) / (optim.warmup_ratio + step_ratio))
    left_ratio = max(0.0, 1.0 - used_ratio)
    if optim.schedule == "wsd":
        return optim.lr * min(1.0, left_ratio / max(optim.decay_ratio, step_ratio))
    done = 1.0 - left_ratio / max(1.0 - optim.warmup_ratio, step_ratio)
    return optim.lr * _falling_factor(max(0.0, done), schedule=optim.schedule)


def num_warmup_steps(num_steps: int, *, optim: OptimSection) -> int:
    """Return the number of warmup steps; the last step of a run is always at or past the peak."""
    return min(math.ceil(optim.warmup_ratio * num_steps), num_steps - 1)


def check_schedule(optim: OptimSection) -> None:
    """Refuse a `wsd` schedule whose warmup and decay together are longer than the run.

    Raises: ConfigError.
    """
    if optim.schedule == "wsd" and optim.warmup_ratio + optim.decay_ratio > 1.0:
        raise ConfigError(
            f"--warmup-ratio {optim.warmup_ratio:g} and --decay-ratio {optim.decay_ratio:g} add up to more "
            "than the whole run",
            hint="Their sum may be 1 at most.",
        )


def _factor_after_warmup(step: int, *, num_warmup: int, num_steps: int, optim: OptimSection) -> float:
    if optim.schedule == "wsd":
        num_decay = max(1, math.ceil(optim.decay_ratio * num_steps))
        return min(1.0, (num_steps - step) / num_decay)
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return _falling_factor(done, schedule=optim.schedule)


def _falling_factor(done: float, *, schedule: Schedule) -> float:
    """Return the factor on the peak rate when a share `done` of the steps after warmup is over."""
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    assert schedule == "constant"
    return 1.0
