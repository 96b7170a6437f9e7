"""Merge layers of given values and validate them into one frozen config. Knows no flag by itself:
a layer brings the name by which its user gave each value, so that an error can say it back."""

import difflib
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from bertjobs.config.finetune import JobConfig
from bertjobs.config.kinds import CONFIG_OF_KIND, find_contradictions, find_idle
from bertjobs.config.presets import read_preset, read_yaml
from bertjobs.errors import ConfigError


@dataclass(frozen=True)
class Layer:
    """Values by dotted path (`optim.lr`), and how the user named each of them (`--lr`)."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    is_given: bool = True
    """Whether the user gave these values for this job, so that one without effect is an error."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What the schema knows of one dotted path: enough to make a flag or a search range of it."""

    path: str
    type: type
    choices: tuple[str, ...] | None
    optional: bool
    """Whether nothing is a value too."""
    required: bool
    bounds: str
    default: Any
    help: str


def load(kind: str, *layers: Layer) -> JobConfig:
    """Merge the layers, later over earlier, and validate.

    Raises: ConfigError: an unknown key, a wrong value, values that contradict each other or a given value
        without effect; with its origin, what was given and what is allowed.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    given: set[str] = set()
    for layer in layers:
        merged.update(layer.values)
        origins.update(layer.origins)
        # The last word counts: a preset may follow the user's defaults as well as come before them.
        given = given | set(layer.values) if layer.is_given else given - set(layer.values)
    schema = CONFIG_OF_KIND[kind]
    for path in merged:
        _check_path(schema, path, kind=kind, origin=origins.get(path, path))
    try:
        config = schema.model_validate(_nested(merged))
    except ValidationError as e:
        raise _config_error(e, schema, origins) from e
    _check_rules(kind, config, origins=origins, given=given)
    return config


def preset_layer(kind: str, name: str) -> Layer:
    """Return a preset's values. Raises: ConfigError: there is no such preset for this kind of job."""
    return _layer(read_preset(kind, name), f"--preset {name}", is_given=False)


def stored_layer(config: Mapping[str, Any]) -> Layer:
    """Return the values of a resolved configuration, as it is stored with a job and beside its artefacts."""
    return _layer(config, "the stored configuration", is_given=False)


def file_layer(path: Path) -> Layer:
    """Return the values of a `--config` file. Raises: ConfigError: it cannot be read."""
    return _layer(read_yaml(path, flag="--config"), f"--config {path}")


def set_layer(assignments: tuple[str, ...]) -> Layer:
    """Return the values of `--set a.b=value`, each read as YAML. Raises: ConfigError: there is no `=`."""
    values, origins = {}, {}
    for assignment in assignments:
        path, sep, text = assignment.partition("=")
        if not sep or not path:
            raise ConfigError(f"--set {assignment}: expected a dotted path and a value, as in optim.lr=3e-5.")
        values[path] = _scalar(text)
        origins[path] = f"--set {path}"
    return Layer(values, origins)


def describe(kind: str, path: str) -> Parameter:
    """Describe one dotted path of a kind's schema. Raises: KeyError: there is no such path."""
    field = _leaves(CONFIG_OF_KIND[kind])[path]
    annotation, optional = _without_none(field.annotation)
    literal = typing.get_origin(annotation) is typing.Literal
    return Parameter(
        path=path,
        type=str if literal else typing.get_origin(annotation) or annotation,
        choices=typing.get_args(annotation) if literal else None,
        optional=optional,
        required=field.is_required(),
        bounds=_bounds(field),
        default=None if field.is_required() else field.default,
        help=" ".join((field.description or "").split()),
    )


def paths(kind: str) -> list[str]:
    """Return every dotted path of a kind's schema."""
    return list(_leaves(CONFIG_OF_KIND[kind]))


def _leaves(schema: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= _leaves(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def _layer(sections: Mapping[str, Any], origin: str, *, is_given: bool = True) -> Layer:
    values: dict[str, Any] = {}
    for section, content in sections.items():
        if isinstance(content, Mapping):
            values |= {f"{section}.{key}": value for key, value in content.items()}
        elif content is not None:  # `optim:` with nothing under it, in YAML
            values[str(section)] = content
    return Layer(values, {path: f"{path} in {origin}" for path in values}, is_given=is_given)


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
    known = _leaves(schema)
    if path not in known:
        raise ConfigError(f"{origin}: {kind} has no parameter {path}.", hint=_suggestion(path, list(known)))


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


def _check_rules(kind: str, config: JobConfig, *, origins: Mapping[str, str], given: Collection[str]) -> None:
    lines = []
    for involved, sentence in find_contradictions(kind, config):
        named = [origins.get(path, path) for path in involved if path in given] or [involved[0]]
        lines.append(f"{' and '.join(named)}: {sentence}.")
    for path, because in find_idle(kind, config, given=given):
        lines.append(f"{origins[path]} has no effect: {because}.")
    if lines:
        raise ConfigError("\n".join(lines))


def _config_error(e: ValidationError, schema: type[BaseModel], origins: Mapping[str, str]) -> ConfigError:
    known = _leaves(schema)
    lines = []
    for error in e.errors():
        path = ".".join(str(part) for part in error["loc"])
        path = next((k for k in known if path == k or path.startswith(f"{k}.")), path)
        if error["type"] == "missing":
            required = [k for k, f in known.items() if f.is_required() and k.startswith(path)]
            lines += [f"{origins.get(k, k)} is required." for k in required]
            continue
        allowed = _allowed(known[path]) if path in known else error["msg"]
        lines.append(f"{origins.get(path, path)}: {_shown(error['input'])} is not allowed; {allowed}.")
    return ConfigError("\n".join(dict.fromkeys(lines)))


def _shown(value: Any) -> str:
    """Show a value as its user typed it; quotes only where there would be nothing to see."""
    return value if isinstance(value, str) and value.strip() else repr(value)


def _allowed(field: FieldInfo) -> str:
    annotation, optional = _without_none(field.annotation)
    if typing.get_origin(annotation) is typing.Literal:
        text = "choose one of " + ", ".join(typing.get_args(annotation))
    else:
        words = {
            int: "a whole number",
            float: "a number",
            str: "a text",
            bool: "true or false",
            dict: "a mapping",
        }
        kind = typing.get_origin(annotation) or annotation
        text = f"expected {words.get(kind, kind.__name__)} {_bounds(field)}".strip()
        if any(isinstance(constraint, MinLen) for constraint in _constraints(field)):
            text += " that is not empty"
    return text + (", or nothing" if optional else "")


def _bounds(field: FieldInfo) -> str:
    signs = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}
    parts = []
    for constraint in _constraints(field):
        if type(constraint) in signs:
            sign, attribute = signs[type(constraint)]
            parts.append(f"{sign} {_exact(getattr(constraint, attribute))}")
    return " and ".join(parts)


def _exact(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _constraints(field: FieldInfo) -> list[Any]:
    """Collect bounds from the field and, where it is `Annotated[...] | None`, from inside the union."""
    found = list(field.metadata)
    stack = [field.annotation]
    while stack:
        annotation = stack.pop()
        for item in getattr(annotation, "__metadata__", ()):
            found += item.metadata if isinstance(item, FieldInfo) else [item]
        stack += [
            a for a in typing.get_args(annotation) if typing.get_origin(annotation) is not typing.Literal
        ]
    return found


def _without_none(annotation: Any) -> tuple[Any, bool]:
    optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(annotation) if a is not type(None)]
        optional, annotation = len(rest) < len(typing.get_args(annotation)), rest[0]
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation, optional
