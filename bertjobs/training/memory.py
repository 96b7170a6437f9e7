"""What training needs of memory, and what to say where there is not enough."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bertjobs.errors import OutOfMemory


@contextmanager
def memory_errors(microbatch_tokens: int) -> Iterator[None]:
    """Turn an allocator's error into one that says what to change."""
    try:
        yield
    except RuntimeError as e:  # torch.OutOfMemoryError is one; on a CPU the allocator has no type of its own
        if isinstance(e, torch.OutOfMemoryError) or "can't allocate memory" in str(e):
            raise OutOfMemory(
                f"The step does not fit into memory with {microbatch_tokens} tokens at once on a worker.",
                hint="Make it smaller with --set train.microbatch_tokens=N; the result stays the same.",
            ) from e
        raise
