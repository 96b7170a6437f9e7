"""Compute linear layers in bf16, with weights that are cast once per optimizer step, not once per microbatch.

The optimizer's flat buffer is cast as a whole, so that neighbours in it (query, key and value of a layer) are
neighbours here too, and one product takes all three. `kernels.project` is the plain version.

Shape suffixes: N: tokens. I, O: inputs and outputs of a linear layer; O of several layers side by side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class LoweredWeights:
    """A copy of a flat buffer of weights in a narrower dtype, made when it is needed after an update."""

    def __init__(self, flat: Tensor, parameters: Sequence[Tensor]) -> None:
        """parameters: views of the buffer."""
        self._flat, self._parameters = flat, parameters
        self._copy: Tensor | None = None
        self._is_stale = True
        self._versions: dict[int, int] = {}

    def mark_stale(self) -> None:
        """Make the copy anew before it is used: the weights have changed."""
        self._is_stale = True

    def of(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> Tensor | None:
        """Return parameters stacked along their first dimension; None where they are not neighbours here."""
        start = self._place_of(parameters)
        if start is None:
            return None
        # Whoever changes a parameter in place, and is not the optimizer, raises its version.
        if self._is_stale or any(self._versions.get(id(p)) != p._version for p in parameters):
            self._refresh(dtype)
        assert self._copy is not None and self._copy.dtype == dtype
        shape = torch.Size((sum(len(parameter) for parameter in parameters), *parameters[0].shape[1:]))
        return self._copy[start : start + shape.numel()].view(shape)

    def _refresh(self, dtype: torch.dtype) -> None:
        if self._copy is None:
            self._copy = torch.empty_like(self._flat, dtype=dtype)
        self._copy.copy_(self._flat)
        # Of all at once: a second copy in the same pass would spoil what the backward pass keeps.
        self._versions = {id(parameter): parameter._version for parameter in self._parameters}
        self._is_stale = False

    def _place_of(self, parameters: Sequence[Tensor]) -> int | None:
        """Return where in the buffer the parameters lie, one behind the other."""
        size = self._flat.element_size()
        begin = end = parameters[0].data_ptr()
        for parameter in parameters:
            if parameter.data_ptr() != end:
                return None
            end += parameter.numel() * size
        first = self._flat.data_ptr()
        if not first <= begin < end <= first + self._flat.numel() * size:
            return None  # frozen, or kept elsewhere by the optimizer
        return (begin - first) // size


def project_jointly(
    x_NI: Tensor, *weights_and_biases: Tensor, write_gradients: bool, lowered: LoweredWeights | None
) -> Tensor:
    """Apply linear layers as `project` does, in bf16 and in one product: results side by side (N, O)."""
    return _JointLinear.apply(x_NI, write_gradients, lowered, *weights_and_biases)


def join(parameters: Sequence[Tensor], *, dtype: torch.dtype, lowered: LoweredWeights | None) -> Tensor:
    """Return parameters in this dtype, stacked along their first dimension."""
    found = lowered.of(parameters, dtype) if lowered is not None else None
    if found is not None:
        return found
    cast = [parameter.detach().to(dtype) for parameter in parameters]
    return cast[0] if len(cast) == 1 else torch.cat(cast)


class _JointLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, write_gradients: bool, lowered: LoweredWeights | None, *parameters: Tensor
    ) -> Tensor:
        weight_OI = join(parameters[::2], dtype=x_NI.dtype, lowered=lowered)
        bias_O = join(parameters[1::2], dtype=x_NI.dtype, lowered=lowered)
        # A view of the lowered weights: autograd refuses the backward pass if they changed in between.
        ctx.save_for_backward(x_NI, weight_OI)
        ctx.parameters, ctx.write_gradients = parameters, write_gradients
        return torch.addmm(bias_O, x_NI, weight_OI.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI = ctx.saved_tensors
        grad_x_NI = torch.mm(grad_NO, weight_OI) if ctx.needs_input_grad[0] else None
        if not any(parameter.requires_grad for parameter in ctx.parameters):
            return grad_x_NI, None, None, *(None for _ in ctx.parameters)
        # The sum adds up in fp32, and rounds its result as autograd does: 62 us instead of 165 for a result
        # in fp32 (896 x 1536, one thread).
        grad_OI, grad_O = torch.mm(grad_NO.t(), x_NI), grad_NO.sum(0)
        sizes = [len(weight) for weight in ctx.parameters[::2]]
        parts = zip(grad_OI.split(sizes), grad_O.split(sizes), strict=True)
        found = [part for pair in parts for part in pair]
        write = ctx.write_gradients
        return (
            grad_x_NI,
            None,
            None,
            *(
                _give(parameter, part, write=write)
                for parameter, part in zip(ctx.parameters, found, strict=True)
            ),
        )


def _give(parameter: Tensor, gradient: Tensor, *, write: bool) -> Tensor | None:
    """Return a parameter's gradient in its dtype; or add it to `.grad`, and return None to autograd."""
    if not parameter.requires_grad:
        return None
    if not write or parameter.grad is None:
        return gradient.to(parameter.dtype)
    parameter.grad.add_(gradient)
    return None
