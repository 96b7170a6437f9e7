"""How long a run is: so many steps, tokens or seconds. What was spent of it decides the rate and the end.

Pure functions of what was spent, so that resuming needs nothing else and all ranks decide alike.
"""

import math
from dataclasses import dataclass

from bertjobs.config.finetune import OptimSection
from bertjobs.training.schedule import lr_at, lr_at_share

_FIRST_STEP_RATIO = 1e-3
"""Share of a budget by time that the first step is taken to need: its speed is not known yet."""


@dataclass(frozen=True, kw_only=True)
class Spent:
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

    def is_spent(self, spent: Spent) -> bool:
        """Return whether the run is over."""
        return self.used_ratio(spent) >= 1.0

    def used_ratio(self, spent: Spent) -> float:
        """Return the share of the budget that is used; the last step may carry it past 1."""
        if self.num_steps is not None:
            return spent.num_steps / self.num_steps
        if self.num_tokens is not None:
            return spent.num_tokens / self.num_tokens
        assert self.train_s is not None, "a budget has one measure"
        return spent.train_s / self.train_s

    def total_steps(self, spent: Spent) -> int:
        """Return how many steps the run has in all: an estimate where it is measured in something else."""
        if self.num_steps is not None:
            return self.num_steps
        used = self.used_ratio(spent)
        if used >= 1.0:
            return spent.num_steps
        return max(spent.num_steps + 1, math.ceil(spent.num_steps / used)) if used else spent.num_steps + 1

    def lr(self, spent: Spent, *, batch_tokens: int, optim: OptimSection) -> float:
        """Return the learning rate of the next step, whose batch has so many tokens."""
        if self.num_steps is not None:
            return lr_at(spent.num_steps, num_steps=self.num_steps, optim=optim)
        used = self.used_ratio(spent)
        if self.num_tokens is not None:
            step_ratio = batch_tokens / self.num_tokens
        else:
            step_ratio = used / spent.num_steps if used else _FIRST_STEP_RATIO
        return lr_at_share(used, step_ratio=step_ratio, optim=optim)
