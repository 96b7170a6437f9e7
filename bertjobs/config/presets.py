"""The YAML files under `configs/`: job presets and model sizes. They are data; `load` validates them."""

import difflib
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
    """Return where a preset is. Raises: ConfigError: there is no such preset for this kind of job."""
    own = preset_names(kind)
    if name not in own and name in _lent(kind):
        return configs_dir() / _LENDERS[kind] / f"{name}.yaml"
    known = [*own, *_lent(kind)]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"--preset {name}: {kind} has no such preset.",
            hint=f"{hint}Known are {', '.join(known)}." if known else f"{kind} has none.",
        )
    return configs_dir() / kind / f"{name}.yaml"


_LENDERS = {"tune": "finetune"}
"""Kinds that also take another kind's presets: a search begins with the configuration of a fine-tuning."""


def _lent(kind: str) -> list[str]:
    lent = preset_names(_LENDERS[kind]) if kind in _LENDERS else []
    return [name for name in lent if name not in preset_names(kind)]


def size_names() -> list[str]:
    """Return the model sizes that `--model` takes to start from random weights."""
    return sorted(path.stem for path in (configs_dir() / "models").glob("*.yaml"))


def read_preset(kind: str, name: str) -> dict[str, Any]:
    """Read a job preset as nested sections. Raises: ConfigError: as `preset_path`."""
    return read_yaml(preset_path(kind, name), flag="--preset")


def read_size(name: str) -> dict[str, Any]:
    """Read a model size in the words of a Hugging Face `config.json`."""
    return read_yaml(configs_dir() / "models" / f"{name}.yaml", flag="--model")


def read_yaml(path: Path, *, flag: str) -> dict[str, Any]:
    """Read one YAML mapping; `flag` is who asked, for the message.

    Raises: ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{flag} {path}: {e.strerror}.") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{flag} {path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(loaded, dict):
        raise ConfigError(f"{flag} {path} must be a mapping of sections, but is {type(loaded).__name__}.")
    return loaded
