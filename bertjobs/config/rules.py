"""What single fields cannot say: which values contradict each other, and which have no effect beside others.

Contradictions are errors in every configuration. A value without effect is one only where the user gave it:
a preset may set what a flag then makes idle, and a stored configuration has every field.
"""

from collections.abc import Callable, Collection
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


def find_contradictions(kind: str, config: Any) -> list[tuple[tuple[str, ...], str]]:
    """Return the paths involved and a sentence for every contradiction in a validated config."""
    return [(rule.paths, rule.says(config)) for rule in _CONTRADICTIONS[kind] if rule.holds(config)]


def find_idle(kind: str, config: Any, *, given: Collection[str]) -> list[tuple[str, str]]:
    """Return the path and the reason for every given value that has no effect."""
    return [(rule.path, rule.because) for rule in _IDLE[kind] if rule.path in given and rule.holds(config)]


_WORKERS = Contradiction(
    paths=("resources.workers", "resources.gpus"),
    holds=lambda c: c.resources.gpus > 0 and (c.resources.workers or 0) > c.resources.gpus,
    says=lambda c: f"{c.resources.workers} workers need a GPU each, but there are {c.resources.gpus}",
)

_CONTRADICTIONS: dict[str, tuple[Contradiction, ...]] = {
    "finetune": (
        _WORKERS,
        Contradiction(
            paths=("train.batch_size", "train.accumulation", "resources.workers", "resources.gpus"),
            holds=lambda c: c.train.accumulation * _num_workers(c) > c.train.batch_size,
            says=lambda c: (
                f"a batch of {c.train.batch_size} cannot be split into {c.train.accumulation} microbatch(es) "
                f"on each of {_num_workers(c)} worker(s)"
            ),
        ),
        Contradiction(
            paths=("optim.decay_ratio", "optim.warmup_ratio"),
            holds=lambda c: c.optim.schedule == "wsd" and c.optim.warmup_ratio + c.optim.decay_ratio > 1,
            says=lambda c: (
                f"warmup ({c.optim.warmup_ratio:g}) and decay ({c.optim.decay_ratio:g}) of the wsd schedule "
                "take more than all steps"
            ),
        ),
        Contradiction(
            paths=("train.microbatch_tokens", "text.max_len"),
            holds=lambda c: c.train.microbatch_tokens < c.text.max_len,
            says=lambda c: f"{c.train.microbatch_tokens} tokens cannot hold one example of {c.text.max_len}",
        ),
    ),
    "evaluate": (
        _WORKERS,
        Contradiction(
            paths=("resources.workers", "train.batch_size"),
            holds=lambda c: _num_workers(c) > c.train.batch_size,
            says=lambda c: f"{_num_workers(c)} workers cannot share batches of {c.train.batch_size}",
        ),
    ),
}

_IDLE: dict[str, tuple[Idle, ...]] = {
    "finetune": (
        Idle(
            path="optim.decay_ratio",
            holds=lambda c: c.optim.schedule != "wsd",
            because="only the wsd schedule reads it",
        ),
        Idle(
            path="train.epochs",
            holds=lambda c: c.train.max_steps is not None,
            because="--max-steps says how long it takes",
        ),
        Idle(
            path="model.vocab",
            holds=lambda c: c.model.source not in size_names(),
            because="pretrained weights bring their own vocabulary",
        ),
        Idle(
            path="model.vocab_size",
            holds=lambda c: c.model.source not in size_names(),
            because="pretrained weights bring their own vocabulary",
        ),
        Idle(
            path="model.vocab_size",
            holds=lambda c: c.model.source in size_names() and c.model.vocab is not None,
            because="the given vocabulary has its own size",
        ),
        Idle(
            path="model.num_heads",
            holds=lambda c: c.model.source in size_names(),
            because="a model size says how many heads it has",
        ),
        Idle(
            path="data.valid_ratio",
            holds=lambda c: c.data.valid_split is not None,
            because="a named split is validated on, so nothing is held out",
        ),
        Idle(
            path="data.split_seed",
            holds=lambda c: c.data.valid_split is not None,
            because="a named split is validated on, so nothing is held out",
        ),
    ),
    "evaluate": (),
}


def _num_workers(config: Any) -> int:
    return config.resources.workers or config.resources.gpus or 1
