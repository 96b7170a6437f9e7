from pathlib import Path

import pytest
import torch

from bertjobs.errors import ConfigError
from bertjobs.training.precision import resolve_precision

CPU = torch.device("cpu")


def _cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: fpu {flags} sse\nbugs\t\t: none\n")
    return path


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16"])
def test_auto_takes_bf16_where_the_processor_has_it(tmp_path: Path, flag: str) -> None:
    assert resolve_precision("auto", CPU, cpuinfo=_cpuinfo(tmp_path, flag)) == torch.bfloat16


def test_auto_takes_fp32_elsewhere(tmp_path: Path) -> None:
    assert resolve_precision("auto", CPU, cpuinfo=_cpuinfo(tmp_path, "avx512f amx_tile")) == torch.float32
    assert resolve_precision("auto", CPU, cpuinfo=tmp_path / "missing") == torch.float32


def test_fp32_is_fp32_on_any_processor(tmp_path: Path) -> None:
    assert resolve_precision("fp32", CPU, cpuinfo=_cpuinfo(tmp_path, "amx_bf16")) == torch.float32


def test_bf16_is_refused_where_it_would_be_emulated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--precision bf16: .* no bf16 .* --precision auto"):
        resolve_precision("bf16", CPU, cpuinfo=_cpuinfo(tmp_path, "avx2"))
