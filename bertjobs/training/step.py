"""Take one optimizer step: forward and backward pass of all microbatches, the sum over ranks, the update.

Shape suffixes: K: parts of the loss (one, or MLM and NSP). T: unique wordpieces of a global batch.
"""

import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from bertjobs.errors import BertjobsError
from bertjobs.modeling.cpu.flat_adamw import CLOCK, LOSSES, STOP
from bertjobs.training.adamw import StepOptimizer
from bertjobs.training.distributed import Ranks
from bertjobs.training.gradient_exchange import AFTER_BACKWARD, GradientExchange, LossesOf
from bertjobs.training.objective import AnyStepBatch
from bertjobs.training.precision import autocast

logger = logging.getLogger(__name__)


class StepTaker:
    """Take steps with a loss that is compiled or not; where compiling fails, go on without."""

    def __init__(self, losses: LossesOf, *, is_compiled: bool, backend: str = "inductor") -> None:
        self._eager = losses
        # Token counts differ from step to step: symbolic from the start, or each would be compiled anew.
        self._compiled = torch.compile(losses, dynamic=True, backend=backend) if is_compiled else None

    @property
    def is_compiled(self) -> bool:
        """Whether the next step runs compiled."""
        return self._compiled is not None

    def step(self, batch: AnyStepBatch, **given: Any) -> Tensor:
        """Take a step as `train_step` does."""
        if self._compiled is None:
            return train_step(batch, losses=self._eager, **given)
        try:
            return train_step(batch, losses=self._compiled, **given)
        except (BertjobsError, torch.OutOfMemoryError):
            raise
        except Exception as e:
            # The compiler fails with errors of many types, in the forward pass or not before the backward
            # pass. Nothing was exchanged or updated yet, and the step clears its gradients first. An error
            # of the loss itself is raised again by the eager step.
            logger.warning(
                "--compile failed, training goes on without it: %s: %s", type(e).__name__, _first_line(e)
            )
            self._compiled = None
            return train_step(batch, losses=self._eager, **given)


def train_step(
    batch: AnyStepBatch,
    *,
    losses: LossesOf,
    optimizer: StepOptimizer,
    ranks: Ranks,
    dtype: torch.dtype,
    lr: float,
    requests_stop: bool = False,
    elapsed_s: Callable[[], float] = lambda: 0.0,
    exchange: GradientExchange = AFTER_BACKWARD,
) -> Tensor:
    """Take one optimizer step; return the global gradient norm before clipping, a tensor of one number.

    losses: returns a microbatch's shares (K) of the parts of the global batch's mean loss. Gradients then add
        up over microbatches and ranks to the gradient of the mean, whatever their sizes.
    elapsed_s: this rank's contribution to the clock that all ranks read. exchange: how gradients are summed.
    """
    optimizer.zero_grad()  # the losses too: they lie in the gradient buffer
    scalars = optimizer.scalars
    # One autocast block around all microbatches: what autocast casts is cast once per step.
    # Closing ends DDP's `no_sync` where a pass raises: the step may be taken again.
    with (
        autocast(scalars.device, dtype),
        closing(exchange.rounds(batch.microbatches)) as rounds,
    ):
        for microbatch in rounds:
            losses_K = exchange.losses(losses, microbatch, batch)
            # The loss stays on the device, where the host does not wait for it.
            scalars[LOSSES : LOSSES + len(losses_K)] += losses_K.detach()
            # The backward pass runs in the dtypes of the forward pass; autocast would choose again.
            with autocast(scalars.device, torch.float32):
                loss = losses_K.sum() * exchange.loss_factor
                (loss if optimizer.loss_scale is None else loss * optimizer.loss_scale.scale).backward()
    # Set before the all-reduce that sums the gradients, which takes them along. `fill_` takes a number of the
    # host as an argument of its kernel; an assignment would copy it, and wait.
    scalars[STOP].fill_(float(requests_stop))
    scalars[CLOCK].fill_(elapsed_s())
    grad_norm = optimizer.sum_gradients(
        ranks, token_ids_T=batch.token_ids_T, are_summed=exchange.sums_gradients
    )
    optimizer.step(lr=lr, grad_norm=grad_norm)
    return grad_norm


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
