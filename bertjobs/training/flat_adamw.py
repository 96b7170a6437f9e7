"""AdamW over a handful of flat buffers; gradients are cleared, exchanged and measured in one pass each.

Every trained parameter becomes a view into one buffer, and its gradient a view at the same place of another:

    [ riders | group 0 | group 1 | ... | rows in use of the word table ]
      `---- cleared and summed over the ranks -' `- only what is touched

Riders are single numbers (the losses, a wish to stop, a clock) that cross the ranks with the gradients at no
cost.

Measured on 2 cores, 22.7 M parameters, 864 tokens, data with 5,700 of 30,522 wordpieces: the word table's
gradient takes 0.4 ms instead of 18.7, clearing 2.8 instead of 5.3, the norm 2.6 instead of 8.2, AdamW 11.9
instead of 18.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bertjobs.config.sections import OptimSection
from bertjobs.errors import ModelError
from bertjobs.training.distributed import Ranks
from bertjobs.training.param_groups import Group, freeze, parameter_groups
from bertjobs.training.sparse_rows import WordRows

_ALIGN = 16
"""Floats in 64 bytes: where allocators put tensors, and where kernels want them."""
_NUM_RIDERS = _ALIGN
STOP, CLOCK, LOSSES = 0, 1, 2
"""Places among the riders: how many ranks wish to stop, rank 0's clock, and from there the loss's parts."""
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
    """Freeze, group and flatten the parameters of a model that is where it will be trained.

    word_table, token_ids_U: a table of which training meets only these rows, by their sorted ids, special
        ones included; none where any row may get a gradient, as in pretraining.

    Raises: ConfigError: more layers to freeze than the model has.
    """
    freeze(model, num_layers=num_layers, freeze_layers=optim.freeze_layers)
    groups = parameter_groups(model, num_layers=num_layers, optim=optim)
    word_rows = None
    if word_table is not None and token_ids_U is not None and word_table.weight.requires_grad:
        word_rows = WordRows(word_table, token_ids_U=token_ids_U)
    return FlatAdamW(dict(model.named_parameters()), groups=groups, word_rows=word_rows, optim=optim)


@dataclass(frozen=True)
class _Span:
    """Where a parameter lies in the buffers."""

    name: str
    shape: torch.Size
    group: int
    start: int

    @property
    def end(self) -> int:
        return self.start + self.shape.numel()


class FlatAdamW:
    """The trained parameters of a model, their gradients and their moments; built once per run."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        groups: list[Group],
        word_rows: WordRows | None,
        optim: OptimSection,
    ) -> None:
        self._max_grad_norm = optim.max_grad_norm
        self._word_rows = word_rows
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        if word_rows:
            word_name = next(name for name, p in parameters.items() if p is word_rows.parameter)
            shapes[word_name] = word_rows.shape
            groups = _with_last(groups, word_name)
        self._spans = _lay_out(groups, shapes)
        self._allocate(device=next(iter(parameters.values())).device)
        for span in self._spans:
            self._take_over(parameters[span.name], span)
        self._adamw = self._build_adamw(groups, optim)

    def clear(self) -> None:
        """Set all gradients and riders to zero."""
        self._exchanged.zero_()
        if self._word_rows:
            self._word_rows.clear()

    def gather(self, ranks: Ranks, *, token_ids_T: Tensor | None) -> Tensor:
        """Sum gradients and riders over the ranks; return the global L2 norm, a tensor of one number.

        token_ids_T: unique ids of at least the wordpieces of the whole batch, the same on all ranks; not read
            where the word table's gradient is exchanged whole.
        """
        ranks.add_up(self._exchanged)
        square = torch.dot(self._dense_gradients, self._dense_gradients)  # half the time of vector_norm
        if self._word_rows:
            assert token_ids_T is not None
            rows_TD = self._word_rows.take_gradients(token_ids_T)
            ranks.add_up(rows_TD)
            self._word_rows.put_gradients(token_ids_T, rows_TD)
            square += torch.dot(rows_TD.view(-1), rows_TD.view(-1))
        return square.sqrt()

    def step(self, *, lr: float, grad_norm: Tensor) -> None:
        """Move the weights at a learning rate, with gradients scaled down to the norm that is allowed."""
        for group in self._adamw.param_groups:
            group["lr"] = lr * group["lr_scale"]
        if self._max_grad_norm:
            # AdamW's kernel divides by this while it reads the gradients: clipping takes no pass of its own.
            self._adamw.grad_scale = (grad_norm / self._max_grad_norm).clamp(min=1.0)
        self._adamw.step()
        if self._word_rows:
            self._word_rows.push()

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Load weights into the model whose parameters these are."""
        model.load_state_dict(weights)
        if self._word_rows:
            self._word_rows.pull()

    def copy_weights_from_first(self, model: nn.Module, ranks: Ranks) -> None:
        """Give all ranks rank 0's weights, those that are not trained included."""
        ranks.copy_from_first(*(parameter.data for parameter in model.parameters()))
        if self._word_rows:
            self._word_rows.pull()

    def state(self) -> dict[str, Tensor]:
        """Return the moments as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`; views, not copies."""
        found = {}
        for span in self._spans:
            flat = self._adamw.param_groups[span.group]["params"][0]
            first = span.start - self._bounds[span.group].start
            for moment in _MOMENTS:
                part = self._adamw.state[flat][moment][first : first + span.shape.numel()]
                found[f"{span.name}.{moment}"] = part.view(span.shape)
        if self._word_rows:
            found[_WORD_IDS] = self._word_rows.token_ids_U
        return found

    def load_state(self, state: Mapping[str, Tensor], *, num_steps_done: int) -> None:
        """Take up moments that `state` gave.

        Raises: ModelError: they belong to other parameters, or to data with other wordpieces.
        """
        own = self.state()
        fits = own.keys() == state.keys() and all(own[name].shape == state[name].shape for name in own)
        if not fits or (self._word_rows and not torch.equal(state[_WORD_IDS], own[_WORD_IDS].cpu())):
            raise ModelError(
                "The checkpoint's moments belong to another model, to other frozen layers or to other data.",
                hint="Start a new job instead of resuming this one.",
            )
        for name in own.keys() - {_WORD_IDS}:
            own[name].copy_(state[name])
        for moments in self._adamw.state.values():
            moments["step"].fill_(num_steps_done)

    def _allocate(self, *, device: torch.device) -> None:
        size = _aligned(self._spans[-1].end)
        num_dense = self._spans[-1].start if self._word_rows else size
        self._weights = torch.zeros(size, device=device)
        self._gradients = torch.zeros(size, device=device)
        self._exchanged = self._gradients[:num_dense]
        self._dense_gradients = self._gradients[_NUM_RIDERS:num_dense]
        self.riders = self._gradients[:_NUM_RIDERS]
        """Numbers that are cleared with the gradients and summed over the ranks with them."""

    def _take_over(self, parameter: nn.Parameter, span: _Span) -> None:
        weight = self._weights[span.start : span.end].view(span.shape)
        gradient = self._gradients[span.start : span.end].view(span.shape)
        if self._word_rows and parameter is self._word_rows.parameter:
            self._word_rows.place(weight, gradient)
            return
        weight.copy_(parameter.data)
        parameter.data, parameter.grad = weight, gradient

    def _build_adamw(self, groups: list[Group], optim: OptimSection) -> torch.optim.AdamW:
        """Build AdamW with one flat parameter per group, its state made now rather than at the first step."""
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
            flat.grad = self._gradients[bounds]
            adamw.state[flat] = {
                "step": torch.zeros((), device=flat.device),
                **{moment: torch.zeros_like(flat) for moment in _MOMENTS},
            }
        return adamw


def _with_last(groups: list[Group], name: str) -> list[Group]:
    """Give one parameter a group of its own at the end, treated as before."""
    own = next(group for group in groups if name in group.names)
    rest = [replace(group, names=tuple(n for n in group.names if n != name)) for group in groups]
    return [group for group in rest if group.names] + [replace(own, names=(name,))]


def _lay_out(groups: list[Group], shapes: Mapping[str, torch.Size]) -> list[_Span]:
    spans: list[_Span] = []
    start = _NUM_RIDERS
    for index, group in enumerate(groups):
        for name in group.names:
            spans.append(_Span(name, shapes[name], index, start))
            start = _aligned(spans[-1].end)
    return spans


def _bounds_of(group: int, spans: list[_Span]) -> slice:
    members = [span for span in spans if span.group == group]
    return slice(members[0].start, _aligned(members[-1].end))


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
