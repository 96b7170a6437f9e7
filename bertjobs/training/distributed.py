"""Communicate with the other processes that train the same model. A single process is rank 0 of 1.

Ray Train (or a test) sets up `torch.distributed`; this module only finds out and uses it.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist

# Its functions have the process group of the time of the import as their default. torch imports it late by
# itself (with `torch._dynamo`); the group then outlives `destroy_process_group` with its threads. One that
# still releases a tensor while the interpreter ends aborts the process ("terminate called without an active
# exception"), after all work is done.
import torch.distributed.nn.functional


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's rank, and the number of ranks."""

    rank: int
    world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.rank == 0

    def all_reduce(self, *tensors: torch.Tensor) -> None:
        """Replace each tensor by its sum over the ranks, in place; the same to the last bit on all ranks."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def all_reduce_on_host(self, tensor: torch.Tensor) -> None:
        """Replace a tensor on the CPU by its sum over the ranks, in place."""
        # NCCL sums tensors on GPUs only; Gloo takes those on the CPU.
        on_device = tensor.to("cuda") if self.world_size > 1 and dist.get_backend() == "nccl" else tensor
        self.all_reduce(on_device)
        tensor.copy_(on_device)

    def broadcast(self, *tensors: torch.Tensor) -> None:
        """Overwrite each tensor by rank 0's."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


def current_ranks() -> Ranks:
    """Return this process's rank, or rank 0 of 1 where no process group was set up."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(rank=dist.get_rank(), world_size=dist.get_world_size())
    return Ranks(rank=0, world_size=1)
