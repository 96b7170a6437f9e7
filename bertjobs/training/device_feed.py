"""Make batches ahead of the step, bring each to the device in one copy, and bring results back.

On CUDA a thread makes batches in pinned memory while the device computes, and results are copied to pinned
memory and read a few batches later: the host waits for no copy. On a CPU there is nothing to copy and no core
to spare, so batches are made when they are asked for. The order is the same either way.

A batch is a tree of dataclasses, tuples and mappings; its tensors move, everything else stays. Fields that
`on_host` declares stay too: what the host has to read, since reading from a device is a wait.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy.typing as npt
import torch
from torch import Tensor

from bertjobs.modeling.inputs import ON_HOST

BatchT = TypeVar("BatchT")
KeyT = TypeVar("KeyT")

_BATCHES_AHEAD = 2
"""One that is ready while the next is made: making a batch takes a fraction of a step."""
_RESULTS_BEHIND = 2
"""Results that are still on their way while the device computes the next ones."""
_ALIGN = 16
"""Bytes: where each tensor begins in the buffer, so that a view in any dtype is allowed."""
_STOP_POLL_S = 0.1


def on_device(
    batches: Iterable[BatchT], device: torch.device, *, ahead: bool | None = None
) -> Generator[BatchT]:
    """Yield the batches on a device, in their order; close the generator to end its thread.

    ahead: whether a thread makes them; default: on CUDA. An error of `batches` is raised where its batch
    would have been yielded.
    """
    if not (device.type == "cuda" if ahead is None else ahead):
        yield from batches
        return
    made = _MadeAhead(batches, device)
    try:
        for staged in made:
            yield staged.to(device)
    finally:
        made.close()


def from_device(
    results: Iterable[tuple[KeyT, Tensor]], *, num_behind: int | None = None
) -> Generator[tuple[KeyT, npt.NDArray[Any]]]:
    """Yield each result as an array on the host, with what it came with, in their order.

    num_behind: results that may be computed before the oldest is read; default: 2 on CUDA, else 0.
    """
    on_their_way: deque[tuple[KeyT, _CopyToHost]] = deque()
    for key, result in results:
        on_their_way.append((key, _CopyToHost(result)))
        limit = (_RESULTS_BEHIND if result.is_cuda else 0) if num_behind is None else num_behind
        while len(on_their_way) > limit:
            first, copy = on_their_way.popleft()
            yield first, copy.wait()
    for key, copy in on_their_way:
        yield key, copy.wait()


class _CopyToHost:
    """A copy of a tensor that is under way; on a CPU the tensor itself."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor
        self._is_done: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._is_done = torch.cuda.Event()
            self._is_done.record()

    def wait(self) -> npt.NDArray[Any]:
        """Return it once it is there."""
        if self._is_done is not None:
            self._is_done.synchronize()
        return self._host.numpy()


@dataclass(frozen=True)
class StagedBatch(Generic[BatchT]):
    """A batch whose tensors lie one after another in a single buffer on the host."""

    batch: BatchT
    buffer: Tensor
    starts: tuple[int, ...]
    """Of each tensor in the buffer, in the order in which the tree is walked."""

    @classmethod
    def stage(cls, batch: BatchT, *, pin_memory: bool) -> "StagedBatch[BatchT]":
        """Copy the tensors of a batch on the host into a buffer, pinned where a device is to read it."""
        tensors = list(_tensors(batch))
        starts, end = [], 0
        for tensor in tensors:
            starts.append(end)
            end += -(-tensor.nbytes // _ALIGN) * _ALIGN
        buffer = torch.empty(end, dtype=torch.uint8, pin_memory=pin_memory)
        for tensor, start in zip(tensors, starts, strict=True):
            _view(buffer, like=tensor, start=start).copy_(tensor)
        return cls(batch, buffer, tuple(starts))

    def to(self, device: torch.device) -> BatchT:
        """Return the batch on the device: one copy, and views of it."""
        # The caching host allocator keeps pinned memory until the copy is done, also when we drop it now.
        there = self.buffer.to(device, non_blocking=True)
        starts = iter(self.starts)
        return cast(
            BatchT, _replaced(self.batch, lambda tensor: _view(there, like=tensor, start=next(starts)))
        )


class _MadeAhead(Generic[BatchT]):
    """A thread that stages batches, a few ahead of the one that is used."""

    def __init__(self, batches: Iterable[BatchT], device: torch.device) -> None:
        self._queue: queue.Queue[StagedBatch[BatchT] | _End] = queue.Queue(maxsize=_BATCHES_AHEAD)
        self._is_closed = threading.Event()
        self._device = device
        self._thread = threading.Thread(
            target=self._fill, args=(batches,), name="bertjobs-batches", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[StagedBatch[BatchT]]:
        while True:
            item = self._queue.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return

    def close(self) -> None:
        """End the thread; it may be waiting for room in the queue, or making a batch."""
        self._is_closed.set()
        self._thread.join()

    def _fill(self, batches: Iterable[BatchT]) -> None:
        pins = self._device.type == "cuda"
        if pins:
            torch.cuda.set_device(self._device)  # per thread; else pinning opens a context on GPU 0
        end = _End()
        try:
            for batch in batches:
                self._put(StagedBatch.stage(batch, pin_memory=pins))
                if self._is_closed.is_set():
                    return
        except BaseException as e:  # the loop's thread raises it, at the step that it belongs to
            end = _End(error=e)
        self._put(end)

    def _put(self, item: "StagedBatch[BatchT] | _End") -> None:
        while not self._is_closed.is_set():
            try:
                self._queue.put(item, timeout=_STOP_POLL_S)
                return
            except queue.Full:
                continue


@dataclass(frozen=True)
class _End:
    error: BaseException | None = field(default=None)


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tree that move to the device, in the order in which `_replaced` asks."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _replaced(tree, note)
    yield from found


def _replaced(tree: Any, new: Callable[[Tensor], Tensor]) -> Any:
    """Return the tree with each tensor that moves to the device replaced."""
    if isinstance(tree, Tensor):
        return new(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        moved = {f.name: getattr(tree, f.name) for f in fields(tree) if not f.metadata.get(ON_HOST)}
        return replace(tree, **{name: _replaced(value, new) for name, value in moved.items()})
    if type(tree) in (tuple, list):
        return type(tree)(_replaced(value, new) for value in tree)
    if isinstance(tree, Mapping):
        return {name: _replaced(value, new) for name, value in tree.items()}
    return tree


def _view(buffer: Tensor, *, like: Tensor, start: int) -> Tensor:
    """Return the bytes of the buffer from `start` on as a tensor of this shape and dtype."""
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)
