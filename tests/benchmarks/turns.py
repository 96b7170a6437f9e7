"""Let processes take turns: each does some steps while the others wait, so that all see the same machine.

The parent starts every variant as a process (`Contestant`). A process warms up, says so, and then waits for
its turn on stdin; while it waits, its threads sleep. Wall time and CPU time are kept step by step.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MARK = "turn: "
"""Begins the lines that the parent reads; whatever else a library prints is passed over."""


@dataclass
class Steps:
    """What was measured of consecutive steps."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    """Of each step, what its matrix products depend on; where the process tells it."""

    def extend(self, more: "Steps") -> None:
        """Add later steps."""
        self.wall_s += more.wall_s
        self.cpu_s += more.cpu_s
        self.shapes += more.shapes


class Turns:
    """The side of the process that takes steps: call `after_step` after each."""

    def __init__(self, *, warmup: int) -> None:
        self._warmup, self._left = warmup, 0
        self._done = Steps()
        self._began = (0.0, 0.0)

    def after_step(self, *shape: int) -> bool:
        """Count a step; at the end of a turn report it and wait for the next; return whether to go on."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        if self._warmup > 0:
            self._warmup -= 1
            return self._warmup > 0 or self._wait()
        self._done.wall_s.append(wall_s - self._began[0])
        self._done.cpu_s.append(cpu_s - self._began[1])
        self._done.shapes.append(shape)
        self._left -= 1
        if self._left == 0:
            return self._wait()
        self._began = time.perf_counter(), time.process_time()
        return True

    def _wait(self) -> bool:
        print(_MARK + json.dumps(vars(self._done)), flush=True)
        self._done = Steps()
        line = sys.stdin.readline().strip()
        self._left = int(line or 0)
        self._began = time.perf_counter(), time.process_time()
        return self._left > 0


class Contestant:
    """The parent's side of a process."""

    def __init__(self, command: Sequence[str], *, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        self.steps = Steps()
        self._read()  # it is ready

    def turn(self, request: int | str) -> Steps:
        """Let it take this many steps; return what they took."""
        self._write(str(request))
        steps = self._read()
        self.steps.extend(steps)
        return steps

    def end(self) -> None:
        """Tell it that there is no further turn, and wait for its end."""
        self._write("0")
        assert self._process.stdout
        self._process.stdout.read()  # what it still prints
        self._process.wait()

    def _write(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> Steps:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return Steps(**json.loads(line.removeprefix(_MARK)))
        raise SystemExit(f"a process ended with exit code {self._process.wait()}: see above")


def serve(measure: Any) -> None:
    """Answer requests of the parent by a function that returns `Steps`, until there are no more."""
    print(_MARK + json.dumps(vars(Steps())), flush=True)
    for line in sys.stdin:
        if line.strip() in ("", "0"):
            return
        print(_MARK + json.dumps(vars(measure(line))), flush=True)


def describe(values: Sequence[float], *, unit: str = "", digits: int = 1) -> str:
    """Return the median, and the least and the most, as text."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:8.{digits}f}{unit}  ({low:.{digits}f}..{high:.{digits}f})"


def machine() -> str:
    """Return the processor, and how busy the machine is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    load = os.getloadavg()[0]
    busy = "quiet" if load < 0.5 + len(models) else "busy"
    return f"{models[0] if models else 'processor unknown'}, {len(models)} cores, load {load:.1f} ({busy})"
