"""The parameters of a search: those of fine-tuning and how trials are chosen; and the rules over several of
them.

What a single trial may be is checked in `search_space`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bertjobs.config.finetune import FINETUNE_UNUSED, FinetuneConfig
from bertjobs.config.rules import TOO_MANY_WORKERS, UNEVEN_GPUS, Conflict, UnusedValue, num_workers
from bertjobs.config.sections import Count, Section, Seed, Text

Algorithm = Literal["random", "grid", "bayesian"]
Stopper = Literal["asha", "median", "none"]
SearchMetric = Literal[
    "accuracy", "mcc", "f1", "f1_micro", "f1_macro", "pearson", "spearman", "exact", "loss"
]


def _lists_as_choices(given: Any) -> Any:
    """Turn a list, as YAML writes a choice, into the text of a choice."""
    if not isinstance(given, Mapping):
        return given
    return {
        path: f"choice:{','.join(map(str, spec))}" if isinstance(spec, list) else spec
        for path, spec in given.items()
    }


SpaceTexts = Annotated[dict[str, Text], BeforeValidator(_lists_as_choices)]


class SearchSection(Section):
    trials: Count = 32
    """Number of configurations to try; with --algorithm grid, the most that the grid may have."""
    space: SpaceTexts | None = None
    """Dimension to search, as `optim.lr=loguniform:1e-5,1e-4`, `text.truncation=choice:ratio,longest_first`,
    `uniform:LOW,HIGH` or `randint:LOW,HIGH` (both ends included), or a YAML file of such lines; can be
    repeated; default: learning rate, batch size and truncation."""
    algorithm: Algorithm = "random"
    """How configurations are chosen: at `random`, every point of a `grid` (a range then takes a third number,
    its number of points), or `bayesian`, from the results of earlier trials (needs Optuna)."""
    stopper: Stopper = "asha"
    """Scheduler that stops trials early: `asha` (asynchronous successive halving), `median` (stops what is
    worse than the median of the others), or `none`."""
    metric: SearchMetric | None = None
    """Metric on the development split to optimise; default: the task's own."""
    grace_examples: Count | None = None
    """Training examples that a trial sees before it can be stopped; default: those of a whole trial, divided
    by the square of --reduction-factor."""
    reduction_factor: Annotated[float, Field(gt=1.0, le=10.0)] = 3.0
    """Reduction factor of asha: each rung keeps the best 1/N of its trials, and the next rung is N times as
    long; 3 as in Hyperband."""
    search_seed: Seed = 0
    """Seed of the search: the same seed tries the same configurations."""
    gpus_per_trial: Annotated[float, Field(gt=0.0)] | None = None
    """GPUs per trial, a whole number or a fraction such as 0.5; default: 1 where the search has GPUs."""
    cpus_per_trial: Annotated[float, Field(gt=0.0)] | None = None
    """CPU cores per trial; default: those of one granted worker, or in proportion to its GPUs."""
    workers_per_trial: Count | None = None
    """Worker processes per trial; default: one per GPU, or one on CPUs."""
    max_concurrent: Count | None = None
    """Most trials at a time; default: as many as the granted resources hold."""


class TuneConfig(FinetuneConfig):
    search: SearchSection = SearchSection()


DEFAULT_PATHS = ("optim.lr", "train.batch_size", "text.truncation")
"""What a search varies where `search.space` is not given."""

SEARCHABLE_PATHS = (
    "text.max_len",
    "text.truncation",
    "text.doc_stride",
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


TUNE_CONFLICTS: tuple[Conflict, ...] = (
    TOO_MANY_WORKERS,
    UNEVEN_GPUS,
    Conflict(
        paths=("search.gpus_per_trial", "resources.gpus"),
        applies=lambda c: (c.search.gpus_per_trial or 0) > c.resources.gpus,
        message=lambda c: (
            f"a trial needs {c.search.gpus_per_trial:g} GPU(s), but the search has {c.resources.gpus} in all"
        ),
    ),
    Conflict(
        paths=("search.gpus_per_trial", "search.workers_per_trial"),
        applies=_is_shared_unevenly,
        message=lambda c: (
            f"{c.search.gpus_per_trial:g} GPU(s) cannot be shared evenly among the "
            f"{c.search.workers_per_trial or 1} worker(s) of a trial; give a share of one GPU for one "
            "worker, or a multiple of the workers"
        ),
    ),
    Conflict(
        paths=("search.workers_per_trial", "resources.workers"),
        applies=lambda c: (
            c.search.gpus_per_trial is None and (c.search.workers_per_trial or 1) > num_workers(c)
        ),
        message=lambda c: (
            f"a trial has {c.search.workers_per_trial} workers, but the search has {num_workers(c)} in "
            "all; raise --workers or --gpus"
        ),
    ),
)


def _varied(path: str) -> UnusedValue:
    return UnusedValue(
        path=path,
        applies=lambda c: path in varied_paths(c),
        reason="the search varies it; name other dimensions with --space",
    )


def _unless_schedule_varies(rule: UnusedValue) -> UnusedValue:
    return UnusedValue(
        path=rule.path,
        applies=lambda c: rule.applies(c) and "optim.schedule" not in varied_paths(c),
        reason=rule.reason,
    )


TUNE_UNUSED: tuple[UnusedValue, ...] = (
    *(_unless_schedule_varies(rule) for rule in FINETUNE_UNUSED),
    *(_varied(path) for path in SEARCHABLE_PATHS),
    UnusedValue(
        path="train.keep_weights",
        applies=lambda c: c.train.keep_weights == "last",
        reason="a search compares the best weights of its trials, and keeps those",
    ),
    UnusedValue(
        path="train.profile",
        applies=lambda _: True,
        reason="a search runs many trainings; profile one of them with `bertjobs run finetune`",
    ),
    UnusedValue(
        path="train.report_to",
        applies=lambda c: c.train.report_to != "none",
        reason="only fine-tunings and pretrainings report to a tracker; `bertjobs trials` shows a search's",
    ),
    UnusedValue(
        path="search.grace_examples",
        applies=lambda c: c.search.stopper == "none",
        reason="no trial is stopped early",
    ),
    UnusedValue(
        path="search.reduction_factor",
        applies=lambda c: c.search.stopper != "asha",
        reason="only asha uses it",
    ),
    UnusedValue(
        path="search.search_seed",
        applies=lambda c: c.search.algorithm == "grid",
        reason="a grid tries every point",
    ),
)
