"""Which arithmetic the matrix products run in. Asks the processor, not the user's hopes."""

from pathlib import Path

import torch

from bertjobs.config.sections import Precision
from bertjobs.errors import ConfigError

_CPU_FLAGS = {"amx_bf16", "avx512_bf16"}
_FIRST_GPU_WITH_BF16 = (8, 0)
_CPUINFO = Path("/proc/cpuinfo")


def resolve_precision(precision: Precision, device: torch.device, *, cpuinfo: Path = _CPUINFO) -> torch.dtype:
    """Return the dtype of matrix products: `torch.bfloat16` or `torch.float32`. Weights are kept in fp32.

    Raises: ConfigError: bf16 was asked for on a processor that has to emulate it.
    """
    if precision == "fp32":
        return torch.float32
    if has_bf16(device, cpuinfo=cpuinfo):
        return torch.bfloat16
    if precision == "bf16":
        raise ConfigError(
            f"--precision bf16: this {_name(device)} has no bf16 arithmetic and would emulate it slowly.",
            hint="Use --precision auto or --precision fp32.",
        )
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which matrix products run in this dtype."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def has_bf16(device: torch.device, *, cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _FIRST_GPU_WITH_BF16
    if not cpuinfo.is_file():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return not _CPU_FLAGS.isdisjoint(flags.split())


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
