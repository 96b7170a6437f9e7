"""The YAML files under `configs/`: presets of jobs, and model sizes. `load_config` validates them."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bertjobs.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED, _CHECKOUT = _PACKAGE / "configs", _PACKAGE.parent / "configs"


def configs_dir() -> Path:
    """Return the folder of the presets: inside the installed package, or at the top of a checkout."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def preset_names(kind: str) -> list[str]:
    """Return the names that `--preset` takes for a kind of job."""
    return sorted(path.stem for path in (configs_dir() / kind).glob("*.yaml"))


def preset_path(kind: str, name: str) -> Path:
    """Return the file of a preset. Raises: ConfigError: there is no such preset for this kind of job."""
    kinds = (kind, *_ALSO_PRESETS_OF.get(kind, ()))
    for owner in kinds:
        if name in preset_names(owner):
            return configs_dir() / owner / f"{name}.yaml"
    known = list(dict.fromkeys(known for owner in kinds for known in preset_names(owner)))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"--preset {name}: {kind} has no such preset",
        hint=f"{hint}Known are {', '.join(known)}." if known else f"{kind} has no presets.",
    )


_ALSO_PRESETS_OF: Mapping[str, tuple[str, ...]] = {"tune": ("finetune",)}
"""Kinds that also take the presets of other kinds: a search starts from the configuration of a
fine-tuning."""


def size_names() -> list[str]:
    """Return the names of the model sizes, which `--model` takes for random weights."""
    return sorted(path.stem for path in (configs_dir() / "models").glob("*.yaml"))


def read_preset(kind: str, name: str) -> dict[str, Any]:
    """Read a job preset as nested sections. Raises: ConfigError: as `preset_path`."""
    return read_yaml(preset_path(kind, name), flag="--preset")


def read_size(name: str) -> dict[str, Any]:
    """Read a model size, with the keys of a Hugging Face `config.json`."""
    return read_yaml(configs_dir() / "models" / f"{name}.yaml", flag="--model")


def read_yaml(path: Path, *, flag: str) -> dict[str, Any]:
    """Read one YAML mapping; `flag` names its user in the message.

    Raises: ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{flag} {path} cannot be read: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{flag} {path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(loaded, dict):
        raise ConfigError(f"{flag} {path} must be a mapping of sections, but is {type(loaded).__name__}")
    return loaded
