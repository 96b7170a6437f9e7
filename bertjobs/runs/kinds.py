"""Which function drives which kind of job.

A module of its own: what it loads imports torch and all of Ray, which the driver must not before its first
heartbeat. Only the kind that is asked for is imported: all of them take 30 MB more in every driver.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from bertjobs.runs.run_context import Outcome, Run

_DRIVERS: Mapping[str, tuple[str, str]] = {
    "pretrain": ("bertjobs.runs.pretrain", "run_pretrain"),
    "finetune": ("bertjobs.runs.finetune", "run_finetune"),
    "tune": ("bertjobs.runs.tune.driver", "run_tune"),
    "evaluate": ("bertjobs.runs.evaluate", "run_evaluate"),
    "encode": ("bertjobs.runs.encode.job", "run_encode"),
    "predict": ("bertjobs.runs.predict.job", "run_predict"),
}


def driver_of(kind: str) -> Callable[[Run[Any]], Outcome]:
    """Import and return the function that drives this kind of job."""
    module, function = _DRIVERS[kind]
    found: Callable[[Run[Any]], Outcome] = getattr(import_module(module), function)
    return found
