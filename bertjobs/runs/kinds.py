"""Which function drives which kind of job.

A module of its own: it imports torch and all of Ray, which the driver must not before its first heartbeat.
"""

from collections.abc import Callable, Mapping
from typing import Any

from bertjobs.runs.encode.job import run_encode
from bertjobs.runs.evaluate import run_evaluate
from bertjobs.runs.finetune import run_finetune
from bertjobs.runs.pretrain import run_pretrain
from bertjobs.runs.run_context import Outcome, Run
from bertjobs.runs.tune.driver import run_tune

DRIVER_OF_KIND: Mapping[str, Callable[[Run[Any]], Outcome]] = {
    "pretrain": run_pretrain,
    "finetune": run_finetune,
    "tune": run_tune,
    "evaluate": run_evaluate,
    "encode": run_encode,
}
