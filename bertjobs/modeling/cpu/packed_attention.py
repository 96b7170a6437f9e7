"""Compute attention in bf16 over packed queries, keys and values, which it gathers into a few groups.

What is done element by element is done for all groups at once: a call costs some microseconds, which at
SNLI's lengths is as long as the work of one group. `kernels.attend` is the plain version; the tests compare
the two.

Shape suffixes: N: tokens. B: rows. D: hidden size. E: head size. M: padded places of all groups, heads
included. Q: scores of all groups, flat. Of one group: G: rows * heads. L: length.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bertjobs.modeling.cpu.dropout import AttentionMask
from bertjobs.modeling.cpu.packed import PackedLayout


def attend_packed(
    projected: Tensor, first_BD: Tensor | None, *, layout: PackedLayout, mask: AttentionMask | None
) -> Tensor:
    """Return softmax(Q K^T / sqrt(E)) V per row and head, with dropout on the probabilities.

    projected: queries, keys and values side by side (N, 3D); the results are of all tokens (N, D). With
    `first_BD`, the queries of each row's first token, it is keys and values (N, 2D), and the results (B, D).
    """
    return _PackedAttention.apply(projected, first_BD, layout, mask)


class _Shapes(NamedTuple):
    """Of each group's part of a flat buffer."""

    queries: list[tuple[int, int, int]]
    keys: list[tuple[int, int, int]]
    scores: list[tuple[int, int, int]]


def _shapes_of(layout: PackedLayout, *, head_size: int, first_only: bool) -> _Shapes:
    keys = [(g.num_rows * layout.num_heads, g.length, head_size) for g in layout.groups]
    queries = [(G, 1, E) for G, _, E in keys] if first_only else keys
    scores = [(G, Lq, Lk) for (G, Lq, _), (_, Lk, _) in zip(queries, keys, strict=True)]
    return _Shapes(queries, keys, scores)


