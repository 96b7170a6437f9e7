"""What the schema says of each parameter: enough to make a flag, an error, a search dimension or a reference
page."""

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bertjobs.config.kinds import CONFIG_OF_KIND


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a kind of job."""

    path: str
    """Dotted, as in `optim.lr`."""
    type: type
    choices: tuple[str, ...] | None
    is_optional: bool
    """Whether it may be left unset."""
    is_required: bool
    bounds: str
    """As in `> 0 and <= 1`; empty where there are none."""
    default: Any
    help: str

    @property
    def shown_default(self) -> str | None:
        """The default as a user would write it; None where there is none, or `help` describes it."""
        if self.is_required or self.default is None:
            return None
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)


def parameter_paths(kind: str) -> list[str]:
    """Return every dotted path of a kind's schema, in the order of the schema."""
    return list(leaf_fields(CONFIG_OF_KIND[kind]))


def parameters(kind: str) -> Iterator[Parameter]:
    """Yield every parameter of a kind, in the order of the schema."""
    for path in parameter_paths(kind):
        yield describe_parameter(kind, path)


def describe_parameter(kind: str, path: str) -> Parameter:
    """Describe one parameter of a kind. Raises: KeyError: there is no such path."""
    field = leaf_fields(CONFIG_OF_KIND[kind])[path]
    annotation, is_optional = _without_none(field.annotation)
    is_literal = typing.get_origin(annotation) is typing.Literal
    return Parameter(
        path=path,
        type=str if is_literal else typing.get_origin(annotation) or annotation,
        choices=typing.get_args(annotation) if is_literal else None,
        is_optional=is_optional,
        is_required=field.is_required(),
        bounds=_bounds(field),
        default=None if field.is_required() else field.default,
        help=" ".join((field.description or "").split()),
    )


def leaf_fields(schema: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Return the fields of a schema and its sections that are no sections, by dotted path."""
    found: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= leaf_fields(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def allowed_values(field: FieldInfo) -> str:
    """Return what a field takes, to complete "VALUE is not allowed; ..."."""
    annotation, is_optional = _without_none(field.annotation)
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
    return text + (", or nothing" if is_optional else "")


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
    is_optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(annotation) if a is not type(None)]
        is_optional, annotation = len(rest) < len(typing.get_args(annotation)), rest[0]
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation, is_optional
