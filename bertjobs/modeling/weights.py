"""Hugging Face checkpoint folders, in and out, and the entrance for any local weights.

Reads `config.json` with `model.safetensors` (whole or sharded) or `pytorch_model.bin`; writes what
`transformers` opens as it is. Never unpickles anything but tensors.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertjobs.errors import ModelError
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.d2l import holds_d2l, read_d2l

log = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_INDEX = "model.safetensors.index.json"
_AGAIN = "Download or copy the file again."


def load_weights(source: Path, *, cache: Path, num_heads: int | None = None) -> LoadedModel:
    """Read a Hugging Face folder, or a d2l zip or folder. Archives are unpacked under `cache`.

    Raises: ModelError: nothing usable is there, a file is cut short or tampered with, or does not fit its
    configuration; `num_heads` (--num-heads) is missing for a d2l archive, or given for anything else.
    """
    if not source.exists():
        raise ModelError(f"--model {source}: there is no such file or folder")
    if holds_d2l(source):
        return read_d2l(source, cache=cache, num_heads=num_heads)
    if num_heads is not None:
        raise ModelError(
            f"model.num_heads={num_heads} has no effect: {source} is not a d2l archive",
            hint="Leave model.num_heads out; a config.json says how many heads there are.",
        )
    return read_folder(source)


def read_folder(folder: Path) -> LoadedModel:
    """Read a Hugging Face checkpoint folder. Raises: ModelError."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"--model {folder}: there is no config.json",
            hint="Give a folder with config.json and model.safetensors, a d2l archive, a job id or a size.",
        )
    content = _read_json(folder / "config.json")
    has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    return LoadedModel(
        source=folder,
        kind="huggingface",
        config=BertConfig.from_json(content, where=str(folder)),
        state_dict=_with_todays_names(_read_tensors(folder)),
        tokenizer_path=folder if has_tokenizer else _own_vocabulary(folder),
        labels=_labels(content),
        architecture=_architecture(content),
        problem_type=content.get("problem_type"),
    )


def save_pretrained(
    model: nn.Module,
    folder: Path,
    *,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
) -> None:
    """Write config.json and model.safetensors; tokenizer files are the caller's to put beside them.

    d2l's variant without LayerNorm on the embeddings is marked so that only this project opens it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    architecture = type(model).__name__
    content = cast(BertConfig, model.config).to_json(
        architecture=architecture, labels=labels, problem_type=problem_type
    )
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / "model.safetensors").is_file():
        return _read_safetensors(folder / "model.safetensors")
    if (folder / _INDEX).is_file():
        return _read_shards(folder)
    if (folder / "pytorch_model.bin").is_file():
        return _read_pickled_tensors(folder / "pytorch_model.bin")
    raise ModelError(f"--model {folder}: there is no model.safetensors and no pytorch_model.bin", hint=_AGAIN)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise ModelError(f"{path} is cut short or is no safetensors file ({e})", hint=_AGAIN) from e


def _read_shards(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in _shard_names(folder):
        tensors |= _read_safetensors(folder / name)
    missing = sorted(set(_weight_map(folder)) - set(tensors))
    if missing:
        raise ModelError(f"{folder}: the shards lack {missing[0]} and {len(missing) - 1} more", hint=_AGAIN)
    return tensors


def _shard_names(folder: Path) -> list[str]:
    """Return the files that a sharded checkpoint's index names.

    Raises: ModelError: the index is broken, or names a file outside of the folder.
    """
    names = sorted(set(_weight_map(folder).values()))
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{folder / _INDEX} names {name}, which lies outside of the folder", hint=_AGAIN)
    return names


def _weight_map(folder: Path) -> dict[str, str]:
    """Return which shard holds which tensor."""
    index = _read_json(folder / _INDEX)
    if not isinstance(index.get("weight_map"), dict):
        raise ModelError(f"{folder / _INDEX} has no weight_map", hint=_AGAIN)
    return index["weight_map"]


def _read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load names no error for a broken file: zip, pickle, EOF and runtime errors
        raise ModelError(f"{path} is cut short or holds more than tensors ({_line(e)})", hint=_AGAIN) from e


def _with_todays_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring names of older checkpoints and of bare encoders to those of today's, and values to fp32."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = f"bert.{name}"
        if not name.endswith("embeddings.position_ids"):  # a buffer of old versions: 0, 1, 2, ...
            renamed[name] = tensor.float()
    return renamed


def _own_vocabulary(folder: Path) -> Path | None:
    """Return the vocabulary of a fine-tuned d2l model, which is word-level."""
    return folder / "vocab.json" if (folder / "vocab.json").is_file() else None


def _labels(content: dict[str, Any]) -> tuple[str, ...] | None:
    if "id2label" not in content:
        return None
    names = content["id2label"]
    return tuple(names[key] for key in sorted(names, key=int))


def _architecture(content: dict[str, Any]) -> str | None:
    given = content.get("architectures")
    return given[0] if isinstance(given, list) and given and isinstance(given[0], str) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read as JSON ({_line(e)})", hint=_AGAIN) from e
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold an object, but holds a {type(content).__name__}", hint=_AGAIN)
    return content


def _line(e: Exception) -> str:
    return " ".join(str(e).split())[:160] or type(e).__name__
