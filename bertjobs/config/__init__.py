"""What a job does: schema, presets, and the merge of defaults, preset, file, `--set` and flags."""

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
from bertjobs.config.schema import CONFIG_OF_KIND, EvaluateConfig, FinetuneConfig, JobConfig, Kind

__all__ = [
    "CONFIG_OF_KIND",
    "EvaluateConfig",
    "FinetuneConfig",
    "JobConfig",
    "Kind",
    "Layer",
    "describe",
    "file_layer",
    "load",
    "paths",
    "preset_layer",
    "set_layer",
    "stored_layer",
]
