"""AdamW over a few flat buffers: gradients are cleared, summed over ranks and measured in one pass each.

Every trained parameter becomes a view into one buffer, and its gradient a view at the same place of another:

    [ scalars | group 0 | group 1 | ... | rows in use of the word table ]
      `---- cleared and summed over the ranks -' `- touched rows only

The scalars are single numbers (the parts of the loss, stop requests, a clock) that all ranks must know: they
are summed in the same all-reduce as the gradients, which saves a collective operation per step.

Measured on 2 cores, 22.7 M parameters, 864 tokens, data with 5,700 of 30,522 wordpieces: the word table's
gradient takes 0.4 ms instead of 18.7, clearing 2.8 instead of 5.3, the norm 2.6 instead of 8.2, AdamW 11.9
instead of 18.

Shape suffixes: U: rows of the word table in use. T: rows touched by one batch. D: hidden size.
Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2 (AdamW);
    torch.optim.AdamW computes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from bertjobs.config.sections import OptimSection
from bertjobs.errors import ModelError
from bertjobs.modeling.cpu.accelerate import state_of
from bertjobs.modeling.cpu.lowered import LoweredWeights
from bertjobs.modeling.cpu.sparse_rows import SparseRows
from bertjobs.modeling.param_groups import ParamGroup, freeze, parameter_groups

_ALIGN = 16
"""Floats in 64 bytes: where allocators put tensors, and where kernels want them."""
_NUM_SCALARS = _ALIGN
STOP, CLOCK, LOSSES = 0, 1, 2
"""Indices among the scalars: the number of ranks that request a stop, rank 0's clock in seconds, and from
there on the parts of the loss."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_WORD_IDS = "word_rows.token_ids"


def build_optimizer(
    model: nn.Module,
    *,
    num_layers: int,
    optim: OptimSection,
    word_table: nn.Embedding | None = None,
    token_ids_U: Tensor | None = None,
) -> "FlatAdamW":
    """Freeze, group and flatten the parameters of a model that is on its device already.

    word_table, token_ids_U: the word embedding, and the sorted ids of all wordpieces of the training data,
        special ones included; None where any row may get a gradient, as in pretraining.

    Raises: ConfigError: there are more layers to freeze than the model has.
    """
    freeze(model, num_layers=num_layers, freeze_layers=optim.freeze_layers)
    groups = parameter_groups(model, num_layers=num_layers, optim=optim)
    sparse_rows = None
    if word_table is not None and token_ids_U is not None and word_table.weight.requires_grad:
        sparse_rows = SparseRows(word_table, token_ids_U=token_ids_U)
    optimizer = FlatAdamW(dict(model.named_parameters()), groups=groups, sparse_rows=sparse_rows, optim=optim)
    if (state := state_of(model)) is not None:
        state.lowered = optimizer.lowered
    return optimizer


