"""Weights as they were read, whatever their file format: the value that the readers hand to the builders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from bertjobs.modeling.config import BertConfig


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A checkpoint in memory, with Hugging Face's parameter names (`bert.encoder.layer.0. ...`)."""

    source: Path
    """Where it was read from, for messages."""
    kind: Literal["huggingface", "d2l"]
    config: BertConfig
    state_dict: dict[str, Tensor]
    tokenizer_path: Path | None
    """Folder or file of the tokenizer that belongs to the weights; none where there is none."""
    labels: tuple[str, ...] | None
    """Names of the classes, where the checkpoint is a classifier."""
