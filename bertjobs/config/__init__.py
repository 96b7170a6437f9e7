"""What a job does: schema, presets, and the merge of defaults, preset, file, `--set` and flags."""

from bertjobs.config.encode import EncodeConfig
from bertjobs.config.finetune import EvaluateConfig, FinetuneConfig, JobConfig
from bertjobs.config.kinds import CONFIG_OF_KIND, KINDS_WITH_MODEL, Kind
from bertjobs.config.load import (
    Layer,
    describe,
    file_layer,
    load,
    paths,
    preset_layer,
    set_layer,
    stored_layer,
)
from bertjobs.config.pretrain import PretrainConfig
from bertjobs.config.tune import TuneConfig

__all__ = [
    "CONFIG_OF_KIND",
    "KINDS_WITH_MODEL",
    "EncodeConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "JobConfig",
    "Kind",
    "Layer",
    "PretrainConfig",
    "TuneConfig",
    "describe",
    "file_layer",
    "load",
    "paths",
    "preset_layer",
    "set_layer",
    "stored_layer",
]
