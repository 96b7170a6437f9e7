"""Build models from loaded weights, or from a configuration and a seed."""

import logging
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bertjobs.errors import ModelError
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.heads import BertForPreTraining, BertForSequenceClassification

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)

_TASK_MODELS = ("BertForSequenceClassification", "BertForMultipleChoice", "BertForQuestionAnswering")

_MAY_BE_NEW = ("bert.pooler.", "classifier.", "qa_outputs.", "cls.")
"""What a checkpoint may lack: it was trained for something else. The embeddings and layers it must have."""


def build_classifier(
    source: LoadedModel | BertConfig,
    *,
    num_labels: int,
    seed: int,
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
    classifier_dropout: float | None = None,
    keep_head: bool = False,
) -> BertForSequenceClassification:
    """Build a classifier of rows, or a regression model (`num_labels` 1), as `build_with_head` does."""
    return build_with_head(
        source,
        lambda config: BertForSequenceClassification(config, num_labels),
        head="classifier",
        seed=seed,
        hidden_dropout=hidden_dropout,
        attention_dropout=attention_dropout,
        classifier_dropout=classifier_dropout,
        keep_head=keep_head,
    )


def build_with_head(
    source: LoadedModel | BertConfig,
    make: Callable[[BertConfig], M],
    *,
    head: str,
    seed: int,
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
    classifier_dropout: float | None = None,
    keep_head: bool = False,
) -> M:
    """Build a model of a task; what the source does not bring is drawn from `seed`.

    head: the name of the head's layer, which is new, unless `keep_head` asks for the one that the source was
        trained with.

    Raises: ModelError: the source lacks weights or has others in their place, or has no such head to keep.
    """
    given = source if isinstance(source, BertConfig) else source.config
    config = given.with_dropout(
        hidden=hidden_dropout, attention=attention_dropout, classifier=classifier_dropout
    )
    tensors = {} if isinstance(source, BertConfig) else source.state_dict
    if not keep_head:
        tensors = {name: t for name, t in tensors.items() if not name.startswith(f"{head}.")}
    model = _new(lambda: make(config), config=config, seed=seed, known=tensors)
    if isinstance(source, LoadedModel):
        if keep_head:
            _check_head(source, model, head=head)
        _copy_weights(model, tensors, source=source, shares=keep_head)
    return model


def build_pretraining(
    source: LoadedModel | BertConfig,
    *,
    seed: int,
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
) -> BertForPreTraining:
    """Build an encoder with BERT's two pretraining heads. Raises: ModelError: as `build_classifier`."""
    given = source if isinstance(source, BertConfig) else source.config
    config = given.with_dropout(hidden=hidden_dropout, attention=attention_dropout, classifier=None)
    model = _new(lambda: BertForPreTraining(config), config=config, seed=seed)
    if isinstance(source, LoadedModel):
        _copy_weights(model, source.state_dict, source=source)
    return model


def _new(make: Callable[[], M], *, config: BertConfig, seed: int, known: Collection[str] = frozenset()) -> M:
    """Make a model without torch's own initialisation, and draw its weights from a seed of its own.

    known: names of the weights that the caller copies. Where these are all, none is drawn; else all are, so
    that the new ones depend on the seed alone.
    """
    with _WithoutInitialisation():
        model = make()
    if all(name in known for name, _ in model.named_parameters()):
        return model
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        _initialize(module, config=config, generator=generator)
    return model


class _WithoutInitialisation(TorchFunctionMode):
    """Skip what torch's modules do to new weights.

    The device `meta` would spare it too, but imports sympy and torch._dynamo, which takes a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@torch.no_grad()
def _initialize(module: nn.Module, *, config: BertConfig, generator: torch.Generator) -> None:
    """Draw from N(0, initializer_range); biases 0, LayerNorm the identity. Source: BERT's released code."""
    for name, parameter in module.named_parameters(recurse=False):
        if isinstance(module, nn.LayerNorm) and name == "weight":
            parameter.fill_(1.0)
        elif name == "bias":
            parameter.zero_()
        else:
            parameter.normal_(0.0, config.initializer_range, generator=generator)


@torch.no_grad()
def _copy_weights(
    model: nn.Module, tensors: dict[str, Tensor], *, source: LoadedModel, shares: bool = False
) -> None:
    """Give a model its weights. shares: the model is not trained, so they need not be copied.

    Raises: ModelError: as `build_with_head`.
    """
    own = dict(model.named_parameters())
    missing = sorted(set(own) - set(tensors))
    lacking = [name for name in missing if not name.startswith(_MAY_BE_NEW)]
    if lacking:
        raise ModelError(
            f"{source.source} lacks {lacking[0]}" + (f" and {len(lacking) - 1} more" if lacking[1:] else ""),
            hint="Its config.json describes another model: give --model the folder as it was published.",
        )
    for name, parameter in own.items():
        if name in tensors:
            _check_shape(name, tensors[name], parameter, source=source)
            if shares:
                parameter.data = tensors[name]
            else:
                parameter.copy_(tensors[name])
    unused = sorted(set(tensors) - set(own))
    log.info("%s: %d tensors read, new: %s, unused: %s", source.source, len(tensors), missing, unused)


def _check_shape(name: str, given: Tensor, parameter: Tensor, *, source: LoadedModel) -> None:
    if given.shape == parameter.shape:
        return
    hint = "Its config.json describes another model: give --model the folder as it was published."
    if name.endswith("word_embeddings.weight"):
        hint = "The vocabulary and the weights do not belong together: give both as they were published."
    raise ModelError(
        f"{source.source}: {name} has shape {tuple(given.shape)}, "
        f"but the configuration asks for {tuple(parameter.shape)}",
        hint=hint,
    )


def _check_head(source: LoadedModel, model: nn.Module, *, head: str) -> None:
    """Raises: ModelError: the source has no head, that of another type of task, or one for other labels."""
    weight = f"{head}.weight"
    given, asked = source.architecture, type(model).__name__
    if given in _TASK_MODELS and given != asked:
        raise ModelError(
            f"{source.source} has the head of another type of task: it is a {given}, not a {asked}",
            hint="Give the --task that the model was fine-tuned for.",
        )
    if weight not in source.state_dict:
        raise ModelError(
            f"{source.source} has no {head}: it is an encoder that was not fine-tuned",
            hint="Fine-tune it first: bertjobs submit finetune --model ...",
        )
    num_classes = source.state_dict[weight].shape[0]
    num_labels = dict(model.named_parameters())[weight].shape[0]
    if num_classes != num_labels:
        raise ModelError(
            f"{source.source} has {num_classes} classes, but the task has {num_labels}",
            hint="Give the --task that the model was fine-tuned for.",
        )
