"""Sum the gradients of all ranks: while the backward pass runs (DDP), or in one call after it.

The loss of a microbatch is its share of the global batch's mean loss, so gradients are summed over
microbatches and ranks, never averaged: exact with unequal numbers of tokens, and on ranks without rows.

`DuringBackward` is torch's DistributedDataParallel, what GPUs use: each bucket of gradients travels while the
backward pass computes the next one. `AfterBackward` leaves the sum to the optimizer: on CPUs, `FlatAdamW`
writes gradients in place, which DDP's hooks do not see, and exchanges only rows of the word table that were
touched.

Ray Train prepares the same wrapper (`ray.train.torch.prepare_model`); `runs` passes it as a `DataParallel`.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bertjobs.config.sections import GradExchange
from bertjobs.training.distributed import Ranks

LossesOf = Callable[[Any, Any], Tensor]
"""Returns a microbatch's shares (K) of the parts of the global batch's mean loss, given it and the batch."""

DataParallel = Callable[[nn.Module], nn.Module]
"""Wraps a module in DistributedDataParallel with `DDP_OPTIONS`."""

DDP_OPTIONS: dict[str, Any] = {
    "gradient_as_bucket_view": True,  # `.grad` is a view of the bucket that travels: no copy, half the memory
    "broadcast_buffers": False,  # BERT's buffers are constants
}


def distributed_data_parallel(module: nn.Module) -> nn.Module:
    """Wrap a module that is on its device already, without Ray."""
    device = next(module.parameters()).device
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, **DDP_OPTIONS)


class GradientExchange(Protocol):
    """One per run, the same kind on all ranks."""

    sums_gradients: bool
    """Whether gradients are sums over the ranks when the last backward pass is done."""
    loss_factor: int
    """What a loss is multiplied by before its backward pass."""

    def rounds(self, microbatches: Sequence[Any]) -> Generator[Any]:
        """Yield the microbatches; forward and backward of one are done before the next is asked for."""

    def losses(self, losses: LossesOf, microbatch: Any, batch: Any) -> Tensor:
        """Return the losses of one of the microbatches that `rounds` yields."""


class AfterBackward:
    """Leave gradients as they are; the optimizer sums them. Also what a single process does."""

    sums_gradients = False
    loss_factor = 1

    def rounds(self, microbatches: Sequence[Any]) -> Generator[Any]:
        yield from microbatches

    def losses(self, losses: LossesOf, microbatch: Any, batch: Any) -> Tensor:
        return losses(microbatch, batch)


AFTER_BACKWARD = AfterBackward()


class DuringBackward:
    """Sum by DDP, in the last microbatch's backward pass.

    Source: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training".
    """

    sums_gradients = True

    def __init__(
        self, model: nn.Module, *, data_parallel: DataParallel, ranks: Ranks, dtype: torch.dtype
    ) -> None:
        """dtype: in which gradients travel. Wraps the parameters that require gradients at this time."""
        wrapped = data_parallel(_LossModule(model))
        assert isinstance(wrapped, DistributedDataParallel)
        if dtype == torch.bfloat16:
            wrapped.register_comm_hook(ranks.world_size, average_in_bf16)
        self._ddp = wrapped
        self.loss_factor = ranks.world_size  # DDP gives the mean over the ranks; we need the sum

    def rounds(self, microbatches: Sequence[Any]) -> Generator[Any]:
        """Yield them, the last one in a pass that exchanges; None on a rank that has none."""
        # Every rank takes part in each exchange once, or the others would wait for it.
        *others, last = microbatches or (None,)
        if others:
            with self._ddp.no_sync():  # is on while the caller computes: this generator waits inside
                yield from others
        yield last

    def losses(self, losses: LossesOf, microbatch: Any, batch: Any) -> Tensor:
        losses_K: Tensor = self._ddp(losses, microbatch, batch)
        return losses_K


def average_in_bf16(
    world_size: int,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Replace a bucket by its mean over the ranks; it travels in bf16.

    As torch's `bf16_compress_hook`, which refuses gloo.
    """
    buffer = bucket.buffer()
    travelling = (buffer / world_size).to(torch.bfloat16)
    work = dist.all_reduce(travelling, async_op=True)

    def unpack(arrived: torch.futures.Future[list[Tensor]]) -> Tensor:
        return buffer.copy_(arrived.value()[0])

    future: torch.futures.Future[Tensor] = work.get_future().then(unpack)
    return future


class _LossModule(nn.Module):
    """DDP sees the forward pass of a module; ours ends in the losses."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, losses: LossesOf, microbatch: Any, batch: Any) -> Tensor:
        if microbatch is not None:
            return losses(microbatch, batch)
        # A loss of 0 that depends on every parameter: all gradients are 0, and none is missing.
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.stack([parameter.flatten()[:1].sum() * 0.0 for parameter in trained]).sum().view(1)


def make_exchange(
    model: nn.Module,
    *,
    by: GradExchange,
    ranks: Ranks,
    data_parallel: DataParallel | None,
) -> GradientExchange:
    """Return the exchange of a run; parameters are frozen before it is made.

    data_parallel: default: torch's own.
    """
    if not uses_ddp(by, ranks=ranks, device=next(model.parameters()).device):
        return AFTER_BACKWARD
    return DuringBackward(
        model,
        data_parallel=data_parallel or distributed_data_parallel,
        ranks=ranks,
        dtype=torch.bfloat16 if by == "bf16" else torch.float32,
    )


def uses_ddp(by: GradExchange, *, ranks: Ranks, device: torch.device) -> bool:
    """Return whether DDP sums the gradients; `auto` is DDP on GPUs, and one sum after the pass on CPUs."""
    return ranks.world_size > 1 and (by != "auto" or device.type != "cpu")
