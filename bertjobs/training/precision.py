"""Decide in which dtype matrix products run, from `--precision`, the device, and what it is done for.

`tf32` is fp32 to everything but the products of an NVIDIA GPU, which round their factors to 10 bits.

Training tolerates bf16's 8 bits: the gradient's own noise is larger. A result does not: in bf16 a text's
vector or probability changes with the rows that share its batch. So on a CPU `auto` trains in bf16 and
computes results in fp32. On a GPU, where fp32 products are many times slower, `auto` is bf16 for both, and
fp16 where a GPU has tensor cores but no bf16 (V100, T4).
Weights, optimizer state, sums and losses are fp32 everywhere.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from bertjobs.config.sections import Precision
from bertjobs.errors import ConfigError
from bertjobs.settings import forced_cpu_precision

_CPU_FLAGS = {"amx_bf16", "avx512_bf16"}
_FIRST_GPU_WITH_BF16, _FIRST_GPU_WITH_FP16 = (8, 0), (7, 0)
"""Compute capabilities: Ampere has both, Volta and Turing multiply fp16 in tensor cores."""
_CPUINFO = Path("/proc/cpuinfo")


def training_dtype(precision: Precision, device: torch.device, *, cpuinfo: Path = _CPUINFO) -> torch.dtype:
    """Return the dtype of a training step's matrix products: with `auto`, bf16 where the device has it.

    Raises: ConfigError: the device would have to emulate what was asked for.
    """
    if precision == "fp32":
        return torch.float32
    if precision in ("tf32", "fp16"):
        return _dtype_on_gpu(precision, device)
    if has_bf16(device, cpuinfo=cpuinfo):
        return torch.bfloat16
    if precision == "bf16":
        raise ConfigError(
            f"--precision bf16: this {_name(device)} has no bf16 arithmetic and would emulate it slowly",
            hint="Use --precision auto or --precision fp32.",
        )
    return torch.float16 if _has_fp16(device) else torch.float32


def _dtype_on_gpu(precision: Precision, device: torch.device) -> torch.dtype:
    if precision == "fp16" and _has_fp16(device):
        return torch.float16
    if precision == "tf32" and device.type == "cuda" and has_bf16(device):  # both since Ampere
        return torch.float32
    raise ConfigError(
        f"--precision {precision}: this {_name(device)} has no {precision} arithmetic",
        hint="Use --precision auto or --precision fp32.",
    )


def _has_fp16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FIRST_GPU_WITH_FP16


def inference_dtype(precision: Precision, device: torch.device, *, cpuinfo: Path = _CPUINFO) -> torch.dtype:
    """Return the dtype in which metrics, predictions and vectors are computed: with `auto`, fp32 on a CPU.

    Raises: ConfigError: as `training_dtype`.
    """
    if precision == "auto" and device.type == "cpu":
        return torch.float32
    return training_dtype(precision, device, cpuinfo=cpuinfo)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return the context in which matrix products run in this dtype."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()  # `meta`, in tests
    if dtype == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=dtype)


@contextmanager
def fp32_products(precision: Precision) -> Iterator[None]:
    """Let fp32 products use TF32 inside the block where `tf32` was asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def has_bf16(device: torch.device, *, cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether the device multiplies bf16 matrices in hardware, or a test says so of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _FIRST_GPU_WITH_BF16
    if forced := forced_cpu_precision():
        return forced == "bf16"
    if not cpuinfo.is_file():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return not _CPU_FLAGS.isdisjoint(flags.split())


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
