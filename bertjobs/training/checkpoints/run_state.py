"""Describe the progress of a run: the part of a checkpoint that is neither weights nor moments. JSON only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bertjobs.errors import ModelError
from bertjobs.training.schedule import RunTotals


class Scores(Protocol):
    """The metrics of one evaluation."""

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers, texts and lists."""

    def curves(self) -> dict[str, float | None]:
        """Return the numbers that are drawn over the steps."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedStep:
    """The evaluation of the weights after a step."""

    step: int
    value: float
    """The number that decides which weights are best; higher is better."""
    metrics: Any
    """`Scores` of the kind of training."""

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value, "metrics": self.metrics.to_json()}


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of a run between two steps."""

    num_done: int = 0
    """Optimizer steps done."""
    num_tokens: int = 0
    """Tokens seen, padding not counted."""
    train_s: float = 0.0
    """Seconds of training, where the budget is a time; else 0."""
    best: EvaluatedStep | None = None
    last: EvaluatedStep | None = None
    num_worse: int = 0
    """Evaluations since the best one."""

    @property
    def totals(self) -> RunTotals:
        """What the budget and the schedule depend on."""
        return RunTotals(num_steps=self.num_done, num_tokens=self.num_tokens, train_s=self.train_s)

    def after_evaluation(self, metrics: Scores, *, value: float) -> "RunState":
        """Return the state after this evaluation; an equal value does not count as better."""
        last = EvaluatedStep(step=self.num_done, value=value, metrics=metrics)
        if self.best is None or value > self.best.value:
            return replace(self, best=last, last=last, num_worse=0)
        return replace(self, last=last, num_worse=self.num_worse + 1)

    def to_json(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state, with the identity of the run that it belongs to."""
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
        """Read the state that a checkpoint of this run holds.

        Raises: ModelError: the checkpoint belongs to a run with other data, batches, length or seed.
        """
        if content["run"].keys() != identity.keys():
            raise ModelError(
                "The checkpoint belongs to another kind of run, or to another version of this program",
                hint="Start a new job instead of resuming this one.",
            )
        for name, now in identity.items():
            then = content["run"][name]
            if then != now:
                raise ModelError(
                    f"The checkpoint belongs to another run: its {name} is {then}, this run's is {now}",
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
