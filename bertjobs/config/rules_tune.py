"""Rules over the parameters of a search. What a trial may be is checked in `search_space`."""

from typing import Any

from bertjobs.config.rule import WORKERS, Contradiction, Idle
from bertjobs.config.rules_finetune import FINETUNE_IDLE

DEFAULT_PATHS = ("optim.lr", "train.batch_size", "text.truncation")
"""What is varied where the user does not say."""

_PATHS_OF_TRIALS = (
    "text.max_len",
    "text.truncation",
    "model.hidden_dropout",
    "model.attention_dropout",
    "model.classifier_dropout",
    "optim.lr",
    "optim.weight_decay",
    "optim.beta1",
    "optim.beta2",
    "optim.eps",
    "optim.schedule",
    "optim.warmup_ratio",
    "optim.decay_ratio",
    "optim.max_grad_norm",
    "optim.layer_decay",
    "optim.freeze_layers",
    "train.epochs",
    "train.max_steps",
    "train.batch_size",
    "train.seed",
    "train.precision",
    "train.patience",
)
"""What a search may vary; a test compares it with what `search_space` accepts."""


def varied_paths(c: Any) -> tuple[str, ...]:
    """Return the dotted paths that a search varies."""
    return DEFAULT_PATHS if c.search.space is None else tuple(c.search.space)


def _is_shared_unevenly(c: Any) -> bool:
    gpus, workers = c.search.gpus_per_trial, c.search.workers_per_trial or 1
    if gpus is None:
        return False
    return (gpus < 1 and workers > 1) or (gpus >= 1 and (gpus % 1 != 0 or gpus % workers != 0))


def _granted_workers(c: Any) -> int:
    return int(c.resources.workers or c.resources.gpus or 1)


TUNE_CONTRADICTIONS: tuple[Contradiction, ...] = (
    WORKERS,
    Contradiction(
        paths=("search.gpus_per_trial", "resources.gpus"),
        holds=lambda c: (c.search.gpus_per_trial or 0) > c.resources.gpus,
        says=lambda c: (
            f"a trial needs {c.search.gpus_per_trial:g} GPU(s), but the search has {c.resources.gpus} in all"
        ),
    ),
    Contradiction(
        paths=("search.gpus_per_trial", "search.workers_per_trial"),
        holds=_is_shared_unevenly,
        says=lambda c: (
            f"{c.search.gpus_per_trial:g} GPU(s) cannot be shared evenly among the "
            f"{c.search.workers_per_trial or 1} worker(s) of a trial; give a share of one GPU for one "
            "worker, or a multiple of the workers"
        ),
    ),
    Contradiction(
        paths=("search.workers_per_trial", "resources.workers"),
        holds=lambda c: (
            c.search.gpus_per_trial is None and (c.search.workers_per_trial or 1) > _granted_workers(c)
        ),
        says=lambda c: (
            f"a trial has {c.search.workers_per_trial} workers, but the search has {_granted_workers(c)} in "
            "all; raise --workers or --gpus"
        ),
    ),
)


def _varied(path: str) -> Idle:
    return Idle(
        path=path,
        holds=lambda c: path in varied_paths(c),
        because="the search varies it; say with --space what to vary instead",
    )


def _unless_schedule_varies(rule: Idle) -> Idle:
    return Idle(
        path=rule.path,
        holds=lambda c: rule.holds(c) and "optim.schedule" not in varied_paths(c),
        because=rule.because,
    )


TUNE_IDLE: tuple[Idle, ...] = (
    *(_unless_schedule_varies(rule) for rule in FINETUNE_IDLE),
    *(_varied(path) for path in _PATHS_OF_TRIALS),
    Idle(
        path="search.grace_examples",
        holds=lambda c: c.search.stopper == "none",
        because="no trial is stopped early",
    ),
    Idle(
        path="search.reduction_factor",
        holds=lambda c: c.search.stopper != "asha",
        because="only asha reads it",
    ),
    Idle(
        path="search.search_seed",
        holds=lambda c: c.search.algorithm == "grid",
        because="a grid tries every point",
    ),
)
