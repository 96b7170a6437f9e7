"""Rules over several fields, which a schema cannot express, and those that several kinds of job share.

A conflict is an error in every configuration. A value without effect is one only where the user gave it: a
preset may set what a flag then makes useless, and a stored configuration has every field."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bertjobs.config.presets import size_names


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Values that cannot be used together."""

    paths: tuple[str, ...]
    """Fields involved, the one to change first in front; those that the user gave are named in the error."""
    applies: Callable[[Any], bool]
    message: Callable[[Any], str]


@dataclass(frozen=True, kw_only=True)
class UnusedValue:
    """A field that nothing reads in some configurations."""

    path: str
    applies: Callable[[Any], bool]
    reason: str
    """Completes "PATH has no effect: ..."."""


TOO_MANY_WORKERS = Conflict(
    paths=("resources.workers", "resources.gpus"),
    applies=lambda c: c.resources.gpus > 0 and (c.resources.workers or 0) > c.resources.gpus,
    message=lambda c: f"{c.resources.workers} workers need a GPU each, but there are {c.resources.gpus}",
)

UNEVEN_GPUS = Conflict(
    paths=("resources.gpus", "resources.workers"),
    applies=lambda c: c.resources.gpus > num_workers(c) and c.resources.gpus % num_workers(c) != 0,
    message=lambda c: (
        f"{c.resources.gpus} GPUs cannot be shared evenly among {num_workers(c)} workers; leave --workers "
        "out for one worker per GPU, or give a divisor of --gpus"
    ),
)

BATCH_TOO_SMALL = Conflict(
    paths=("train.batch_size", "train.accumulation", "resources.workers", "resources.gpus"),
    applies=lambda c: c.train.accumulation * num_workers(c) > c.train.batch_size,
    message=lambda c: (
        f"a batch of {c.train.batch_size} cannot be split into {c.train.accumulation} microbatch(es) "
        f"on each of {num_workers(c)} worker(s)"
    ),
)

WSD_TOO_LONG = Conflict(
    paths=("optim.decay_ratio", "optim.warmup_ratio"),
    applies=lambda c: c.optim.schedule == "wsd" and c.optim.warmup_ratio + c.optim.decay_ratio > 1,
    message=lambda c: (
        f"warmup ({c.optim.warmup_ratio:g}) and decay ({c.optim.decay_ratio:g}) of the wsd schedule "
        "take more than all steps"
    ),
)

MICROBATCH_TOO_SMALL = Conflict(
    paths=("train.microbatch_tokens", "text.max_len"),
    applies=lambda c: c.train.microbatch_tokens < c.text.max_len,
    message=lambda c: f"{c.train.microbatch_tokens} tokens cannot hold one example of {c.text.max_len}",
)

TRAINING_CONFLICTS = (TOO_MANY_WORKERS, UNEVEN_GPUS, BATCH_TOO_SMALL, WSD_TOO_LONG, MICROBATCH_TOO_SMALL)
"""What fine-tuning and pretraining check."""

GRAD_EXCHANGE_UNUSED = UnusedValue(
    path="train.grad_exchange",
    applies=lambda c: num_workers(c) == 1,
    reason="one worker has nobody to exchange gradients with",
)

DECAY_RATIO_UNUSED = UnusedValue(
    path="optim.decay_ratio",
    applies=lambda c: c.optim.schedule != "wsd",
    reason="only the wsd schedule uses it",
)

NUM_HEADS_UNUSED = UnusedValue(
    path="model.num_heads",
    applies=lambda c: starts_from_random_weights(c),
    reason="a model size defines how many heads it has",
)


def vocabulary_unused(*paths: str) -> tuple[UnusedValue, ...]:
    """Return the rules for fields that describe a new vocabulary: pretrained weights come with theirs."""
    return tuple(
        UnusedValue(
            path=path,
            applies=lambda c: not starts_from_random_weights(c),
            reason="pretrained weights come with their own vocabulary",
        )
        for path in paths
    )


def starts_from_random_weights(config: Any) -> bool:
    """Return whether `model.source` names a size."""
    return config.model.source in size_names()


def num_workers(config: Any) -> int:
    """Return how many worker processes a config asks for."""
    return config.resources.workers or config.resources.gpus or 1


def is_plain_text(path: str) -> bool:
    """Return whether the name of a file, or the end of a pattern, is that of plain text."""
    return path.endswith((".txt", ".text", ".tokens"))
