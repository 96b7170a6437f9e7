"""What of a configuration differs from where it began: its preset, or the defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import PydanticUndefined, to_jsonable_python

from bertjobs.config.kinds import CONFIG_OF_KIND
from bertjobs.config.load import preset_layer
from bertjobs.config.parameters import leaf_fields
from bertjobs.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ChangedValue:
    """A parameter with another value than it began with."""

    path: str
    value: Any
    default: Any
    """What the preset says, or the default; None also where a value is required."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def changed_values(kind: str, config: Mapping[str, Any], *, preset: str | None = None) -> list[ChangedValue]:
    """Return the parameters of a stored configuration that are not as in its preset or by default.

    A kind or a preset that this version does not know counts as one without values.
    """
    if kind not in CONFIG_OF_KIND:
        return []
    begun = {
        path: None
        if (default := field.get_default(call_default_factory=True)) is PydanticUndefined
        else default
        for path, field in leaf_fields(CONFIG_OF_KIND[kind]).items()
    }
    begun |= _preset_values(kind, preset)
    return [
        ChangedValue(path=path, value=value, default=default)
        for path, value in flat_values(config).items()
        if value != (default := to_jsonable_python(begun.get(path), fallback=str))
    ]


def flat_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a stored configuration by dotted path."""
    return {
        f"{section}.{name}": value
        for section, values in config.items()
        if isinstance(values, Mapping)
        for name, value in values.items()
    }


def values_by_path(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of several configurations by path, in their order; None where one has none."""
    flat = [flat_values(config) for config in configs]
    paths = list(dict.fromkeys(path for values in flat for path in values))
    return {path: [values.get(path) for values in flat] for path in paths}


def _preset_values(kind: str, preset: str | None) -> Mapping[str, Any]:
    if preset is None:
        return {}
    try:
        return preset_layer(kind, preset).values
    except ConfigError:
        return {}
