"""The course of the learning rate: a pure function of the step, or of the share of the budget that is used,
so that resuming needs no state.

How long a run is: so many steps, tokens or seconds. What was spent of it decides the rate and the end.

Pure functions of what was totals, so that resuming needs nothing else and all ranks decide alike.
"""

import math
from dataclasses import dataclass

from bertjobs.config.sections import OptimSection, Schedule
from bertjobs.errors import ConfigError


def lr_at(step: int, *, num_steps: int, optim: OptimSection) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0, of `num_steps`.

    Warmup rises in a straight line and reaches `optim.lr` at step ceil(warmup_ratio * num_steps). No step is
    spent at a rate of 0, as Hugging Face's first one is: the line begins one step earlier.
    """
    num_warmup = num_warmup_steps(num_steps, optim=optim)
    if step < num_warmup:
        # Step 0 has a rate above 0, and step num_warmup, the first after warmup, would have exactly `lr`.
        return optim.lr * (step + 1) / (num_warmup + 1)
    return optim.lr * _factor_after_warmup(step, num_warmup=num_warmup, num_steps=num_steps, optim=optim)


def lr_at_share(used_ratio: float, *, step_ratio: float, optim: OptimSection) -> float:
    """Return the learning rate where so much of the budget is used, and the step takes `step_ratio` more.

    The same course as `lr_at` has with used_ratio = step / num_steps and step_ratio = 1 / num_steps.
    """
    # The line of `lr_at`, with shares in place of steps: it begins one step before the run.
    if used_ratio < optim.warmup_ratio:
        return optim.lr * min(1.0, (used_ratio + step_ratio) / (optim.warmup_ratio + step_ratio))
    left_ratio = max(0.0, 1.0 - used_ratio)
    if optim.schedule == "wsd":
        # The decay takes one step at least, as in `_factor_after_warmup`.
        return optim.lr * min(1.0, left_ratio / max(optim.decay_ratio, step_ratio))
    # The share of what follows warmup that is over; `max` guards a warmup as long as the run.
    done = 1.0 - left_ratio / max(1.0 - optim.warmup_ratio, step_ratio)
    return optim.lr * _falling_factor(max(0.0, done), schedule=optim.schedule)


def num_warmup_steps(num_steps: int, *, optim: OptimSection) -> int:
    """Return how many steps the rate rises for; the last step is always at or past the peak."""
    return min(math.ceil(optim.warmup_ratio * num_steps), num_steps - 1)


def check_schedule(optim: OptimSection) -> None:
    """Raises: ConfigError: warmup and decay of `wsd` together are longer than the run."""
    if optim.schedule == "wsd" and optim.warmup_ratio + optim.decay_ratio > 1.0:
        raise ConfigError(
            f"--warmup-ratio {optim.warmup_ratio:g} and --decay-ratio {optim.decay_ratio:g} add up to more "
            "than the whole run.",
            hint="Their sum may be 1 at most.",
        )


def _factor_after_warmup(step: int, *, num_warmup: int, num_steps: int, optim: OptimSection) -> float:
    if optim.schedule == "wsd":
        num_decay = max(1, math.ceil(optim.decay_ratio * num_steps))
        # At 1 until num_decay steps are left, then down to 1 / num_decay at the last one: no step at 0.
        return min(1.0, (num_steps - step) / num_decay)
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return _falling_factor(done, schedule=optim.schedule)


def _falling_factor(done: float, *, schedule: Schedule) -> float:
    """Return the factor where `done` of what follows warmup is over."""
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    assert schedule == "constant"
    return 1.0


_FIRST_STEP_RATIO = 1e-3
"""Share of a budget by time that the first step is taken to need: its speed is not known yet."""


@dataclass(frozen=True, kw_only=True)
class RunTotals:
    """What a run has used up so far, over all its attempts."""

    num_steps: int = 0
    num_tokens: int = 0
    """Padding not counted."""
    train_s: float = 0.0
    """Evaluations and checkpoints not counted; 0 where the budget does not ask for it."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A length in one of three measures; the other two are None."""

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
        """Return how many steps the run has in all: an estimate where it is measured in something else."""
        if self.num_steps is not None:
            return self.num_steps
        used = self.used_ratio(totals)
        if used >= 1.0:
            return totals.num_steps
        # Steps so far divided by the share they used; at least one more, as the budget is not used up.
        return max(totals.num_steps + 1, math.ceil(totals.num_steps / used)) if used else totals.num_steps + 1

    def lr(self, totals: RunTotals, *, batch_tokens: int, optim: OptimSection) -> float:
        """Return the learning rate of the next step, whose batch has so many tokens."""
        if self.num_steps is not None:
            return lr_at(totals.num_steps, num_steps=self.num_steps, optim=optim)
        used = self.used_ratio(totals)
        if self.num_tokens is not None:
            # Tokens of the next batch are known.
            step_ratio = batch_tokens / self.num_tokens
        else:
            # Its seconds are not: it is taken to need as long as the steps so far did on average.
            step_ratio = used / totals.num_steps if used else _FIRST_STEP_RATIO
        return lr_at_share(used, step_ratio=step_ratio, optim=optim)
