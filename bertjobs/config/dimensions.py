"""The dimensions of a search: one per dotted path, read from text such as `loguniform:1e-5,1e-4`.

    choice:A,B,...          one of these values
    uniform:LOW,HIGH        a number, uniformly distributed
    loguniform:LOW,HIGH     a number whose logarithm is uniformly distributed
    randint:LOW,HIGH        a whole number, both ends included

For a grid a range takes a third number, its number of points: `loguniform:1e-5,1e-3,5`. Values of a choice
stay text, like those of a flag; `search_space` checks which of them the schema allows."""

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bertjobs.config.presets import read_yaml
from bertjobs.errors import ConfigError

Value = str | float | int
Values = dict[str, Value]
"""One configuration: a value per dotted path."""

_NUM_DIGITS = 4
"""Significant digits of a drawn number: more make no difference to training, and these are easy to read."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of some values."""

    values: tuple[str, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.values

    @property
    def grid(self) -> tuple[Value, ...]:
        return self.values

    def draw(self, rng: random.Random) -> Value:
        return self.values[rng.randrange(len(self.values))]


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number between two others, ends included, uniformly distributed."""

    low: float
    high: float
    num_points: int | None
    """Number of points in a grid."""
    is_log: ClassVar[bool] = False

    @property
    def ends(self) -> tuple[Value, ...]:
        return (self.low, self.high)

    @property
    def grid(self) -> tuple[Value, ...]:
        assert self.num_points is not None, "search_space checks it"
        return tuple(self._at(i / (self.num_points - 1)) for i in range(self.num_points))

    def draw(self, rng: random.Random) -> Value:
        return self._at(rng.random())

    def rounded(self, value: float) -> float:
        """Return a value with few digits, inside the range."""
        return min(max(float(f"{value:.{_NUM_DIGITS}g}"), self.low), self.high)

    def _at(self, ratio: float) -> Value:
        return self.rounded(self.low + ratio * (self.high - self.low))


class LogRange(Range):
    """A number between two others whose logarithm is uniformly distributed."""

    is_log = True

    def _at(self, ratio: float) -> Value:
        return self.rounded(self.low * (self.high / self.low) ** ratio)


class IntegerRange(Range):
    """A whole number between two others, both included."""

    @property
    def ends(self) -> tuple[Value, ...]:
        return (int(self.low), int(self.high))

    @property
    def grid(self) -> tuple[Value, ...]:
        if self.num_points is None:
            return tuple(range(int(self.low), int(self.high) + 1))
        return super().grid

    def draw(self, rng: random.Random) -> Value:
        return rng.randint(int(self.low), int(self.high))

    def _at(self, ratio: float) -> Value:
        return round(self.low + ratio * (self.high - self.low))


Dimension = Choice | Range
Space = Mapping[str, Dimension]


def parse_space(texts: Mapping[str, str]) -> dict[str, Dimension]:
    """Read a space. Raises: ConfigError: a dimension is not written as one; names it and what is expected."""
    if not texts:
        raise ConfigError("--space: the space is empty", hint="Leave --space out for the default space.")
    return {path: _parse(path, text) for path, text in texts.items()}


def merge_space(given: Iterable[str]) -> dict[str, Any]:
    """Merge the values of `--space`: `PATH=TEXT`, or YAML files of such lines. Raises: ConfigError."""
    merged: dict[str, Any] = {}
    for item in given:
        path, sep, text = item.partition("=")
        if sep and (not path or not text):
            raise ConfigError(
                f"--space {item}: expected a dotted path and a dimension",
                hint="Give it as in `--space optim.lr=loguniform:1e-5,1e-4`.",
            )
        if not sep and not Path(item).exists():
            raise ConfigError(
                f"--space {item}: there is no such file, and it is not a dotted path with a dimension",
                hint="Give it as in `--space optim.lr=loguniform:1e-5,1e-4`, or give a YAML file of them.",
            )
        added = {path: text} if sep else read_yaml(Path(item), flag="--space")
        if twice := merged.keys() & added:
            raise ConfigError(f"--space {item}: {', '.join(sorted(twice))} was given before")
        merged |= added
    return merged


def origin(path: str, text: str) -> str:
    """Return how a user gives a dimension."""
    return f"--space {path}={text}"


def _parse(path: str, text: str) -> Dimension:
    name, colon, rest = text.partition(":")
    items = [item.strip() for item in rest.split(",")] if rest.strip() else []
    if not colon or name not in _READERS:
        raise ConfigError(
            f"{origin(path, text)}: expected {', '.join(f'{known}:' for known in _READERS)} and values",
            hint="Give it as in optim.lr=loguniform:1e-5,1e-4 or text.truncation=choice:ratio,longest_first.",
        )
    return _READERS[name](path, text, items)


def _choice(path: str, text: str, items: list[str]) -> Choice:
    if not items or "" in items:
        raise ConfigError(
            f"{origin(path, text)}: there is no value to choose from", hint="Give values as in choice:16,32."
        )
    if len(set(items)) < len(items):
        raise ConfigError(f"{origin(path, text)}: a value was given twice", hint="Give each value once.")
    return Choice(values=tuple(items))


def _reader_of(kind: type[Range]) -> Callable[[str, str, list[str]], Range]:
    def read(path: str, text: str, items: list[str]) -> Range:
        if len(items) not in (2, 3):
            raise ConfigError(
                f"{origin(path, text)}: a range has two ends, but there are {len(items)} values",
                hint="Give two, as in uniform:0,0.2, and for a grid the number of points: uniform:0,0.2,5.",
            )
        low, high = (_number(path, text, item, kind) for item in items[:2])
        _check_bounds(path, text, low, high, kind)
        points = _points(path, text, items[2]) if len(items) == 3 else None
        if kind is IntegerRange and points is not None and points > high - low + 1:
            raise ConfigError(
                f"{origin(path, text)}: there are fewer than {points} whole numbers from {low:g} to {high:g}",
                hint="Leave the third number out to use all of them.",
            )
        return kind(low=low, high=high, num_points=points)

    return read


def _check_bounds(path: str, text: str, low: float, high: float, kind: type[Range]) -> None:
    if low > high:
        raise ConfigError(
            f"{origin(path, text)}: the ends are in the wrong order, {low:g} is more than {high:g}",
            hint="Give the smaller end first.",
        )
    if low == high:
        raise ConfigError(
            f"{origin(path, text)}: the range is empty, both ends are {low:g}",
            hint=f"To fix a value, leave it out of --space and give it: --set {path}={low:g}.",
        )
    if kind.is_log and low <= 0:
        raise ConfigError(
            f"{origin(path, text)}: loguniform needs ends above 0, but the first is {low:g}",
            hint="Give an end above 0, or use uniform.",
        )


def _number(path: str, text: str, item: str, kind: type[Range]) -> float:
    is_number = _WHOLE if kind is IntegerRange else _NUMBER
    if not is_number.fullmatch(item) or not math.isfinite(float(item)):
        what = "whole number" if kind is IntegerRange else "number"
        raise ConfigError(
            f"{origin(path, text)}: {item or 'nothing'} is not a {what}", hint="Give it as in 1e-5."
        )
    return float(item)


def _points(path: str, text: str, item: str) -> int:
    if not _WHOLE.fullmatch(item) or int(item) < 2:
        raise ConfigError(
            f"{origin(path, text)}: {item or 'nothing'} is not a number of points", hint="Give 2 or more."
        )
    return int(item)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_READERS: Mapping[str, Callable[[str, str, list[str]], Dimension]] = {
    "choice": _choice,
    "uniform": _reader_of(Range),
    "loguniform": _reader_of(LogRange),
    "randint": _reader_of(IntegerRange),
}
DIMENSION_KINDS = tuple(_READERS)
"""What may stand before the colon of a dimension."""
