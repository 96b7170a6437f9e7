"""Every parameter of a search once, as in `schema`: what fine-tuning has, and how its trials are chosen."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bertjobs.config.schema import Count, FinetuneConfig, Section, Text

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
