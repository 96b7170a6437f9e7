"""Where a run stands: the part of a checkpoint that is neither weights nor moments. Values and JSON only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bertjobs.config.schema import TrainSection
from bertjobs.errors import ModelError
from bertjobs.training.metrics import Metrics
from bertjobs.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best evaluation so far."""

    step: int
    value: float
    """The task's metric; higher is better."""
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class Position:
    """A run between two steps."""

    num_done: int = 0
    """Optimizer steps done."""
    best: Best | None = None
    num_worse: int = 0
    """Evaluations since the best one."""

    def after_evaluation(self, metrics: Metrics, *, metric: str) -> "Position":
        """Return the position with this evaluation taken into account; a tie is no improvement."""
        value = metrics.value_of(metric)
        if self.best is None or value > self.best.value:
            return replace(self, best=Best(step=self.num_done, value=value, metrics=metrics), num_worse=0)
        return replace(self, num_worse=self.num_worse + 1)

    def is_out_of_patience(self, train: TrainSection) -> bool:
        """Return whether early stopping ends the run here."""
        return train.patience is not None and self.num_worse >= train.patience

    def to_json(self, plan: Plan) -> dict[str, Any]:
        """Return the position, and what it is a position in."""
        return {"run": asdict(plan), **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, plan: Plan) -> "Position":
        """Read a position in this plan.

        Raises: ModelError: the checkpoint belongs to a run with other data, batches, length or seed.
        """
        for name, now in asdict(plan).items():
            then = content["run"][name]
            if then != now:
                raise ModelError(
                    f"The checkpoint belongs to another run: its {name} is {then}, this run's is {now}.",
                    hint="Resume with the configuration and data it was written with, or start a new job.",
                )
        best = content["best"]
        return cls(
            num_done=content["num_done"],
            best=None if best is None else Best(**{**best, "metrics": Metrics.from_json(best["metrics"])}),
            num_worse=content["num_worse"],
        )


def checkpoint_name(num_done: int) -> str:
    """Return the name of the checkpoint after so many steps; names sort by step."""
    return f"step-{num_done:08d}"