def _split(flat: Tensor, shapes: list[tuple[int, int, int]]) -> list[Tensor]:
    """View the groups' parts of a flat buffer in their shapes."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return [part.view(shape) for part, shape in zip(flat.view(-1).split(sizes), shapes, strict=True)]


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        first_BD: Tensor | None,
        layout: PackedLayout,
        mask: AttentionMask | None,
    ) -> Tensor:
        first_only, H = first_BD is not None, layout.num_heads
        num_parts = 2 if first_only else 3
        E = projected.shape[1] // (num_parts * H)
        shapes = _shapes_of(layout, head_size=E, first_only=first_only)
        # Queries, keys and values of all groups in one gather.
        gathered_ME = projected.view(-1, E).index_select(0, layout.gather_index(num_parts))
        *queries, keys_ME, values_ME = gathered_ME.chunk(num_parts)
        # A group's first tokens lie together already: (B, D) is (B * H, 1, E).
        queries_ME = queries[0] if first_BD is None else first_BD.contiguous().view(-1, E)
        bias_Q = layout.first_key_bias if first_only else layout.key_bias
        probs_Q = _probabilities(queries_ME, keys_ME, bias_Q, shapes=shapes, scale=E**-0.5)
        dropped_Q = probs_Q if mask is None else probs_Q * _gather_mask(mask, probs_Q, shapes, layout)
        context_ME = torch.empty_like(queries_ME)
        for dropped_GLL, v_GLE, context_GLE in zip(
            _split(dropped_Q, shapes.scores),
            _split(values_ME, shapes.keys),
            _split(context_ME, shapes.queries),
            strict=True,
        ):
            torch.bmm(dropped_GLL, v_GLE, out=context_GLE)
        # Probabilities are kept as they are before dropout: the gradient of softmax needs them so.
        ctx.save_for_backward(queries_ME, keys_ME, values_ME, probs_Q)
        ctx.layout, ctx.mask, ctx.shapes, ctx.first_only = layout, mask, shapes, first_only
        if not first_only:
            context_ME = context_ME.index_select(0, layout.context_index)
        return context_ME.view(-1, H * E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries_ME, keys_ME, values_ME, probs_Q = ctx.saved_tensors
        layout, shapes = ctx.layout, ctx.shapes
        E = keys_ME.shape[1]
        num_parts = 2 if ctx.first_only else 3
        grad_ME = grad.contiguous().view(-1, E)
        if not ctx.first_only:
            # What pads a group is a copy of the last token, whose gradient is zero.
            grad_ME = grad_ME.index_select(0, layout.gather_index(1))
        grads_GLE = _split(grad_ME, shapes.queries)
        # dL/dP' = dL/dO V^T for the dropped P' = P * mask; through the mask to dL/dP.
        grad_probs_Q, dropped_Q = torch.empty_like(probs_Q), probs_Q
        for g_GLE, v_GLE, out_GLL in zip(
            grads_GLE, _split(values_ME, shapes.keys), _split(grad_probs_Q, shapes.scores), strict=True
        ):
            torch.bmm(g_GLE, v_GLE.transpose(1, 2), out=out_GLL)
        if ctx.mask is not None:
            mask_Q = _gather_mask(ctx.mask, probs_Q, shapes, layout)
            grad_probs_Q, dropped_Q = grad_probs_Q.mul_(mask_Q), probs_Q * mask_Q
        grad_scores_Q = _softmax_backward(grad_probs_Q, probs_Q, shapes=shapes)
        # One row more than there are places: zeros, for the linear layers' padding.
        grads_ME = probs_Q.new_empty(num_parts * len(keys_ME) + 1, E)
        grads_ME[-1].zero_()
        *of_queries, of_keys_ME, of_values_ME = grads_ME[:-1].chunk(num_parts)
        of_queries_ME = of_queries[0] if of_queries else torch.empty_like(queries_ME)
        of_scores = (_split(x, shapes.scores) for x in (dropped_Q, grad_scores_Q))
        by_query = (_split(x, shapes.queries) for x in (queries_ME, of_queries_ME))
        by_key = (_split(x, shapes.keys) for x in (keys_ME, of_keys_ME, of_values_ME))
        for g_GLE, dropped, grad_scores, q, grad_q, k, grad_k, grad_v in zip(
            grads_GLE, *of_scores, *by_query, *by_key, strict=True
        ):
            # dL/dV = P'^T dL/dO; dL/dQ = dL/dS K / sqrt(E); dL/dK = (dL/dS)^T Q / sqrt(E).
            torch.bmm(dropped.transpose(1, 2), g_GLE, out=grad_v)
            torch.baddbmm(grad_q, grad_scores, k, beta=0, alpha=E**-0.5, out=grad_q)
            torch.baddbmm(grad_k, grad_scores.transpose(1, 2), q, beta=0, alpha=E**-0.5, out=grad_k)
        grad_projected = grads_ME.index_select(0, layout.scatter_index(num_parts))
        return (
            grad_projected.view(-1, num_parts * layout.num_heads * E),
            of_queries_ME.view_as(grad) if ctx.first_only else None,
            None,
            None,
        )


def _probabilities(
    queries_ME: Tensor, keys_ME: Tensor, bias_Q: Tensor, *, shapes: _Shapes, scale: float
) -> Tensor:
    """Return P = softmax(Q K^T * scale + bias) of all groups, flat."""
    scores_Q = queries_ME.new_empty(len(bias_Q))
    parts = (_split(x, s) for x, s in zip((queries_ME, keys_ME, scores_Q), shapes, strict=True))
    for q_GLE, k_GLE, out_GLL in zip(*parts, strict=True):
        # beta = 0 ignores the first argument; alpha scales inside the product, without a pass of its own.
        torch.baddbmm(out_GLL, q_GLE, k_GLE.transpose(1, 2), beta=0, alpha=scale, out=out_GLL)
    # In fp32: torch's softmax of bf16 is up to ten times slower where L is not a multiple of 32.
    wide_Q = scores_Q.float().add_(bias_Q)
    for wide_GLL in _split(wide_Q, shapes.scores):
        torch.softmax(wide_GLL, dim=-1, out=wide_GLL)
    return wide_Q.to(scores_Q.dtype)


def _softmax_backward(grad_Q: Tensor, probs_Q: Tensor, *, shapes: _Shapes) -> Tensor:
    """Return the gradient of the scaled scores, flat."""
    wide_Q, wide_probs_Q = grad_Q.float(), probs_Q.float()
    for g_GLL, p_GLL in zip(_split(wide_Q, shapes.scores), _split(wide_probs_Q, shapes.scores), strict=True):
        torch.ops.aten._softmax_backward_data.out(g_GLL, p_GLL, -1, torch.float32, grad_input=g_GLL)
    return wide_Q.to(probs_Q.dtype)


def _gather_mask(mask: AttentionMask, probs_Q: Tensor, shapes: _Shapes, layout: PackedLayout) -> Tensor:
    """Return the mask of all groups, flat."""
    mask_Q = torch.empty_like(probs_Q)
    for group, out_GLL in zip(layout.groups, _split(mask_Q, shapes.scores), strict=True):
        mask.fill(out_GLL, first_row=group.first_row)
    return mask_Q
