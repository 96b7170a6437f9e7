"""Compute the encoder's parts that have their own backward pass: linear layers, attention, residual sums.

`project` and `attend` are for fp32; for bf16 there are `lowered.py` and `packed_attention.py`.

Written out, they gather dropout masks instead of storing them, read queries, keys and values as views, sum
the gradients of one input inside the matrix product, and may add the gradients of weights directly where the
optimizer keeps them. They know tensors and layouts, no modules.

Shape suffixes: N: tokens (or first tokens only). D: hidden size. I, O: inputs and outputs of a linear layer.
V: rows of a table. E: head size. Of one group: L: length. G: rows * heads.
Source: Vaswani et al. 2017, sections 3.1 and 3.2.1 (post-norm, attention). The plain version, which
    `tests/modeling/cpu/test_kernels.py` compares with, is torch's own operators.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bertjobs.modeling.cpu.dropout import AttentionMask, HiddenMask
from bertjobs.modeling.cpu.layout import AttentionGroup, GroupedLayout


def project(x_NI: Tensor, *weights_and_biases: Tensor, write_gradients: bool) -> tuple[Tensor, ...]:
    """Apply one or several linear layers (weight (O, I), bias (O), weight, ...) to one input in fp32.

    With `write_gradients`, gradients of weights are added to `.grad` directly where that is set, and autograd
    (its hooks too, so DDP's) sees none of them.
    """
    return _Linear.apply(x_NI, write_gradients, *weights_and_biases)


def look_up(ids_N: Tensor, table_VD: Tensor, *, write_gradients: bool) -> Tensor:
    """Return rows of a table; with `write_gradients`, gradients are added to the touched rows of `.grad`.

    Measured on 2 cores, 4,096 tokens, a table of 30,522 x 256: 0.4 ms instead of 6.7 for `nn.Embedding`'s
    dense gradient and its addition.
    """
    return _LookUp.apply(ids_N, table_VD, write_gradients)


def add_norm(
    branch_ND: Tensor,
    residual_ND: Tensor,
    *,
    weight_D: Tensor,
    bias_D: Tensor,
    eps: float,
    mask: HiddenMask | None,
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
    first_only: bool,
    mask: AttentionMask | None,
) -> Tensor:
    """Return softmax(Q K^T / sqrt(E)) V per row and head, with dropout on the probabilities.

    With `first_only` there are queries, and results, of each row's first token alone: (B, D).
    """
    query_groups = layout.first_tokens if first_only else layout.groups
    return _GroupedAttention.apply(
        queries_ND, keys_ND, values_ND, num_heads, query_groups, layout.groups, mask
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, write_gradients: bool, *parameters: Tensor) -> tuple[Tensor, ...]:
        weights, biases = parameters[::2], parameters[1::2]
        ctx.save_for_backward(x_NI, *weights)
        ctx.parameters, ctx.write_gradients = parameters, write_gradients
        return tuple(torch.addmm(b_O, x_NI, w_OI.t()) for w_OI, b_O in zip(weights, biases, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, *weights = ctx.saved_tensors
        grad_x_NI = None
        if ctx.needs_input_grad[0]:
            # dL/dx = sum over the layers of dL/dy W; addmm_ adds up where autograd would add full tensors.
            grad_x_NI = torch.mm(grads_NO[0], weights[0])
            for grad_NO, w_OI in zip(grads_NO[1:], weights[1:], strict=True):
                grad_x_NI.addmm_(grad_NO, w_OI)
        grads: list[Tensor | None] = []
        for i, grad_NO in enumerate(grads_NO):
            weight, bias = ctx.parameters[2 * i : 2 * i + 2]
            grads.append(_weight_gradient(weight, grad_NO, x_NI, write=ctx.write_gradients))
            grads.append(_bias_gradient(bias, grad_NO, write=ctx.write_gradients))
        return grad_x_NI, None, *grads


def _weight_gradient(weight: Tensor, grad_NO: Tensor, x_NI: Tensor, *, write: bool) -> Tensor | None:
    """Return dL/dW = (dL/dy)^T x (O, I); or add it to `.grad`, and return None to autograd."""
    if not weight.requires_grad:
        return None
    if not write or weight.grad is None:
        return torch.mm(grad_NO.t(), x_NI)
    weight.grad.addmm_(grad_NO.t(), x_NI)
    return None


def _bias_gradient(bias: Tensor, grad_NO: Tensor, *, write: bool) -> Tensor | None:
    """Return dL/db, the column sums; or add it to `.grad`, and return None."""
    if not bias.requires_grad:
        return None
    grad_O = grad_NO.sum(0)
    if not write or bias.grad is None:
        return grad_O
    bias.grad.add_(grad_O)
    return None


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids_N: Tensor, table_VD: Tensor, write_gradients: bool) -> Tensor:
        ctx.save_for_backward(ids_N)
        ctx.table_VD, ctx.write_gradients = table_VD, write_gradients
        return table_VD.index_select(0, ids_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        (ids_N,) = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return None, None, None
        # Repeated ids add up. Only touched rows are written: no (V, D) gradient is made and added.
        if ctx.write_gradients and ctx.table_VD.grad is not None:
            ctx.table_VD.grad.index_add_(0, ids_N, grad_ND)
            return None, None, None
        return None, torch.zeros_like(ctx.table_VD).index_add_(0, ids_N, grad_ND), None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        branch_ND: Tensor,
        residual_ND: Tensor,
        weight_D: Tensor,
        bias_D: Tensor,
        eps: float,
        mask: HiddenMask | None,
    ) -> Tensor:
        ctx.mask, ctx.branch_dtype = mask, branch_ND.dtype
        # The residual stream stays in fp32 under autocast: its sums over layers need the precision.
        branch_ND = branch_ND.to(residual_ND.dtype)
        if mask is None:
            sum_ND = residual_ND + branch_ND
        else:
            # The mask is already scaled by 1 / (1 - p); one operator instead of a product and a sum.
            sum_ND = torch.addcmul(residual_ND, branch_ND, mask.of(branch_ND))
        normed_ND, mean, rstd = torch.native_layer_norm(sum_ND, weight_D.shape, weight_D, bias_D, eps)
        # Without the mask, which the backward pass gathers again: (N, D) numbers less to keep.
        ctx.save_for_backward(sum_ND, mean, rstd, weight_D, bias_D)
        return normed_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        sum_ND, mean, rstd, weight_D, bias_D = ctx.saved_tensors
        wanted = [True, ctx.needs_input_grad[2], ctx.needs_input_grad[3]]
        grad_sum_ND, grad_weight_D, grad_bias_D = torch.ops.aten.native_layer_norm_backward(
            grad_ND.contiguous(), sum_ND, weight_D.shape, mean, rstd, weight_D, bias_D, wanted
        )
        # Both terms of the sum have its gradient; the branch's goes through the mask as well.
        grad_branch_ND = grad_sum_ND.to(ctx.branch_dtype)
        if ctx.mask is not None:
            # Gathered again, which is cheaper than keeping it: a mask is a function of (key, site, position).
            grad_branch_ND = grad_branch_ND * ctx.mask.of(grad_branch_ND)
        return grad_branch_ND, grad_sum_ND, grad_weight_D, grad_bias_D, None, None


class _GroupedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries_ND: Tensor,
        keys_ND: Tensor,
        values_ND: Tensor,
        num_heads: int,
        query_groups: tuple[AttentionGroup, ...],
        groups: tuple[AttentionGroup, ...],
        mask: AttentionMask | None,
    ) -> Tensor:
        context_ND = torch.empty_like(queries_ND)
        scale = (queries_ND.shape[1] // num_heads) ** -0.5
        saved = []
        for query_group, group in zip(query_groups, groups, strict=True):
            q_GLE = _heads(queries_ND, query_group, num_heads)
            k_GLE = _heads(keys_ND, group, num_heads)
            v_GLE = _heads(values_ND, group, num_heads)
            probs_GLL = _probabilities(q_GLE, k_GLE, group.key_bias, scale=scale)
            # Probabilities are kept as they are before dropout: the gradient of softmax needs them so.
            saved += [q_GLE, k_GLE, v_GLE, probs_GLL]
            if mask is not None:
                probs_GLL = probs_GLL * mask.of(probs_GLL, first_row=group.first_row)
            # O = dropout(P) V, written through a view into the tokens' places.
            _heads(context_ND, query_group, num_heads).copy_(torch.bmm(probs_GLL, v_GLE))
        ctx.save_for_backward(*saved)
        ctx.num_heads, ctx.scale, ctx.mask = num_heads, scale, mask
        ctx.query_groups, ctx.groups = query_groups, groups
        ctx.shapes = queries_ND.shape, keys_ND.shape
        return context_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        query_shape, key_shape = ctx.shapes
        grad_queries_ND = grad_ND.new_empty(query_shape)
        grad_keys_ND, grad_values_ND = grad_ND.new_empty(key_shape), grad_ND.new_empty(key_shape)
        for query_group, group in zip(ctx.query_groups, ctx.groups, strict=True):
            q_GLE, k_GLE, v_GLE, probs_GLL = (next(saved) for _ in range(4))
            grad_GLE = _heads(grad_ND, query_group, ctx.num_heads)
            # dL/dP' = dL/dO V^T for the dropped P' = P * mask; through the mask to dL/dP.
            grad_probs_GLL, dropped_GLL = torch.bmm(grad_GLE, v_GLE.transpose(1, 2)), probs_GLL
            if ctx.mask is not None:
                mask_GLL = ctx.mask.of(probs_GLL, first_row=group.first_row)
                grad_probs_GLL, dropped_GLL = grad_probs_GLL.mul_(mask_GLL), probs_GLL * mask_GLL
            # dL/dS = P * (dL/dP - rowsum(dL/dP * P)) / sqrt(E), where S = Q K^T.
            grad_scores_GLL = _softmax_backward(grad_probs_GLL, probs_GLL, scale=ctx.scale)
            # dL/dV = P'^T dL/dO; dL/dQ = dL/dS K; dL/dK = (dL/dS)^T Q.
            _heads(grad_values_ND, group, ctx.num_heads).copy_(
                torch.bmm(dropped_GLL.transpose(1, 2), grad_GLE)
            )
            _heads(grad_queries_ND, query_group, ctx.num_heads).copy_(torch.bmm(grad_scores_GLL, k_GLE))
            _heads(grad_keys_ND, group, ctx.num_heads).copy_(
                torch.bmm(grad_scores_GLL.transpose(1, 2), q_GLE)
            )
        return grad_queries_ND, grad_keys_ND, grad_values_ND, None, None, None, None


def _heads(x_ND: Tensor, group: AttentionGroup, num_heads: int) -> Tensor:
    """View a group's tokens as (G, L, E); with positions outermost, row and head share one stride."""
    num_tokens = group.num_rows * group.length
    group_ND = x_ND[group.start : group.start + num_tokens]
    return group_ND.view(group.length, group.num_rows * num_heads, -1).transpose(0, 1)


def _probabilities(q_GLE: Tensor, k_GLE: Tensor, bias_G1L: Tensor | None, *, scale: float) -> Tensor:
    """Return P = softmax(Q K^T * scale + bias), (G, queries, keys), in the dtype of Q."""
    keys_GEL = k_GLE.transpose(1, 2)
    if bias_G1L is not None:
        scores_GLL = torch.baddbmm(bias_G1L.to(q_GLE.dtype), q_GLE, keys_GEL, alpha=scale)
    else:
        # beta = 0 ignores the first argument; alpha scales inside the product, without a pass of its own.
        scores_GLL = torch.baddbmm(q_GLE.new_zeros(1, 1, 1), q_GLE, keys_GEL, beta=0, alpha=scale)
    return torch.softmax(scores_GLL, dim=-1)


def _softmax_backward(grad_GLL: Tensor, probs_GLL: Tensor, *, scale: float) -> Tensor:
    """Return the gradient of the scores before their scale."""
    grad_scores_GLL = torch.ops.aten._softmax_backward_data(grad_GLL, probs_GLL, -1, probs_GLL.dtype)
    return grad_scores_GLL.mul_(scale)
