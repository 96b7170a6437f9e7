"""The kinds of job: the configuration and the rules of each, and which of them leave a model for `--model
JOB`."""

from collections.abc import Collection
from typing import Any, Literal

from bertjobs.config.encode import ENCODE_CONFLICTS, ENCODE_UNUSED, EncodeConfig
from bertjobs.config.finetune import (
    EVALUATE_CONFLICTS,
    FINETUNE_CONFLICTS,
    FINETUNE_UNUSED,
    EvaluateConfig,
    FinetuneConfig,
)
from bertjobs.config.predict import PREDICT_CONFLICTS, PredictConfig
from bertjobs.config.pretrain import PRETRAIN_CONFLICTS, PRETRAIN_UNUSED, PretrainConfig
from bertjobs.config.rules import Conflict, UnusedValue
from bertjobs.config.sections import JobConfig
from bertjobs.config.tune import TUNE_CONFLICTS, TUNE_UNUSED, TuneConfig

Kind = Literal["pretrain", "finetune", "tune", "evaluate", "encode", "predict"]

CONFIG_OF_KIND: dict[str, type[JobConfig]] = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "tune": TuneConfig,
    "evaluate": EvaluateConfig,
    "encode": EncodeConfig,
    "predict": PredictConfig,
}
KINDS_WITH_MODEL = frozenset({"pretrain", "finetune", "tune"})

_CONFLICTS: dict[str, tuple[Conflict, ...]] = {
    "pretrain": PRETRAIN_CONFLICTS,
    "finetune": FINETUNE_CONFLICTS,
    "tune": TUNE_CONFLICTS,
    "evaluate": EVALUATE_CONFLICTS,
    "encode": ENCODE_CONFLICTS,
    "predict": PREDICT_CONFLICTS,
}
_UNUSED: dict[str, tuple[UnusedValue, ...]] = {
    "pretrain": PRETRAIN_UNUSED,
    "finetune": FINETUNE_UNUSED,
    "tune": TUNE_UNUSED,
    "evaluate": (),
    "encode": ENCODE_UNUSED,
    "predict": (),
}


def find_conflicts(kind: str, config: Any) -> list[tuple[tuple[str, ...], str]]:
    """Return, for each conflict in a config, the paths involved and the message."""
    return [(rule.paths, rule.message(config)) for rule in _CONFLICTS[kind] if rule.applies(config)]


def find_unused(kind: str, config: Any, *, given: Collection[str]) -> list[tuple[str, str]]:
    """Return, for each given value without effect, its path and the reason."""
    return [(rule.path, rule.reason) for rule in _UNUSED[kind] if rule.path in given and rule.applies(config)]
