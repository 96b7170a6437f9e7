"""Flash attention's two operators on a CPU, row by row in plain arithmetic, behind torch's own autograd.

`bertjobs.modeling.attention` calls `aten::_flash_attention_forward`, which exists for CUDA only. Inside this
mode the call goes through torch's autograd formula as on CUDA, and only the two kernels are replaced: so the
order of the arguments, and what the backward pass is given, are those of the torch that is installed.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "_unsafe_view", "alias"}


class FlashOnCpu(TorchDispatchMode):
    """Compute the operators, and count all operations that would launch a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        """Of each operation that is more than another view of its argument."""

    @property
    def num_attentions(self) -> int:
        """How often attention ran forward."""
        return self.names.count("_flash_attention_forward")

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view and name not in _NO_KERNEL:
            self.names.append(name)
        if name == "_flash_attention_forward":
            return _forward(*args, **(kwargs or {}))
        if name == "_flash_attention_backward":
            return _backward(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _forward(
    q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, cum_q: Tensor, cum_k: Tensor, max_q: int, max_k: int,
    dropout_p: float, is_causal: bool, return_debug_mask: bool, **options: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    _check(cum_q, cum_k, max_q, max_k, len(q_NHE), options)
    assert not is_causal and not return_debug_mask
    assert q_NHE.dtype in (torch.bfloat16, torch.float16) and q_NHE.stride(-1) == 1
    state = torch.randint(2**31, (2,))
    context_NHE = torch.empty(q_NHE.shape, dtype=q_NHE.dtype)
    for row, probs_HLL, mask_HLL in _rows(q_NHE, k_NHE, cum_q, dropout_p, state):
        values_HLE = v_NHE[row].transpose(0, 1).float()
        context_NHE[row] = ((probs_HLL * mask_HLL) @ values_HLE).transpose(0, 1).to(q_NHE.dtype)
    logsumexp_HN = torch.zeros(q_NHE.shape[1], len(q_NHE))  # the backward pass here does without
    return context_NHE, logsumexp_HN, state, torch.empty(0), torch.empty(0)


def _backward(
    grad_NHE: Tensor, q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, context_NHE: Tensor, logsumexp_HN: Tensor,
    cum_q: Tensor, cum_k: Tensor, max_q: int, max_k: int, dropout_p: float, is_causal: bool, state: Tensor,
    unused: Tensor, **options: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    _check(cum_q, cum_k, max_q, max_k, len(q_NHE), options)
    grads = tuple(torch.empty(x.shape, dtype=x.dtype) for x in (q_NHE, k_NHE, v_NHE))
    scale = q_NHE.shape[-1] ** -0.5
    for row, probs_HLL, mask_HLL in _rows(q_NHE, k_NHE, cum_q, dropout_p, state):
        q, k, v, grad = (x[row].transpose(0, 1).float() for x in (q_NHE, k_NHE, v_NHE, grad_NHE))
        grad_probs_HLL = (grad @ v.transpose(1, 2)) * mask_HLL
        grad_scores_HLL = probs_HLL * (grad_probs_HLL - (grad_probs_HLL * probs_HLL).sum(-1, keepdim=True))
        found = (
            scale * (grad_scores_HLL @ k),
            scale * (grad_scores_HLL.transpose(1, 2) @ q),
            (probs_HLL * mask_HLL).transpose(1, 2) @ grad,
        )
        for whole_NHE, part_HLE in zip(grads, found, strict=True):
            whole_NHE[row] = part_HLE.transpose(0, 1).to(whole_NHE.dtype)
    return grads


def _rows(
    q_NHE: Tensor, k_NHE: Tensor, offsets: Tensor, dropout_p: float, state: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield each row's place, its probabilities before dropout, and its mask, which follows from `state`."""
    generator = torch.Generator().manual_seed(int(state[0]))
    ends = offsets.tolist()
    for start, end in pairwise(ends):
        q, k = (x[start:end].transpose(0, 1).float() for x in (q_NHE, k_NHE))
        probs_HLL = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(dim=-1)
        kept_HLL = torch.rand(probs_HLL.shape, generator=generator) >= dropout_p
        yield slice(start, end), probs_HLL, kept_HLL / (1 - dropout_p)


def _check(cum_q: Tensor, cum_k: Tensor, max_q: int, max_k: int, num_tokens: int, options: Any) -> None:
    """Check what the kernel takes for granted."""
    assert cum_q.dtype == cum_k.dtype == torch.int32
    assert cum_q[0] == 0 and cum_q[-1] == num_tokens and torch.equal(cum_q, cum_k)
    assert max_q == max_k == int(cum_q.diff().max())
    assert all(value is None for value in options.values()), options
