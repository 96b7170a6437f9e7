"""Decide which parameters are trained, with which share of the learning rate, and with which decay.

By name and shape only; values are not read.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from bertjobs.config.sections import OptimSection
from bertjobs.errors import ConfigError

_LAYER = re.compile(r"\bencoder\.layer\.(\d+)\.")
_EMBEDDINGS = re.compile(r"\bembeddings\.")


@dataclass(frozen=True, kw_only=True)
class ParamGroup:
    """Parameters with the same learning rate and decay."""

    names: tuple[str, ...]
    lr_scale: float
    """Factor on the learning rate, from `layer_decay`."""
    weight_decay: float


def freeze(model: nn.Module, *, num_layers: int, freeze_layers: int) -> None:
    """Freeze the embeddings and the lowest encoder layers.

    Raises: ConfigError: the model has fewer layers than that.
    """
    if freeze_layers > num_layers:
        raise ConfigError(
            f"--freeze-layers {freeze_layers}: the model has {num_layers} encoder layers",
            hint=f"Give {num_layers} at most; that trains only the pooler and the classifier.",
        )
    for name, parameter in model.named_parameters():
        if freeze_layers and depth_of(name, num_layers=num_layers) <= freeze_layers:
            parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, *, num_layers: int, optim: OptimSection) -> list[ParamGroup]:
    """Sort the trained parameters into groups, lowest layers first.

    Weight matrices decay; biases and LayerNorm's scales do not. The learning
    rate of a layer is `layer_decay` times that of the layer above it.

    Source: Devlin et al. 2019 (BERT), appendix A.2 (decay); Howard and Ruder 2018 (ULMFiT), section 3.2, and
    Clark et al. 2020 (ELECTRA), appendix B (layer-wise rates).
    """
    members: dict[tuple[int, bool], list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = depth_of(name, num_layers=num_layers) if optim.layer_decay < 1.0 else num_layers + 1
            members.setdefault((depth, parameter.ndim >= 2), []).append(name)
    return [
        ParamGroup(
            names=tuple(names),
            lr_scale=optim.layer_decay ** (num_layers + 1 - depth),
            weight_decay=optim.weight_decay if is_matrix else 0.0,
        )
        for (depth, is_matrix), names in sorted(members.items())
    ]


def depth_of(name: str, *, num_layers: int) -> int:
    """Return 0 for embeddings, i + 1 for encoder layer i, and one more than the top layer's for the head."""
    if layer := _LAYER.search(name):
        return int(layer[1]) + 1
    return 0 if _EMBEDDINGS.search(name) else num_layers + 1


def num_trained(parameters: Iterable[nn.Parameter]) -> int:
    """Return the number of trained weights."""
    return sum(p.numel() for p in parameters if p.requires_grad)
