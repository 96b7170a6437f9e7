"""The parts of the encoder with a backward pass of their own: attention over groups, and the residual sum.

Written out, they gather dropout masks instead of storing them, keep queries, keys and values as views, and
write gradients where the linear layers read them. They know tensors and layouts, no modules.

Legend: N tokens, B rows, D hidden, H heads, E head size; of one group K rows, L length, G = K * H.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bertjobs.modeling.dropout import Mask
from bertjobs.modeling.inputs import GroupedLayout, PackedLayout


def add_norm(
    branch_ND: Tensor, residual_ND: Tensor, *, weight_D: Tensor, bias_D: Tensor, eps: float, mask: Mask | None
) -> Tensor:
    """Return LayerNorm(residual + dropout(branch)) in the residual's dtype."""
    return _AddNorm.apply(branch_ND, residual_ND, weight_D, bias_D, eps, mask)


def attend(
    queries_ND: Tensor,
    keys_ND: Tensor,
    values_ND: Tensor,
    *,
    num_heads: int,
    layout: GroupedLayout,
    mask: Mask | None,
) -> Tensor:
    """Return softmax(Q K^T / sqrt(E)) V per row and head, with dropout on the probabilities."""
    return _GroupedAttention.apply(queries_ND, keys_ND, values_ND, num_heads, layout, mask)


def attend_packed(
    queries_ND: Tensor, keys_ND: Tensor, values_ND: Tensor, *, num_heads: int, layout: PackedLayout
) -> Tensor:
    """Return attention over rows of different lengths without padding.

    CUDA with bf16 or fp16 only, and without dropout on the probabilities. Source: torch.nn.attention.varlen.
    """
    from torch.nn.attention.varlen import (
        varlen_attn,
    )  # fails to import on builds without CUDA flash attention

    q, k, v = (x_ND.view(x_ND.shape[0], num_heads, -1) for x_ND in (queries_ND, keys_ND, values_ND))
    cumulative, longest = layout.cumulative, layout.max_len
    return varlen_attn(q, k, v, cumulative, cumulative, longest, longest).reshape_as(queries_ND)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        branch_ND: Tensor,
        residual_ND: Tensor,
        weight_D: Tensor,
        bias_D: Tensor,
        eps: float,
        mask: Mask | None,
    ) -> Tensor:
        sum_ND = residual_ND + branch_ND if mask is None else _add_masked(residual_ND, branch_ND, mask)
        normed_ND, mean, rstd = torch.native_layer_norm(sum_ND, weight_D.shape, weight_D, bias_D, eps)
        ctx.save_for_backward(sum_ND, mean, rstd, weight_D, bias_D)
        ctx.mask, ctx.branch_dtype = mask, branch_ND.dtype
        return normed_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        sum_ND, mean, rstd, weight_D, bias_D = ctx.saved_tensors
        grad_sum_ND, grad_weight_D, grad_bias_D = torch.ops.aten.native_layer_norm_backward(
            grad_ND.contiguous(), sum_ND, weight_D.shape, mean, rstd, weight_D, bias_D, [True, True, True]
        )
        grad_branch_ND = grad_sum_ND.to(ctx.branch_dtype)
        if ctx.mask is not None:
            grad_branch_ND = grad_branch_ND * ctx.mask.of(grad_branch_ND)
        return grad_branch_ND, grad_sum_ND, grad_weight_D, grad_bias_D, None, None


def _add_masked(residual_ND: Tensor, branch_ND: Tensor, mask: Mask) -> Tensor:
    branch_ND = branch_ND.to(residual_ND.dtype)
    return torch.addcmul(residual_ND, branch_ND, mask.of(branch_ND))


