"""What one kind of training adds to the loop: its batches, its losses, its judgement."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from bertjobs.training.run_state import RunState, Scores
from bertjobs.training.schedule import Budget


class AnyStepBatch(Protocol):
    """One rank's part of a global batch."""

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
        """Unique wordpieces of the global batch, where the optimizer steps touched rows only."""


class Objective(Protocol):
    """Alike on all ranks; whatever follows from a step follows from its number alone."""

    budget: Budget
    loss_names: tuple[str, ...]
    """Of the parts that add up to the loss, as they are reported; a single one is called `loss`."""

    def identity(self) -> Mapping[str, Any]:
        """Return what a checkpoint must agree in with the run that resumes it, as JSON."""

    def epoch_of(self, step: int) -> int:
        """Return the pass over the data that a step, counted from 0, belongs to."""

    def mask_pool_of(self, step: int) -> int:
        """Return the number of the pool of dropout masks that a step takes its masks from."""

    def step_batch(self, step: int) -> AnyStepBatch: ...

    def losses(self, microbatch: Any, batch: Any) -> Tensor:
        """Return this microbatch's shares (K) of the parts of the global batch's mean loss."""

    def is_evaluation_step(self, num_done: int) -> bool:
        """Return whether to evaluate after so many steps, besides the end of the run."""

    def evaluate(self) -> Scores: ...

    def value_of(self, scores: Any) -> float:
        """Return what is best when highest."""

    def scores_from_json(self, content: Mapping[str, Any]) -> Scores:
        """Read what `Scores.to_json` gave."""

    def is_out_of_patience(self, state: RunState) -> bool:
        """Return whether early stopping ends the run here."""

    def step_to_keep(self, state: RunState) -> int | None:
        """Return the step of an earlier checkpoint that is still needed, besides the newest."""
