"""Decide in which dtype matrix products run, from `--precision`, the device, and what it is done for.

Training tolerates bf16's 8 bits: the gradient's own noise is larger. A result does not: in bf16 a text's
vector or probability changes with the rows that share its batch. So on a CPU `auto` trains in bf16 and
computes results in fp32. On a GPU, where fp32 products are many times slower, `auto` is bf16 for both.
Weights, optimizer state, sums and losses are fp32 everywhere.
"""

from pathlib import Path

import torch

from bertjobs.config.sections import Precision
from bertjobs.errors import ConfigError
from bertjobs.settings import forced_cpu_precision

_CPU_FLAGS = {"amx_bf16", "avx512_bf16"}
_FIRST_GPU_WITH_BF16 = (8, 0)
_CPUINFO = Path("/proc/cpuinfo")


def training_dtype(precision: Precision, device: torch.device, *, cpuinfo: Path = _CPUINFO) -> torch.dtype:
    """Return the dtype of a training step's matrix products: with `auto`, bf16 where the device has it.

    Raises: ConfigError: bf16 was asked for on a processor that would have to emulate it.
    """
    if precision == "fp32":
        return torch.float32
    if has_bf16(device, cpuinfo=cpuinfo):
        return torch.bfloat16
    if precision == "bf16":
        raise ConfigError(
            f"--precision bf16: this {_name(device)} has no bf16 arithmetic and would emulate it slowly",
            hint="Use --precision auto or --precision fp32.",
        )
    return torch.float32


def inference_dtype(precision: Precision, device: torch.device, *, cpuinfo: Path = _CPUINFO) -> torch.dtype:
    """Return the dtype in which metrics, predictions and vectors are computed: with `auto`, fp32 on a CPU.

    Raises: ConfigError: as `training_dtype`.
    """
    if precision == "auto" and device.type == "cpu":
        return torch.float32
    return training_dtype(precision, device, cpuinfo=cpuinfo)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which matrix products run in this dtype."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


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
