"""Where a run stands: the part of a checkpoint that is neither weights nor moments. Values and JSON only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bertjobs.errors import ModelError
from bertjobs.training.schedule import RunTotals


class Scores(Protocol):
    """The result of an evaluation."""

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers, texts and lists."""

    def curves(self) -> dict[str, float | None]:
        """Return the numbers that are drawn over the steps."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedStep:
    """What the weights after a step were found to be worth."""

    step: int
    value: float
    """What the kind of training judges by; higher is better."""
    metrics: Any
    """`Scores` of the kind of training."""

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value, "metrics": self.metrics.to_json()}


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run between two steps."""

    num_done: int = 0
    """Optimizer steps done."""
    num_tokens: int = 0
    """Tokens seen, padding not counted."""
    train_s: float = 0.0
    """Seconds of training, where the budget is one of time."""
    best: EvaluatedStep | None = None
    last: EvaluatedStep | None = None
    num_worse: int = 0
    """Evaluations since the best one."""

    @property
    def totals(self) -> RunTotals:
        """What the budget and the schedule depend on."""
        return RunTotals(num_steps=self.num_done, num_tokens=self.num_tokens, train_s=self.train_s)

    def after_evaluation(self, metrics: Scores, *, value: float) -> "RunState":
        """Return the position with this evaluation taken into account; a tie is no improvement."""
        last = EvaluatedStep(step=self.num_done, value=value, metrics=metrics)
        if self.best is None or value > self.best.value:
            return replace(self, best=last, last=last, num_worse=0)
        return replace(self, last=last, num_worse=self.num_worse + 1)

    def to_json(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return the position, and what it is a position in."""
        return {
            "run": dict(identity),
            "num_done": self.num_done,
            "num_tokens": self.num_tokens,
            "train_s": self.train_s,
            "best": self.best and self.best.to_json(),
            "last": self.last and self.last.to_json(),
            "num_worse": self.num_worse,
        }

    @classmethod
    def from_json(
        cls,
        content: Mapping[str, Any],
        *,
        identity: Mapping[str, Any],
        scores_from_json: Callable[[Mapping[str, Any]], Scores],
    ) -> "RunState":
        """Read a position in this run.

        Raises: ModelError: the checkpoint belongs to a run with other data, batches, length or seed.
        """
        if content["run"].keys() != identity.keys():
            raise ModelError(
                "The checkpoint belongs to another kind of run, or to another version of this program.",
                hint="Start a new job instead of resuming this one.",
            )
        for name, now in identity.items():
            then = content["run"][name]
            if then != now:
                raise ModelError(
                    f"The checkpoint belongs to another run: its {name} is {then}, this run's is {now}.",
                    hint="Resume with the configuration and data it was written with, or start a new job.",
                )
        best, last = (
            given and EvaluatedStep(**{**given, "metrics": scores_from_json(given["metrics"])})
            for given in (content["best"], content["last"])
        )
        return cls(
            num_done=content["num_done"],
            num_tokens=content["num_tokens"],
            train_s=content["train_s"],
            best=best,
            last=last,
            num_worse=content["num_worse"],
        )


def checkpoint_name(num_done: int) -> str:
    """Return the name of the checkpoint after so many steps; names sort by step."""
    return f"step-{num_done:08d}"
