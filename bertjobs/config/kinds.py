"""The kinds of job, and which of them leave a model that `--model JOB` can name.

What single fields cannot say: which values contradict each other, and which have no effect beside others.

Contradictions are errors in every configuration. A value without effect is one only where the user gave it:
a preset may set what a flag then makes idle, and a stored configuration has every field.
"""

from collections.abc import Collection
from typing import Any, Literal

from bertjobs.config.encode import ENCODE_CONTRADICTIONS, ENCODE_IDLE, EncodeConfig
from bertjobs.config.finetune import EvaluateConfig, FinetuneConfig, JobConfig
from bertjobs.config.pretrain import PRETRAIN_CONTRADICTIONS, PRETRAIN_IDLE, PretrainConfig
from bertjobs.config.rule import Contradiction, Idle
from bertjobs.config.rules_finetune import EVALUATE_CONTRADICTIONS, FINETUNE_CONTRADICTIONS, FINETUNE_IDLE
from bertjobs.config.tune import TUNE_CONTRADICTIONS, TUNE_IDLE, TuneConfig

Kind = Literal["pretrain", "finetune", "tune", "evaluate", "encode"]

CONFIG_OF_KIND: dict[str, type[JobConfig]] = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "tune": TuneConfig,
    "evaluate": EvaluateConfig,
    "encode": EncodeConfig,
}
KINDS_WITH_MODEL = frozenset({"pretrain", "finetune", "tune"})


_CONTRADICTIONS: dict[str, tuple[Contradiction, ...]] = {
    "pretrain": PRETRAIN_CONTRADICTIONS,
    "finetune": FINETUNE_CONTRADICTIONS,
    "tune": TUNE_CONTRADICTIONS,
    "evaluate": EVALUATE_CONTRADICTIONS,
    "encode": ENCODE_CONTRADICTIONS,
}
_IDLE: dict[str, tuple[Idle, ...]] = {
    "pretrain": PRETRAIN_IDLE,
    "finetune": FINETUNE_IDLE,
    "tune": TUNE_IDLE,
    "evaluate": (),
    "encode": ENCODE_IDLE,
}


def find_contradictions(kind: str, config: Any) -> list[tuple[tuple[str, ...], str]]:
    """Return the paths involved and a sentence for every contradiction in a validated config."""
    return [(rule.paths, rule.says(config)) for rule in _CONTRADICTIONS[kind] if rule.holds(config)]


def find_idle(kind: str, config: Any, *, given: Collection[str]) -> list[tuple[str, str]]:
    """Return the path and the reason for every given value that has no effect."""
    return [(rule.path, rule.because) for rule in _IDLE[kind] if rule.path in given and rule.holds(config)]
