"""Switch a model to the implementations of this package, and set what they need while training.

    model = build_classifier(...)      the plain model
    accelerate(model)                  the same parameters, under the same names, computed faster on a CPU

The swapped modules share one `CpuState`. Heads stay as they are, whatever they are: only the encoder, the
head over the vocabulary and the dropout before a head have another implementation.

Shape suffixes: P: masked positions. V: vocabulary. B: rows. D: hidden size.
"""

from typing import TypeVar

from torch import Tensor, nn

from bertjobs.modeling import bert, heads
from bertjobs.modeling.cpu.bert import (
    CpuBertModel,
    CpuEmbeddings,
    CpuEncoder,
    CpuLayer,
    CpuState,
    in_autocast_dtype,
    project_one,
)
from bertjobs.modeling.cpu.dropout import DropoutPool
from bertjobs.modeling.cpu.masked_loss import masked_cross_entropy, masked_scores

M = TypeVar("M", bound=nn.Module)


def accelerate(model: M) -> M:
    """Swap the plain modules of a model for those of this package, in place; return the model.

    On any device but a CPU the model stays as it is. Calling it again changes nothing.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if not on_cpu or state_of(model) is not None:
        return model
    state = CpuState()
    for name, module in model.named_modules():
        # The encoder's own layers drop by masks of their own; a dropout outside of it belongs to a head.
        is_head = not {"embeddings", "encoder"} & set(name.split("."))
        if type(module) is nn.Dropout and is_head:
            swapped: type[nn.Module] | None = HeadDropout
        else:
            swapped = _SWAPS.get(type(module))
        if swapped is not None:
            # The parameters, their names and what the constructor set stay; only the methods change.
            module.__class__ = swapped
            module.state = state
    return model


def state_of(model: nn.Module) -> CpuState | None:
    """Return what the swapped modules of a model share, or None where it is the plain model."""
    encoder = next((module for module in model.modules() if isinstance(module, CpuBertModel)), None)
    return encoder.state if encoder is not None else None


def set_dropout(model: nn.Module, pool: DropoutPool | None) -> None:
    """Use this pool's masks while in training mode. Evaluation mode drops nothing."""
    state = _known_state(model)
    state.pool, state.masks = pool, None


def write_gradients(model: nn.Module, *, tables: bool = False) -> None:
    """Add gradients of weights directly to `.grad` where it is set, which saves a pass over each.

    For an optimizer that keeps `.grad` allocated and sums over ranks itself. Autograd hooks on these
    parameters, and so DDP's reducer, no longer see their gradients.
    tables: those of the embeddings too; not where the word table has a sparse gradient of its own.
    """
    state = _known_state(model)
    state.writes_gradients, state.writes_table = True, tables


def _known_state(model: nn.Module) -> CpuState:
    state = state_of(model)
    assert state is not None, "the plain model has no such thing; call `accelerate` first"
    return state


class HeadDropout(nn.Dropout):
    """Dropout before a head, by the same keyed masks as in the encoder where it is given one vector a row."""

    state: CpuState

    def forward(self, x: Tensor) -> Tensor:
        masks = self.state.masks
        if not self.training or self.state.pool is None or masks is None:
            return x
        if x.shape[:-1] != (masks.num_rows,):
            return super().forward(x)  # other heads, say over tokens: torch's random state
        mask = masks.classifier()
        return x if mask is None else x * mask.of(x)


class CpuMaskedLanguageHead(heads.MaskedLanguageHead):
    """`MaskedLanguageHead`, with logits that are never all in memory: see `masked_loss.py`."""

    state: CpuState

    def loss(self, masked_PD: Tensor, words_VD: Tensor, *, targets_P: Tensor, scale: Tensor) -> Tensor:
        weight_VD, bias_V = self.decoder_over(words_VD)
        return masked_cross_entropy(
            in_autocast_dtype(self.transform(masked_PD)),
            weight_VD=weight_VD,
            bias_V=bias_V,
            targets_P=targets_P,
            scale=scale,
            write_gradients=self.state.writes_gradients,
        )

    def scores(self, masked_PD: Tensor, words_VD: Tensor, *, targets_P: Tensor) -> tuple[Tensor, Tensor]:
        weight_VD, bias_V = self.decoder_over(words_VD)
        hidden_PD = in_autocast_dtype(self.transform(masked_PD))
        return masked_scores(hidden_PD, weight_VD=weight_VD, bias_V=bias_V, targets_P=targets_P)


class CpuTransform(heads.Transform):
    """`Transform`, with its weight's gradient written in place."""

    state: CpuState

    def forward(self, masked_PD: Tensor) -> Tensor:
        inner_PD = project_one(masked_PD, self.dense, state=self.state)
        return self.LayerNorm(self.activation(inner_PD))


_SWAPS: dict[type[nn.Module], type[nn.Module]] = {
    bert.BertModel: CpuBertModel,
    bert.Embeddings: CpuEmbeddings,
    bert.Encoder: CpuEncoder,
    bert.Layer: CpuLayer,
    heads.MaskedLanguageHead: CpuMaskedLanguageHead,
    heads.Transform: CpuTransform,
}
