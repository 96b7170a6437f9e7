"""AdamW as torch has it, for any device and for gradients that somebody else may sum: what CUDA runs.

One fused kernel per group updates the weights. It divides gradients by a number that stays on the device, and
leaves the weights alone where another says so: clipping and loss scaling need no pass and no wait of the
host. On CPUs `FlatAdamW` is faster, and `make_optimizer` takes that one.

Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2 (AdamW); Micikevicius
    et al. 2018, "Mixed Precision Training", section 3.2 (loss scaling); torch.amp.GradScaler for its numbers.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from bertjobs.config.sections import OptimSection
from bertjobs.errors import ModelError
from bertjobs.modeling.cpu.flat_adamw import build_optimizer
from bertjobs.modeling.param_groups import ParamGroup, freeze, parameter_groups
from bertjobs.training.distributed import Ranks

_MOMENTS = ("exp_avg", "exp_avg_sq")
_NUM_UPDATES = "loss_scale.num_updates"
_NUM_SCALARS = 16
_FUSED = ("cpu", "cuda")
"""Devices with a fused AdamW. On others (`meta`, in tests) torch's plain one takes the same steps."""


class StepOptimizer(Protocol):
    """What the loop needs of an optimizer: gradients and scalars summed over the ranks, and the update."""

    @property
    def scalars(self) -> Tensor:
        """Numbers that are cleared, and summed over the ranks, together with the gradients."""

    @property
    def loss_scale(self) -> "LossScale | None":
        """What losses are multiplied by before the backward pass, in fp16."""

    def zero_grad(self) -> None: ...
    def sum_gradients(
        self, ranks: Ranks, *, token_ids_T: Tensor | None, are_summed: bool = False
    ) -> Tensor: ...
    def step(self, *, lr: float, grad_norm: Tensor) -> None: ...
    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None: ...
    def broadcast_weights(self, model: nn.Module, ranks: Ranks) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def load_state(self, state: Mapping[str, Tensor], *, num_steps_done: int) -> None: ...


def make_optimizer(
    model: nn.Module,
    *,
    num_layers: int,
    optim: OptimSection,
    dtype: torch.dtype,
    word_table: nn.Embedding | None = None,
    token_ids_U: Tensor | None = None,
    uses_ddp: bool = False,
) -> StepOptimizer:
    """Freeze layers, and build the optimizer that is fast on the model's device.

    dtype: of the products; fp16 needs loss scaling. word_table, token_ids_U: as `build_optimizer`.
    uses_ddp: whether DDP sums the gradients, each where autograd puts it.

    Raises: ConfigError: there are more layers to freeze than the model has.
    """
    if next(model.parameters()).device.type == "cpu" and not uses_ddp:
        return build_optimizer(
            model, num_layers=num_layers, optim=optim, word_table=word_table, token_ids_U=token_ids_U
        )
    return build_adamw(model, num_layers=num_layers, optim=optim, dtype=dtype)


def build_adamw(model: nn.Module, *, num_layers: int, optim: OptimSection, dtype: torch.dtype) -> "AdamW":
    """Freeze and group the parameters of a model that is on its device already. Raises: as above."""
    freeze(model, num_layers=num_layers, freeze_layers=optim.freeze_layers)
    groups = parameter_groups(model, num_layers=num_layers, optim=optim)
    return AdamW(dict(model.named_parameters()), groups=groups, optim=optim, dtype=dtype)


