"""What a rule over several fields is, and the rules that all kinds share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bertjobs.config.presets import size_names


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Values that no run can satisfy together."""

    paths: tuple[str, ...]
    """Named in the error, the one to change first."""
    holds: Callable[[Any], bool]
    says: Callable[[Any], str]


@dataclass(frozen=True, kw_only=True)
class Idle:
    """A value that nothing reads in this configuration."""

    path: str
    holds: Callable[[Any], bool]
    because: str


WORKERS = Contradiction(
    paths=("resources.workers", "resources.gpus"),
    holds=lambda c: c.resources.gpus > 0 and (c.resources.workers or 0) > c.resources.gpus,
    says=lambda c: f"{c.resources.workers} workers need a GPU each, but there are {c.resources.gpus}",
)

BATCH_SPLIT = Contradiction(
    paths=("train.batch_size", "train.accumulation", "resources.workers", "resources.gpus"),
    holds=lambda c: c.train.accumulation * num_workers(c) > c.train.batch_size,
    says=lambda c: (
        f"a batch of {c.train.batch_size} cannot be split into {c.train.accumulation} microbatch(es) "
        f"on each of {num_workers(c)} worker(s)"
    ),
)

WSD_TOO_LONG = Contradiction(
    paths=("optim.decay_ratio", "optim.warmup_ratio"),
    holds=lambda c: c.optim.schedule == "wsd" and c.optim.warmup_ratio + c.optim.decay_ratio > 1,
    says=lambda c: (
        f"warmup ({c.optim.warmup_ratio:g}) and decay ({c.optim.decay_ratio:g}) of the wsd schedule "
        "take more than all steps"
    ),
)

MICROBATCH_TOO_SMALL = Contradiction(
    paths=("train.microbatch_tokens", "text.max_len"),
    holds=lambda c: c.train.microbatch_tokens < c.text.max_len,
    says=lambda c: f"{c.train.microbatch_tokens} tokens cannot hold one example of {c.text.max_len}",
)

DECAY_RATIO_IDLE = Idle(
    path="optim.decay_ratio",
    holds=lambda c: c.optim.schedule != "wsd",
    because="only the wsd schedule reads it",
)

NUM_HEADS_IDLE = Idle(
    path="model.num_heads",
    holds=lambda c: c.model.source in size_names(),
    because="a model size says how many heads it has",
)


def vocabulary_idle(*paths: str) -> tuple[Idle, ...]:
    """Return the rules that what describes a vocabulary is of no use beside pretrained weights."""
    return tuple(
        Idle(
            path=path,
            holds=lambda c: c.model.source not in size_names(),
            because="pretrained weights bring their own vocabulary",
        )
        for path in paths
    )


def num_workers(config: Any) -> int:
    """Return how many training processes a config asks for."""
    return config.resources.workers or config.resources.gpus or 1
