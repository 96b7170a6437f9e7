"""What a search varies: one dimension per dotted path, read from text such as `loguniform:1e-5,1e-4`.

    choice:A,B,...          one of these values
    uniform:LOW,HIGH        a number between, evenly
    loguniform:LOW,HIGH     a number between, its logarithm evenly
    randint:LOW,HIGH        a whole number between, both ends included

For a grid a range takes a third number, how many points it becomes: `loguniform:1e-5,1e-3,5`. Values stay the
texts that the schema reads, like those of a flag; which of them are allowed is checked in `search_space`.
"""

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

_DIGITS = 4
"""Digits of a drawn number that count: more of them decide nothing, and a person reads them."""


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

    def draw(self, chance: random.Random) -> Value:
        return self.values[chance.randrange(len(self.values))]


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number between two, ends included."""

    low: float
    high: float
    num_points: int | None
    """How many points a grid makes of it."""
    is_log: ClassVar[bool] = False

    @property
    def ends(self) -> tuple[Value, ...]:
        return (self.low, self.high)

    @property
    def grid(self) -> tuple[Value, ...]:
        assert self.num_points is not None, "search_space asks for it"
        return tuple(self._at(i / (self.num_points - 1)) for i in range(self.num_points))

    def draw(self, chance: random.Random) -> Value:
        return self._at(chance.random())

    def tidy(self, value: float) -> float:
        """Return a value with a few digits, inside the range."""
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def _at(self, ratio: float) -> Value:
        return self.tidy(self.low + ratio * (self.high - self.low))


class LogRange(Range):
    """A number between two, its logarithm evenly."""

    is_log = True

    def _at(self, ratio: float) -> Value:
        return self.tidy(self.low * (self.high / self.low) ** ratio)


class WholeRange(Range):
    """A whole number between two, both included."""

    @property
    def ends(self) -> tuple[Value, ...]:
        return (int(self.low), int(self.high))

    @property
    def grid(self) -> tuple[Value, ...]:
        if self.num_points is None:
            return tuple(range(int(self.low), int(self.high) + 1))
        return super().grid

    def draw(self, chance: random.Random) -> Value:
        return chance.randint(int(self.low), int(self.high))

    def _at(self, ratio: float) -> Value:
        return round(self.low + ratio * (self.high - self.low))


Dimension = Choice | Range
Space = Mapping[str, Dimension]


def parse_space(texts: Mapping[str, str]) -> dict[str, Dimension]:
    """Read a space. Raises: ConfigError: naming the path, what was given and what a dimension looks like."""
    if not texts:
        raise ConfigError("--space: it names no parameter.", hint="Leave it out for the default space.")
    return {path: _parse(path, text) for path, text in texts.items()}


def join_space(given: Iterable[str]) -> dict[str, Any]:
    """Join what `--space` was given: `PATH=TEXT`, or YAML files of such lines. Raises: ConfigError."""
    joined: dict[str, Any] = {}
    for item in given:
        path, sep, text = item.partition("=")
        if sep and (not path or not text):
            raise ConfigError(
                f"--space {item}: expected a dotted path and a range.",
                hint="As in optim.lr=loguniform:1e-5,1e-4.",
            )
        if not sep and not Path(item).exists():
            raise ConfigError(
                f"--space {item}: there is no such file, and it is no path with a range.",
                hint="As in optim.lr=loguniform:1e-5,1e-4, or a YAML file of such lines.",
            )
        added = {path: text} if sep else read_yaml(Path(item), flag="--space")
        if twice := joined.keys() & added:
            raise ConfigError(f"--space {item}: {', '.join(sorted(twice))} was given before.")
        joined |= added
    return joined


def origin(path: str, text: str) -> str:
    """Return a dimension as its user gave it."""
    return f"--space {path}={text}"


def _parse(path: str, text: str) -> Dimension:
    name, colon, rest = text.partition(":")
    items = [item.strip() for item in rest.split(",")] if rest.strip() else []
    if not colon or name not in _READERS:
        raise ConfigError(
            f"{origin(path, text)}: expected {', '.join(f'{known}:' for known in _READERS)} and values.",
            hint="As in optim.lr=loguniform:1e-5,1e-4 or text.truncation=choice:ratio,longest_first.",
        )
    return _READERS[name](path, text, items)


def _choice(path: str, text: str, items: list[str]) -> Choice:
    if not items or "" in items:
        raise ConfigError(f"{origin(path, text)}: there is no value to choose.", hint="As in choice:16,32.")
    if len(set(items)) < len(items):
        raise ConfigError(f"{origin(path, text)}: a value stands there twice.", hint="Give each once.")
    return Choice(values=tuple(items))


def _reader_of(kind: type[Range]) -> Callable[[str, str, list[str]], Range]:
    def read(path: str, text: str, items: list[str]) -> Range:
        if len(items) not in (2, 3):
            raise ConfigError(
                f"{origin(path, text)}: a range has two ends, but there are {len(items)} values.",
                hint="As in uniform:0,0.2, with a third number for a grid: uniform:0,0.2,5.",
            )
        low, high = (_number(path, text, item, kind) for item in items[:2])
        _check_bounds(path, text, low, high, kind)
        points = _points(path, text, items[2]) if len(items) == 3 else None
        if kind is WholeRange and points is not None and points > high - low + 1:
            raise ConfigError(
                f"{origin(path, text)}: there are no {points} whole numbers from {low:g} to {high:g}.",
                hint="Leave the third number out for all of them.",
            )
        return kind(low=low, high=high, num_points=points)

    return read


def _check_bounds(path: str, text: str, low: float, high: float, kind: type[Range]) -> None:
    if low > high:
        raise ConfigError(
            f"{origin(path, text)}: the range is upside down, {low:g} is more than {high:g}.",
            hint="Give the smaller end first.",
        )
    if low == high:
        raise ConfigError(
            f"{origin(path, text)}: the range is empty, both ends are {low:g}.",
            hint=f"To fix a value, leave it out of --space and give it: --set {path}={low:g}.",
        )
    if kind.is_log and low <= 0:
        raise ConfigError(
            f"{origin(path, text)}: a log range cannot include 0 or less, and it begins at {low:g}.",
            hint="Begin above 0, or use uniform.",
        )


def _number(path: str, text: str, item: str, kind: type[Range]) -> float:
    is_number = _WHOLE if kind is WholeRange else _NUMBER
    if not is_number.fullmatch(item) or not math.isfinite(float(item)):
        what = "whole number" if kind is WholeRange else "number"
        raise ConfigError(f"{origin(path, text)}: {item or 'nothing'} is no {what}.", hint="As in 1e-5.")
    return float(item)


def _points(path: str, text: str, item: str) -> int:
    if not _WHOLE.fullmatch(item) or int(item) < 2:
        raise ConfigError(
            f"{origin(path, text)}: {item or 'nothing'} is no number of points.", hint="Give 2 or more."
        )
    return int(item)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_READERS: Mapping[str, Callable[[str, str, list[str]], Dimension]] = {
    "choice": _choice,
    "uniform": _reader_of(Range),
    "loguniform": _reader_of(LogRange),
    "randint": _reader_of(WholeRange),
}
