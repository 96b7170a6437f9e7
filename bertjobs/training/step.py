"""The step on one screen: gradients of the mean loss over the global batch, then AdamW.

Legend: K parts of the loss.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bertjobs.training.objective import AnyStepBatch
from bertjobs.training.optim import CLOCK, LOSSES, STOP, FlatAdamW
from bertjobs.training.ranks import Ranks


def train_step(
    batch: AnyStepBatch,
    *,
    losses: Callable[[Any, Any], Tensor],
    optimizer: FlatAdamW,
    ranks: Ranks,
    dtype: torch.dtype,
    lr: float,
    wants_stop: bool = False,
    elapsed_s: Callable[[], float] = lambda: 0.0,
) -> Tensor:
    """Take one optimizer step; return the global gradient norm, a tensor of one number.

    losses: gives a microbatch's shares (K) of the parts of the global batch's mean loss. So gradients add up
        over microbatches and ranks to the gradient of the mean, whatever their sizes.
    elapsed_s: what this rank adds to the clock that all ranks read.
    """
    optimizer.clear()
    riders = optimizer.riders
    device_type = riders.device.type
    with torch.autocast(device_type, dtype=dtype, enabled=dtype != torch.float32):  # casts each weight once
        for microbatch in batch.microbatches:
            losses_K = losses(microbatch, batch)
            riders[LOSSES : LOSSES + len(losses_K)] += losses_K.detach()
            with torch.autocast(device_type, enabled=False):
                losses_K.sum().backward()
    riders[STOP], riders[CLOCK] = float(wants_stop), elapsed_s()
    grad_norm = optimizer.gather(ranks, token_ids_T=batch.token_ids_T)
    optimizer.step(lr=lr, grad_norm=grad_norm)
    return grad_norm
