"""The processes that train one model together, seen from one of them. A lone process is one rank.

Ray Train (or a test) sets up `torch.distributed`; this module only finds out and speaks through it.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Who we are and how many we are."""

    rank: int
    world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.rank == 0

    def add_up(self, *tensors: torch.Tensor) -> None:
        """Replace each tensor by its sum over the ranks, in place and the same to the last bit on all."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def add_up_on_host(self, tensor: torch.Tensor) -> None:
        """Replace a tensor on the CPU by its sum over the ranks, in place."""
        on_device = tensor.to("cuda") if self.world_size > 1 and dist.get_backend() == "nccl" else tensor
        self.add_up(on_device)
        tensor.copy_(on_device)

    def copy_from_first(self, *tensors: torch.Tensor) -> None:
        """Overwrite each tensor by rank 0's."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.world_size > 1:
            dist.barrier()


def current_ranks() -> Ranks:
    """Return this process's place, or the only place where no group was set up."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(rank=dist.get_rank(), world_size=dist.get_world_size())
    return Ranks(rank=0, world_size=1)
