"""Every parameter of a search once, as in `schema`: what fine-tuning has, and how its trials are chosen.

Rules over the parameters of a search. What a trial may be is checked in `search_space`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bertjobs.config.finetune import Count, FinetuneConfig, Section, Text
from bertjobs.config.rule import WORKERS, Contradiction, Idle
from bertjobs.config.rules_finetune import FINETUNE_IDLE

Algorithm = Literal["random", "grid", "bayesian"]
Stopper = Literal["asha", "median", "none"]
SearchMetric = Literal["accuracy", "mcc", "f1", "loss"]


def _lists_as_choices(given: Any) -> Any:
    """Let YAML say a choice as a list."""
    if not isinstance(given, Mapping):
        return given
    return {
        path: f"choice:{','.join(map(str, spec))}" if isinstance(spec, list) else spec
        for path, spec in given.items()
    }


Space = Annotated[dict[str, Text], BeforeValidator(_lists_as_choices)]


class SearchSection(Section):
    trials: Count = 32
    """Configurations to try; of a grid, the most it may have."""
    space: Space | None = None
    """What to vary, as `optim.lr=loguniform:1e-5,1e-4`, `text.truncation=choice:ratio,longest_first`,
    `uniform:LOW,HIGH` or `randint:LOW,HIGH` (both ends included), or a YAML file of such lines; may be given
    again; default: learning rate, batch size and truncation."""
    algorithm: Algorithm = "random"
    """How configurations are chosen: at `random`, every point of a `grid` (a range then takes a third number,
    how many points), or `bayesian`, by what the trials before have shown (needs Optuna)."""
    stopper: Stopper = "asha"
    """What ends trials early: `asha` (asynchronous successive halving), being worse than the `median`, or
    `none`."""
    metric: SearchMetric | None = None
    """What is searched for on the development split; default: the task's metric."""
    grace_examples: Count | None = None
    """Examples a trial sees before it may be stopped; default: so many that two cuts by the reduction factor
    lie between them and a whole trial."""
    reduction_factor: Annotated[float, Field(gt=1.0, le=10.0)] = 3.0
    """One of so many trials survives each rung of asha, and the next rung is so many times as far."""
    search_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the configurations; the same seed tries the same ones."""
    gpus_per_trial: Annotated[float, Field(gt=0.0)] | None = None
    """GPUs of one trial, a whole number or a share such as 0.5; default: 1 where the search has GPUs."""
    cpus_per_trial: Annotated[float, Field(gt=0.0)] | None = None
    """CPU cores of one trial; default: all that a granted worker has, or its GPUs' share of them."""
    workers_per_trial: Count | None = None
    """Training processes of one trial; default: one per GPU, or one on a CPU."""
    max_concurrent: Count | None = None
    """Most trials at a time; default: as many as the grant holds."""


class TuneConfig(FinetuneConfig):
    search: SearchSection = SearchSection()


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
