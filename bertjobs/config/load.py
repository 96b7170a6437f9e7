"""Merge layers of given values (preset, file, `--set`, flags) and validate them into one frozen config.

Knows no flag: a layer brings the name by which its user gave each value, which errors then use. A config is
validated here where it enters (command line, queue, search); from there on the object is passed."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from bertjobs.config.kinds import CONFIG_OF_KIND, find_conflicts, find_unused
from bertjobs.config.parameters import allowed_values, leaf_fields
from bertjobs.config.presets import read_preset, read_yaml
from bertjobs.config.sections import JobConfig
from bertjobs.errors import ConfigError

Config = TypeVar("Config", bound=JobConfig)


@dataclass(frozen=True)
class ConfigLayer:
    """Values by dotted path (`optim.lr`), and how the user named each of them (`--lr`)."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    is_given: bool = True
    """Whether the user gave these values for this job, so that one without effect is an error."""


def load_config(kind: str, *layers: ConfigLayer) -> JobConfig:
    """Merge the layers, later over earlier, and validate.

    Raises: ConfigError: an unknown key, a wrong value, values in conflict with each other, or a given value
        without effect; with its origin, what was given and what is allowed.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        merged.update(layer.values)
        origins.update(layer.origins)
    schema = CONFIG_OF_KIND[kind]
    for path in merged:
        _check_path(schema, path, kind=kind, origin=origins.get(path, path))
    try:
        config = schema.model_validate(_nested(merged))
    except ValidationError as e:
        raise _config_error(e, schema, origins) from e
    _check_rules(kind, config, given=given_values(*layers))
    return config


def given_values(*layers: ConfigLayer) -> dict[str, str]:
    """Return the paths whose final value the user gave for this job, each with how the user named it."""
    given: dict[str, str] = {}
    for layer in layers:
        # The last layer counts: a preset may come after the user's defaults as well as before them.
        for path in layer.values:
            if layer.is_given:
                given[path] = layer.origins.get(path, path)
            else:
                given.pop(path, None)
    return given


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a validated config with some values replaced, such as paths made absolute; checks nothing."""
    updates: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, field = path.partition(".")
        updates.setdefault(section, {})[field] = value
    return config.model_copy(
        update={
            section: getattr(config, section).model_copy(update=fields) for section, fields in updates.items()
        }
    )


def preset_layer(kind: str, name: str) -> ConfigLayer:
    """Return a preset's values. Raises: ConfigError: there is no such preset for this kind of job."""
    return _layer(read_preset(kind, name), f"--preset {name}", is_given=False)


def stored_layer(config: Mapping[str, Any]) -> ConfigLayer:
    """Return the values of a resolved configuration, as it is stored with a job and beside its artefacts."""
    return _layer(config, "the stored configuration", is_given=False)


def file_layer(path: Path) -> ConfigLayer:
    """Return the values of a `--config` file. Raises: ConfigError: it cannot be read."""
    return _layer(read_yaml(path, flag="--config"), f"--config {path}")


def set_layer(assignments: tuple[str, ...]) -> ConfigLayer:
    """Return the values of `--set a.b=value`, each read as YAML. Raises: ConfigError: there is no `=`."""
    values, origins = {}, {}
    for assignment in assignments:
        path, sep, text = assignment.partition("=")
        if not sep or not path:
            raise ConfigError(
                f"--set {assignment}: expected a dotted path and a value",
                hint="Give it as in `--set optim.lr=3e-5`.",
            )
        values[path] = _scalar(text)
        origins[path] = f"--set {path}"
    return ConfigLayer(values, origins)


def _layer(sections: Mapping[str, Any], origin: str, *, is_given: bool = True) -> ConfigLayer:
    values: dict[str, Any] = {}
    for section, content in sections.items():
        if isinstance(content, Mapping):
            values |= {f"{section}.{key}": value for key, value in content.items()}
        elif content is not None:  # `optim:` with nothing under it, in YAML
            values[str(section)] = content
    return ConfigLayer(values, {path: f"{path} in {origin}" for path in values}, is_given=is_given)


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # YAML 1.1 reads 5e-5 (no dot) as a string; pydantic turns numeric strings into numbers.
    return text if isinstance(value, (dict, list)) else value


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def _check_path(schema: type[BaseModel], path: str, *, kind: str, origin: str) -> None:
    known = leaf_fields(schema)
    if path not in known:
        raise ConfigError(f"{origin}: {kind} has no parameter {path}", hint=_suggestion(path, list(known)))


def _suggestion(path: str, known: list[str]) -> str:
    section, _, leaf = path.partition(".")
    siblings = [k for k in known if k.startswith(f"{section}.")]
    if siblings and not leaf:
        return f"It is a section; its parameters are {', '.join(siblings)}."
    same_leaf = [k for k in known if k.endswith(f".{leaf or section}")]
    close = same_leaf or difflib.get_close_matches(path, siblings or known, n=1, cutoff=0.75)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known are: {', '.join(siblings or known)}."


def _check_rules(kind: str, config: JobConfig, *, given: Mapping[str, str]) -> None:
    lines = []
    for involved, message in find_conflicts(kind, config):
        named = [given[path] for path in involved if path in given] or [involved[0]]
        lines.append(f"{' and '.join(named)}: {message}")
    for path, reason in find_unused(kind, config, given=given):
        lines.append(f"{given[path]} has no effect: {reason}")
    if lines:
        raise ConfigError("\n".join(lines))


def _config_error(e: ValidationError, schema: type[BaseModel], origins: Mapping[str, str]) -> ConfigError:
    known = leaf_fields(schema)
    lines = []
    for error in e.errors():
        path = ".".join(str(part) for part in error["loc"])
        path = next((k for k in known if path == k or path.startswith(f"{k}.")), path)
        if error["type"] == "missing":
            required = [k for k, f in known.items() if f.is_required() and k.startswith(path)]
            lines += [f"{origins.get(k, k)} is required" for k in required]
            continue
        allowed = allowed_values(known[path]) if path in known else error["msg"]
        lines.append(f"{origins.get(path, path)}: {_shown(error['input'])} is not allowed; {allowed}")
    return ConfigError("\n".join(dict.fromkeys(lines)))


def _shown(value: Any) -> str:
    """Show a value as its user typed it; quotes only where there would be nothing to see."""
    return value if isinstance(value, str) and value.strip() else repr(value)
