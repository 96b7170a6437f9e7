"""Fail on operations with which the host would wait for a device; with tensors on `meta` in place of a GPU.

On CUDA these operations synchronise: reading a number, operations whose output size is data, and copies that
are not declared non-blocking. `meta` tensors have shapes and no values, so that the check runs anywhere.
Source: torch's documentation of `torch.cuda.set_sync_debug_mode`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_READS_VALUES = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim",
    "_unique2", "unique_consecutive",
}  # fmt: skip
_COPIES = {"_to_copy", "copy_", "copy"}


class HostWait(AssertionError):
    """An operation in which the host waits for the device."""


class NoHostWaits(TorchDispatchMode):
    """Raise HostWait at the first such operation on a tensor of a device; count all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = 0
        self.copies: list[torch.Size] = []
        """Shapes of what was copied between host and device."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.split(".")[0]
        given = list(_tensors([*args, *kwargs.values()]))
        devices = {tensor.device.type for tensor in given}
        self.num_operations += bool(devices - {"cpu"})
        if name in _READS_VALUES and devices - {"cpu"}:
            raise HostWait(f"{name} reads a value from the device")
        is_index = name in {"index", "index_put", "index_put_"} and bool(devices - {"cpu"})
        if is_index and any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1])):
            raise HostWait(f"{name} by a mask: the size of its result is on the device")
        if name in _COPIES:
            self._check_copy(name, given, args, kwargs)
        return func(*args, **kwargs)

    def _check_copy(self, name: str, given: list[Tensor], args: Sequence[Any], kwargs: Any) -> None:
        to = torch.device(kwargs.get("device") or given[0].device).type
        source = given[1] if name == "copy_" else given[0]
        if to == source.device.type:
            return
        # The third argument of copy_ is non_blocking.
        is_non_blocking = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if not is_non_blocking:
            raise HostWait(f"{name} from {source.device.type} to {to} is not non_blocking")
        self.copies.append(source.shape)


def _tensors(given: Any) -> Iterator[Tensor]:
    for value in given if isinstance(given, list | tuple) else [given]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