class _GroupedAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        queries_ND: Tensor,
        keys_ND: Tensor,
        values_ND: Tensor,
        num_heads: int,
        layout: GroupedLayout,
        mask: Mask | None,
    ) -> Tensor:
        context_ND = torch.empty_like(queries_ND)
        scale = (queries_ND.shape[1] // num_heads) ** -0.5
        probabilities = []
        for group, bias_K1L in zip(layout.groups, layout.key_bias, strict=True):
            q_GLE, k_GLE, v_GLE = (_heads(x, group, num_heads) for x in (queries_ND, keys_ND, values_ND))
            scores_GLL = _scores(q_GLE, k_GLE, bias_K1L, num_heads=num_heads, scale=scale)
            probs_GLL = torch.softmax(scores_GLL, dim=-1)
            probabilities.append(probs_GLL)
            dropped_GLL = probs_GLL * _group_mask(mask, group, probs_GLL) if mask is not None else probs_GLL
            _heads(context_ND, group, num_heads).copy_(torch.bmm(dropped_GLL, v_GLE))
        ctx.save_for_backward(queries_ND, keys_ND, values_ND, *probabilities)
        ctx.num_heads, ctx.scale, ctx.layout, ctx.mask = num_heads, scale, layout, mask
        return context_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inputs_ND, probabilities = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        grads_ND = tuple(torch.empty_like(x_ND) for x_ND in inputs_ND)
        for group, probs_GLL in zip(ctx.layout.groups, probabilities, strict=True):
            q_GLE, k_GLE, v_GLE = (_heads(x_ND, group, ctx.num_heads) for x_ND in inputs_ND)
            grad_q, grad_k, grad_v = (_heads(x_ND, group, ctx.num_heads) for x_ND in grads_ND)
            grad_GLE = _heads(grad_ND, group, ctx.num_heads)
            grad_probs_GLL, dropped_GLL = torch.bmm(grad_GLE, v_GLE.transpose(1, 2)), probs_GLL
            if ctx.mask is not None:
                mask_GLL = _group_mask(ctx.mask, group, probs_GLL)
                grad_probs_GLL, dropped_GLL = grad_probs_GLL.mul_(mask_GLL), probs_GLL * mask_GLL
            grad_v.copy_(torch.bmm(dropped_GLL.transpose(1, 2), grad_GLE))
            grad_scores_GLL = torch.ops.aten._softmax_backward_data(
                grad_probs_GLL, probs_GLL, -1, probs_GLL.dtype
            )
            grad_scores_GLL = grad_scores_GLL.mul_(ctx.scale)
            grad_q.copy_(torch.bmm(grad_scores_GLL, k_GLE))
            grad_k.copy_(torch.bmm(grad_scores_GLL.transpose(1, 2), q_GLE))
        return *grads_ND, None, None, None


def _heads(x_ND: Tensor, group: Any, num_heads: int) -> Tensor:
    """View a group's tokens as (K * H, L, E): with positions outermost, row and head have one stride."""
    length, num_rows = group.length, group.num_rows
    group_ND = x_ND[group.start : group.start + num_rows * length]
    return group_ND.view(length, num_rows * num_heads, -1).transpose(0, 1)


def _scores(q_GLE: Tensor, k_GLE: Tensor, bias_K1L: Tensor | None, *, num_heads: int, scale: float) -> Tensor:
    keys_GEL = k_GLE.transpose(1, 2)
    if bias_K1L is None:
        return torch.baddbmm(q_GLE.new_zeros(1, 1, 1), q_GLE, keys_GEL, beta=0, alpha=scale)
    bias_G1L = bias_K1L.to(q_GLE.dtype).repeat_interleave(num_heads, dim=0)
    return torch.baddbmm(bias_G1L, q_GLE, keys_GEL, alpha=scale)


def _group_mask(mask: Mask, group: Any, probs_GLL: Tensor) -> Tensor:
    """Gather the mask of a group's probabilities from rows that lie (N, H)."""
    rows_NH = mask.rows[group.start : group.start + group.num_rows * group.length]
    rows_GL = rows_NH.view(group.length, -1).t()
    return Mask(mask.pool, mask.kind, rows_GL).of(probs_GLL)
