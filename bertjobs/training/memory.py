"""Estimate the memory that training needs, compare it with what is free, and explain what to change.

The estimate counts what the backward pass keeps, tensor by tensor; see `activation_bytes`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bertjobs.config.finetune import TrainSection
from bertjobs.config.pretrain import PretrainTrainSection
from bertjobs.errors import OutOfMemory
from bertjobs.modeling.attention import has_flash
from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.cpu.masked_loss import chunk_bytes

_FP32 = 4
_MASKED_RATIO = 0.15
"""Masked positions per token: the default of `--mask-ratio`."""
_HINT = (
    "Lower --microbatch-tokens or set --activation-checkpointing: the result stays the same. Or take a "
    "smaller --model; more workers do not help a single one."
)
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes that a worker needs at its peak, by purpose."""

    weights: int
    gradients: int
    moments: int
    activations: int
    """Of the largest microbatch, with what the backward pass adds."""
    checkpoint_copy: int = 0
    """Of what a checkpoint is written from while training continues; on the host, and not in the total:
    without it training waits for the checkpoint."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations

    def __str__(self) -> str:
        return (
            f"{_gb(self.weights)} of weights, {_gb(self.gradients)} of gradients, {_gb(self.moments)} of "
            f"moments, {_gb(self.activations)} of activations"
        )


def estimate_training(
    config: BertConfig,
    *,
    num_weights: int,
    num_trained: int,
    num_tokens: int,
    max_len: int,
    dtype: torch.dtype,
    device: torch.device,
    recomputes: bool,
    predicts_words: bool = False,
) -> MemoryNeed:
    """Estimate training with microbatches of `num_tokens` tokens in rows of up to `max_len`.

    num_trained: weights with gradients and moments. predicts_words: whether the loss is over the vocabulary.
    """
    casts = num_weights * dtype.itemsize if dtype != torch.float32 else 0
    per_token = activation_bytes(
        config,
        max_len=max_len,
        itemsize=dtype.itemsize,
        keeps_probabilities=not has_flash(device, dtype, head_size=config.head_size),
        recomputes=recomputes,
    )
    logits = _logits_bytes(config, num_tokens, dtype=dtype, device=device) if predicts_words else 0
    return MemoryNeed(
        weights=_FP32 * num_weights + casts,
        gradients=_FP32 * num_trained,
        moments=2 * _FP32 * num_trained,
        activations=num_tokens * per_token + logits,
        checkpoint_copy=_FP32 * num_weights + 2 * _FP32 * num_trained,
    )


def _logits_bytes(config: BertConfig, num_tokens: int, *, dtype: torch.dtype, device: torch.device) -> int:
    """Estimate the bytes of the logits of masked positions: those of a chunk on a CPU, else all of them."""
    if device.type == "cpu":
        return chunk_bytes(dtype)
    # The logits, the same in fp32, and the gradients of both.
    return int(_MASKED_RATIO * num_tokens) * config.vocab_size * 2 * (dtype.itemsize + _FP32)


def activation_bytes(
    config: BertConfig, *, max_len: int, itemsize: int, keeps_probabilities: bool, recomputes: bool
) -> int:
    """Estimate the bytes per token at the peak: what all layers keep, and what one backward pass adds.

    itemsize: of the products' dtype. Sums and what LayerNorm reads are fp32. A layer keeps its input,
    queries, keys, values, context, both sides of the activation, and its probabilities where it has no
    flash attention.
    """
    D, F = config.hidden_size, config.intermediate_size
    probabilities = config.num_attention_heads * max_len * itemsize if keeps_probabilities else itemsize * D
    layer = itemsize * (6 * D + 2 * F) + 2 * _FP32 * D + probabilities
    backward = max(2 * itemsize * F, 3 * itemsize * D + 3 * probabilities)
    embeddings = 3 * _FP32 * D
    if recomputes:
        return embeddings + _FP32 * D * config.num_hidden_layers + layer + backward
    return embeddings + layer * config.num_hidden_layers + backward


def check_memory(model: nn.Module, need: MemoryNeed) -> None:
    """Check that what a model, already on its device, still needs is free there.

    Raises: OutOfMemory: it is not.
    """
    device = next(model.parameters()).device
    there = _FP32 * sum(p.numel() for p in model.parameters())
    free = free_bytes(device)
    if free is not None and need.total - there > free:
        raise OutOfMemory(
            f"Training needs about {_gb(need.total)} of memory on a worker, and there are "
            f"{_gb(free + there)}: {need}",
            hint=_HINT,
        )


def has_room_for_copy(model: nn.Module, need: MemoryNeed) -> bool:
    """Return whether the host can hold a checkpoint's copy besides what training still needs there."""
    device = next(model.parameters()).device
    free = free_bytes(torch.device("cpu"))
    there = _FP32 * sum(p.numel() for p in model.parameters())
    needed = need.total - there if device.type == "cpu" else 0
    return free is None or needed + need.checkpoint_copy <= free


@contextmanager
def memory_errors(train: TrainSection | PretrainTrainSection) -> Iterator[None]:
    """Turn an allocator's error into an `OutOfMemory` whose hint tells what to change."""
    try:
        yield
    except RuntimeError as e:  # torch.OutOfMemoryError is one; on a CPU the allocator has no type of its own
        if isinstance(e, torch.OutOfMemoryError) or "can't allocate memory" in str(e):
            raise OutOfMemory(
                f"The step does not fit into memory with {train.microbatch_tokens} tokens at once on a "
                "worker",
                hint=_HINT,
            ) from e
        raise


def free_bytes(device: torch.device, *, meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Return the bytes that can still be allocated; on a CPU the less of the machine's and the container's.

    None where neither is known.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = [size for size in (_machine_bytes(meminfo), _container_bytes(cgroup)) if size is not None]
    return min(found, default=None)


def _machine_bytes(meminfo: Path) -> int | None:
    if not meminfo.is_file():
        return None
    lines = meminfo.read_text(encoding="ascii").splitlines()
    available = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if available is None else int(available.split()[1]) << 10


def _container_bytes(cgroup: Path) -> int | None:
    """Return the limit less what is used; cached files do not count, since the kernel can drop them."""
    version_2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
    version_1 = (
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
        "total_inactive_file",
    )  # fmt: skip
    for limit_name, used_name, stat_name, cached_name in (version_2, version_1):
        if not all((cgroup / name).is_file() for name in (limit_name, used_name, stat_name)):
            continue
        limit = (cgroup / limit_name).read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        stat = dict(line.split() for line in (cgroup / stat_name).read_text(encoding="ascii").splitlines())
        used = int((cgroup / used_name).read_text(encoding="ascii")) - int(stat[cached_name])
        return int(limit) - used
    return None


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