class Communicator(Protocol):
    """The processes that train the same model; `training.distributed.Ranks` is one."""

    def all_reduce(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the ranks, in place."""

    def broadcast(self, *tensors: Tensor) -> None:
        """Overwrite each tensor by rank 0's."""


@dataclass(frozen=True)
class _Span:
    """The place of a parameter in the buffers."""

    name: str
    shape: torch.Size
    group: int
    start: int

    @property
    def end(self) -> int:
        return self.start + self.shape.numel()


class FlatAdamW:
    """Hold the trained parameters of a model, their gradients and their moments; built once per run."""

    loss_scale: None = None
    """Of fp16, which CPUs do not train in."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        groups: list[ParamGroup],
        sparse_rows: SparseRows | None,
        optim: OptimSection,
    ) -> None:
        self._max_grad_norm = optim.max_grad_norm
        self._sparse_rows = sparse_rows
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        if sparse_rows:
            # Last in the buffer: what precedes it is then one contiguous part, summed in one call.
            word_name = next(name for name, p in parameters.items() if p is sparse_rows.parameter)
            shapes[word_name] = sparse_rows.shape
            groups = _with_last(groups, word_name)
        self._spans = _lay_out(groups, shapes)
        self._allocate(device=next(iter(parameters.values())).device)
        for span in self._spans:
            self._move_into_buffers(parameters[span.name], span)
        self._adamw = self._build_adamw(groups, optim)
        self.lowered = LoweredWeights(self._weights, [parameters[span.name] for span in self._spans])
        """What bf16 computes with; marked stale wherever this class changes weights."""

    def zero_grad(self) -> None:
        """Set all gradients and scalars to zero."""
        self._exchanged.zero_()
        if self._sparse_rows:
            self._sparse_rows.zero_grad()

    def sum_gradients(
        self, ranks: Communicator, *, token_ids_T: Tensor | None, are_summed: bool = False
    ) -> Tensor:
        """Sum gradients and scalars over the ranks; return the global L2 norm, a tensor of one number.

        token_ids_T: unique ids of at least all wordpieces of the global batch, the same on all ranks; ignored
            where the whole gradient of the word table is summed. are_summed: always false; DDP does not see
            gradients that are written in place.
        """
        assert not are_summed
        ranks.all_reduce(self._exchanged)
        square = torch.dot(self._dense_gradients, self._dense_gradients)  # half the time of vector_norm
        if self._sparse_rows:
            assert token_ids_T is not None
            # All ranks must sum the same rows: those of the global batch, not of this rank's share.
            rows_TD = self._sparse_rows.take_gradients(token_ids_T)
            ranks.all_reduce(rows_TD)
            self._sparse_rows.put_gradients(token_ids_T, rows_TD)
            square += torch.dot(rows_TD.view(-1), rows_TD.view(-1))
        return square.sqrt()

    def step(self, *, lr: float, grad_norm: Tensor) -> None:
        """Update the weights, with gradients scaled down to `max_grad_norm` at most."""
        # `lr_scale` is a key of ours; AdamW keeps it in the group and does not read it.
        for group in self._adamw.param_groups:
            group["lr"] = lr * group["lr_scale"]
        if self._max_grad_norm:
            # AdamW's fused kernel divides gradients by this as it reads them: clipping needs no own pass.
            self._adamw.grad_scale = (grad_norm / self._max_grad_norm).clamp(min=1.0)  # type: ignore[attr-defined]
        self._adamw.step()
        self.lowered.mark_stale()
        if self._sparse_rows:
            self._sparse_rows.copy_to_table()

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Load weights into the model whose parameters these are."""
        model.load_state_dict(weights)
        self.lowered.mark_stale()
        if self._sparse_rows:
            self._sparse_rows.copy_from_table()

    def broadcast_weights(self, model: nn.Module, ranks: Communicator) -> None:
        """Copy rank 0's weights to all ranks, frozen ones included."""
        ranks.broadcast(*(parameter.data for parameter in model.parameters()))
        self.lowered.mark_stale()
        if self._sparse_rows:
            self._sparse_rows.copy_from_table()

    def state(self) -> dict[str, Tensor]:
        """Return the moments as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`; views, not copies."""
        found = {}
        for span in self._spans:
            flat = self._adamw.param_groups[span.group]["params"][0]
            # Moments are one flat tensor per group, so places in them count from the group's begin.
            first = span.start - self._bounds[span.group].start
            for moment in _MOMENTS:
                part = self._adamw.state[flat][moment][first : first + span.shape.numel()]
                found[f"{span.name}.{moment}"] = part.view(span.shape)
        if self._sparse_rows:
            found[_WORD_IDS] = self._sparse_rows.token_ids_U
        return found

    def load_state(self, state: Mapping[str, Tensor], *, num_steps_done: int) -> None:
        """Load moments that `state` returned.

        Raises: ModelError: they belong to other parameters, or to data with other wordpieces.
        """
        own = self.state()
        fits = own.keys() == state.keys() and all(own[name].shape == state[name].shape for name in own)
        if not fits or (self._sparse_rows and not torch.equal(state[_WORD_IDS], own[_WORD_IDS].cpu())):
            raise ModelError(
                "The checkpoint's moments belong to another model, to other frozen layers or to other data",
                hint="Start a new job instead of resuming this one.",
            )
        # `own` holds views of AdamW's moments: copying into them loads the state.
        for name in own.keys() - {_WORD_IDS}:
            own[name].copy_(state[name])
        for moments in self._adamw.state.values():
            moments["step"].fill_(num_steps_done)  # for the bias correction

    def _allocate(self, *, device: torch.device) -> None:
        size = _aligned(self._spans[-1].end)
        # The word table's span is the last one: all before it is summed in one call.
        num_dense = self._spans[-1].start if self._sparse_rows else size
        self._weights = torch.zeros(size, device=device)
        self._gradients = torch.zeros(size, device=device)
        self._exchanged = self._gradients[:num_dense]
        # The scalars must not count in the gradient norm.
        self._dense_gradients = self._gradients[_NUM_SCALARS:num_dense]
        self.scalars = self._gradients[:_NUM_SCALARS]
        """Numbers that are cleared, and summed over the ranks, together with the gradients."""

    def _move_into_buffers(self, parameter: nn.Parameter, span: _Span) -> None:
        """Copy a parameter into the buffer; from then on it and its gradient are views of the buffers."""
        weight = self._weights[span.start : span.end].view(span.shape)
        gradient = self._gradients[span.start : span.end].view(span.shape)
        if self._sparse_rows and parameter is self._sparse_rows.parameter:
            # The model keeps reading the whole table; the buffer has a copy (U, D) of the rows in use.
            self._sparse_rows.attach(weight, gradient)
            return
        weight.copy_(parameter.data)
        # From here on the model computes with the buffer's memory, and autograd adds into it.
        parameter.data, parameter.grad = weight, gradient

    def _build_adamw(self, groups: list[ParamGroup], optim: OptimSection) -> torch.optim.AdamW:
        """Build AdamW with one flat parameter per group.

        Its state is created now, not in the first step, so that `state` and `load_state` work from the start.
        """
        self._bounds = [_bounds_of(i, self._spans) for i in range(len(groups))]
        flats = [nn.Parameter(self._weights[bounds]) for bounds in self._bounds]
        adamw = torch.optim.AdamW(
            [
                {"params": [flat], "weight_decay": group.weight_decay, "lr_scale": group.lr_scale}
                for flat, group in zip(flats, groups, strict=True)
            ],
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            fused=True,
        )
        for flat, bounds in zip(flats, self._bounds, strict=True):
            # The same memory that autograd adds into through the parameters' `.grad`.
            flat.grad = self._gradients[bounds]
            adamw.state[flat] = {
                # A tensor on the parameter's device: the fused kernel reads it there.
                "step": torch.zeros((), device=flat.device),
                **{moment: torch.zeros_like(flat) for moment in _MOMENTS},
            }
        return adamw


def _with_last(groups: list[ParamGroup], name: str) -> list[ParamGroup]:
    """Move one parameter into a group of its own at the end, with its rate and decay."""
    own = next(group for group in groups if name in group.names)
    rest = [replace(group, names=tuple(n for n in group.names if n != name)) for group in groups]
    # A group that held only this parameter goes: it would have no bounds in the buffer.
    return [group for group in rest if group.names] + [replace(own, names=(name,))]


def _lay_out(groups: list[ParamGroup], shapes: Mapping[str, torch.Size]) -> list[_Span]:
    """Place the parameters one after another, each at a multiple of 64 bytes."""
    spans: list[_Span] = []
    start = _NUM_SCALARS
    for index, group in enumerate(groups):
        for name in group.names:
            spans.append(_Span(name, shapes[name], index, start))
            start = _aligned(spans[-1].end)
    return spans


def _bounds_of(group: int, spans: list[_Span]) -> slice:
    """Return the part of the buffers that a group covers; its padding has no gradient and stays zero."""
    members = [span for span in spans if span.group == group]
    return slice(members[0].start, _aligned(members[-1].end))


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
