"""Declare what a kind of training gives to the loop: its batches, its loss and its evaluation.

Two implement it: classification in `finetune.py`, masked language modelling in `pretrain.py`.

Shape suffixes: T: unique wordpieces of a global batch. K: parts of the loss.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from bertjobs.training.checkpoints.run_state import RunState, Scores
from bertjobs.training.distributed import Ranks
from bertjobs.training.schedule import Budget


class AnyStepBatch(Protocol):
    """One rank's share of a global batch."""

    @property
    def microbatches(self) -> Sequence[Any]: ...

    @property
    def num_rows(self) -> int:
        """Of the global batch."""

    @property
    def num_tokens(self) -> int:
        """Of the global batch, padding not counted."""

    @property
    def token_ids_T(self) -> Tensor | None:
        """Unique wordpieces of the global batch, where the optimizer steps touched rows only; else None."""

    def sum_counts(self, ranks: Ranks) -> None:
        """Sum over the ranks what the losses are divided by; on the loop's thread, as a collective."""


class Objective(Protocol):
    """The same on all ranks; everything about a step is a function of its number alone."""

    budget: Budget
    loss_names: tuple[str, ...]
    """Names of the parts that add up to the loss, as they are reported; a single one is called `loss`."""

    def identity(self) -> Mapping[str, Any]:
        """Return, as JSON, what must be equal in a checkpoint and in the run that resumes from it."""

    def epoch_of(self, step: int) -> int:
        """Return the pass over the data that a step, counted from 0, belongs to."""

    def mask_pool_of(self, step: int) -> int:
        """Return the number of the pool that a step takes its dropout masks from."""

    def step_batch(self, step: int) -> AnyStepBatch:
        """Build a rank's share of a step's batch on the host; on CUDA a thread does, a few steps ahead."""

    def losses(self, microbatch: Any, batch: Any) -> Tensor:
        """Return this microbatch's shares (K) of the parts of the global batch's mean loss."""

    def is_evaluation_step(self, num_done: int) -> bool:
        """Return whether to evaluate after `num_done` steps; the loop always does at the end of the run."""

    def evaluate(self) -> Scores: ...

    def value_of(self, scores: Any) -> float:
        """Return the number that decides which weights are best; higher is better."""

    def scores_from_json(self, content: Mapping[str, Any]) -> Scores:
        """Read what `Scores.to_json` returned."""

    def is_out_of_patience(self, state: RunState) -> bool:
        """Return whether early stopping ends the run here."""

    def step_to_keep(self, state: RunState) -> int | None:
        """Return the step of an earlier checkpoint that is still needed, besides the newest."""
