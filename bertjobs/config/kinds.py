"""The kinds of job, and which of them leave a model that `--model JOB` can name."""

from typing import Literal

from bertjobs.config.schema import EvaluateConfig, FinetuneConfig, JobConfig
from bertjobs.config.schema_encode import EncodeConfig
from bertjobs.config.schema_pretrain import PretrainConfig
from bertjobs.config.schema_tune import TuneConfig

Kind = Literal["pretrain", "finetune", "tune", "evaluate", "encode"]

CONFIG_OF_KIND: dict[str, type[JobConfig]] = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "tune": TuneConfig,
    "evaluate": EvaluateConfig,
    "encode": EncodeConfig,
}
KINDS_WITH_MODEL = frozenset({"pretrain", "finetune", "tune"})
