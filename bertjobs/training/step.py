"""The step on one screen: gradients of the mean loss over the global batch, then AdamW.

Legend: B rows of a microbatch, C labels, T wordpieces of a batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.training.feed import StepBatch
from bertjobs.training.meter import LOSS, STOP
from bertjobs.training.optim import FlatAdamW
from bertjobs.training.ranks import Ranks


def train_step(
    model: nn.Module,
    batch: StepBatch,
    *,
    optimizer: FlatAdamW,
    ranks: Ranks,
    dtype: torch.dtype,
    lr: float,
    wants_stop: bool = False,
) -> Tensor:
    """Take one optimizer step; return the global gradient norm, a tensor of one number.

    The loss is summed over the rows and divided by the rows of the global batch, so that gradients add up
    over microbatches and ranks to the gradient of the mean, whatever their sizes.
    """
    optimizer.clear()
    optimizer.riders[STOP] = float(wants_stop)
    device_type = optimizer.riders.device.type
    with torch.autocast(device_type, dtype=dtype, enabled=dtype != torch.float32):  # casts each weight once
        for microbatch in batch.microbatches:
            logits_BC = model(microbatch.inputs).float()
            loss = F.cross_entropy(logits_BC, microbatch.labels_B, reduction="sum") / batch.num_rows
            optimizer.riders[LOSS] += loss.detach()
            with torch.autocast(device_type, enabled=False):
                loss.backward()
    grad_norm = optimizer.gather(ranks, token_ids_T=batch.token_ids_T)
    optimizer.step(lr=lr, grad_norm=grad_norm)
    return grad_norm