class AdamW:
    """`torch.optim.AdamW`, fused, with the clipping, scalars and checkpoints that the loop expects."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        groups: list[ParamGroup],
        optim: OptimSection,
        dtype: torch.dtype,
    ) -> None:
        self._max_grad_norm = optim.max_grad_norm
        self._trained = {name: parameters[name] for group in groups for name in group.names}
        device = next(iter(parameters.values())).device
        self.scalars = torch.zeros(_NUM_SCALARS, device=device)
        self.loss_scale = LossScale(device) if dtype == torch.float16 else None
        self._adamw = torch.optim.AdamW(
            [
                {
                    "params": [parameters[name] for name in group.names],
                    "weight_decay": group.weight_decay,
                    "lr_scale": group.lr_scale,  # a key of ours, which AdamW does not read
                }
                for group in groups
            ],
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            fused=device.type in _FUSED,
        )
        for parameter in self._trained.values():
            # Now, not in the first step, so that `state` and `load_state` work from the start.
            self._adamw.state[parameter] = {
                # The fused kernel reads it where the parameter is; the plain one on the host.
                "step": torch.zeros((), device=device if device.type in _FUSED else "cpu"),
                **{moment: torch.zeros_like(parameter) for moment in _MOMENTS},
            }

    def zero_grad(self) -> None:
        """Set all gradients and scalars to zero."""
        self._adamw.zero_grad()
        self.scalars.zero_()

    def sum_gradients(self, ranks: Ranks, *, token_ids_T: Tensor | None, are_summed: bool = False) -> Tensor:
        """Sum gradients and scalars over the ranks; return the global L2 norm, a tensor of one number.

        token_ids_T: ignored; the whole gradient of the word table is summed. are_summed: gradients are sums
            over the ranks already, only the scalars are not.
        """
        for parameter in self._trained.values():
            # A rank without rows has none; it takes part in the sum all the same.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._trained.values() if parameter.grad is not None]
        ranks.all_reduce(self.scalars, *([] if are_summed else gradients))
        norm = nn.utils.get_total_norm(gradients)  # by foreach where the device has it
        return norm if self.loss_scale is None else norm / self.loss_scale.scale

    def step(self, *, lr: float, grad_norm: Tensor) -> None:
        """Update the weights, with gradients scaled down to `max_grad_norm` at most.

        In fp16, a step whose gradients overflowed changes nothing but the loss scale.
        """
        for group in self._adamw.param_groups:
            group["lr"] = lr * group["lr_scale"]
        # The fused kernel divides gradients by `grad_scale` as it reads them.
        divisor = torch.ones_like(grad_norm)
        if self._max_grad_norm:
            divisor = (grad_norm / self._max_grad_norm).clamp(min=1.0)
        if self.loss_scale is not None:
            divisor = divisor * self.loss_scale.scale
            self._adamw.found_inf = self.loss_scale.overflow_of(grad_norm)  # type: ignore[attr-defined]
        self._adamw.grad_scale = divisor  # type: ignore[attr-defined]
        self._adamw.step()
        if self.loss_scale is not None:
            self.loss_scale.update(self._adamw.found_inf)  # type: ignore[attr-defined]

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Load weights into the model whose parameters these are."""
        model.load_state_dict(weights)

    def broadcast_weights(self, model: nn.Module, ranks: Ranks) -> None:
        """Copy rank 0's weights to all ranks, frozen ones included."""
        ranks.broadcast(*(parameter.data for parameter in model.parameters()))

    def state(self) -> dict[str, Tensor]:
        """Return the moments as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`; not copies."""
        moments = {
            f"{name}.{moment}": self._adamw.state[parameter][moment]
            for name, parameter in self._trained.items()
            for moment in _MOMENTS
        }
        if self.loss_scale is None:
            return moments
        # Skipped steps do not count for the bias correction, so the number of updates is not that of steps.
        num_updates = next(iter(self._adamw.state.values()))["step"]
        return moments | self.loss_scale.state() | {_NUM_UPDATES: num_updates}

    def load_state(self, state: Mapping[str, Tensor], *, num_steps_done: int) -> None:
        """Load moments that `state` returned.

        Raises: ModelError: they belong to other parameters, or to another precision.
        """
        own = self.state()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise ModelError(
                "The checkpoint's moments belong to another model, to other frozen layers, to another "
                "precision or to another kind of device",
                hint="Start a new job instead of resuming this one.",
            )
        for name in own:
            own[name].copy_(state[name])
        for moments in self._adamw.state.values():  # for the bias correction
            moments["step"].fill_(float(state.get(_NUM_UPDATES, num_steps_done)))


class LossScale:
    """Multiply losses so that small gradients do not vanish in fp16, and adapt the factor; on the device."""

    _FIRST, _GROWTH, _BACKOFF, _GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000
    """As in torch.amp.GradScaler: halve after an overflow, double after 2,000 steps without one."""

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), self._FIRST, device=device)
        self._num_good = torch.zeros((), device=device)

    def overflow_of(self, grad_norm: Tensor) -> Tensor:
        """Return 1 where the gradients are not finite, else 0; their norm is not finite where one is not."""
        return (~torch.isfinite(grad_norm)).float()

    def update(self, overflow: Tensor) -> None:
        """Adapt the scale after a step."""
        num_good = (self._num_good + 1) * (1 - overflow)
        grows = (num_good >= self._GROWTH_STEPS).float()
        factor = overflow * self._BACKOFF + grows * self._GROWTH + (1 - overflow) * (1 - grows)
        self.scale.mul_(factor)
        self._num_good.copy_(num_good * (1 - grows))

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs; not copies."""
        return {"loss_scale.scale": self.scale, "loss_scale.num_good": self._num_good}
