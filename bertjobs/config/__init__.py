"""What a job does: its parameters, presets, and the merge of defaults, preset, file, `--set` and flags."""

from bertjobs.config.encode import EncodeConfig
from bertjobs.config.finetune import EvaluateConfig, FinetuneConfig
from bertjobs.config.kinds import CONFIG_OF_KIND, KINDS_WITH_MODEL, Kind
from bertjobs.config.load import (
    ConfigLayer,
    file_layer,
    given_values,
    load_config,
    preset_layer,
    set_layer,
    stored_layer,
    with_values,
)
from bertjobs.config.parameters import describe_parameter, parameter_paths, parameters
from bertjobs.config.predict import PredictConfig
from bertjobs.config.pretrain import PretrainConfig
from bertjobs.config.sections import JobConfig
from bertjobs.config.tune import TuneConfig

__all__ = [
    "CONFIG_OF_KIND",
    "KINDS_WITH_MODEL",
    "ConfigLayer",
    "EncodeConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "JobConfig",
    "Kind",
    "PredictConfig",
    "PretrainConfig",
    "TuneConfig",
    "describe_parameter",
    "file_layer",
    "given_values",
    "load_config",
    "parameter_paths",
    "parameters",
    "preset_layer",
    "set_layer",
    "stored_layer",
    "with_values",
]
