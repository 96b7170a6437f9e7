"""What CUDA's autocast does to dtypes, without a GPU: emulated on a CPU, forward and backward, and looked up.

CPU autocast lowers the same products, but leaves softmax, LayerNorm and sums in the dtype that they are
given, where CUDA's computes them in fp32. Source: torch's `ATen/autocast_mode.h`, and "CUDA Ops that can
autocast to float32" in its documentation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

_IN_FP32 = {
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal",
    "rsqrt", "sinh", "tan", "pow", "__pow__", "__rpow__", "__rdiv__", "__rtruediv__", "softplus",
    "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "cosine_similarity", "nll_loss",
    "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss", "binary_cross_entropy_with_logits",
    "dist", "renorm", "logsumexp", "cross_entropy", "norm",
}  # fmt: skip
_IN_FP32_UNLESS_GIVEN_A_DTYPE = {
    "prod", "softmax", "log_softmax", "cumprod", "cumsum", "linalg_vector_norm", "linalg_matrix_norm",
    "sum",
}  # fmt: skip
_IN_THE_WIDEST_DTYPE = {
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sample", "index_put",
    "tensordot", "scatter_add", "cat", "stack",
}  # fmt: skip
_LOWERED_ON_CUDA_ONLY = {"mv", "addmv", "addr", "prelu"}


class CudaAutocast(TorchFunctionMode):
    """Follow CUDA's rules wherever CPU autocast is enabled."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        dtype = _dtype_of(getattr(func, "__name__", ""), [*args, *kwargs.values()])
        if dtype is None or not torch.is_autocast_enabled("cpu") or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*_cast(args, dtype), **_cast(kwargs, dtype))


@contextmanager
def fake_cuda_autocast() -> Iterator[None]:
    """Let tensors on `cuda` have shapes and dtypes, under the true rules, without a device. Forward only."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    # `torch.autocast` would look for a device.
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def _dtype_of(name: str, given: Sequence[Any]) -> torch.dtype | None:
    """Return what floating-point arguments are cast to; None where CPU autocast does as CUDA's."""
    if name in _IN_FP32:
        return torch.float32
    if name in _IN_FP32_UNLESS_GIVEN_A_DTYPE:
        return None if any(isinstance(value, torch.dtype) for value in given) else torch.float32
    if name in _IN_THE_WIDEST_DTYPE:
        found = [t.dtype for t in _tensors(given) if t.is_floating_point()]
        return max(found, key=lambda dtype: dtype.itemsize, default=None)
    return torch.get_autocast_dtype("cpu") if name in _LOWERED_ON_CUDA_ONLY else None


def _tensors(given: Any) -> Iterator[Tensor]:
    for value in given:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _cast(given: Any, dtype: torch.dtype) -> Any:
    """Cast what autocast does: floating-point tensors other than fp64."""
    if isinstance(given, Tensor):
        return given.to(dtype) if given.is_floating_point() and given.dtype != torch.float64 else given
    if isinstance(given, Mapping):
        return {name: _cast(value, dtype) for name, value in given.items()}
    return type(given)(_cast(value, dtype) for value in given) if isinstance(given, list | tuple) else given
