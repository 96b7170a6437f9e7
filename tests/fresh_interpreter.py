"""What an interpreter has loaded after it imported some modules and nothing else."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]

HEAVY = frozenset({"torch", "ray", "pyarrow", "numpy", "pandas"})
"""Libraries that no command and no dispatcher loads at its start."""


def modules_of(room: str) -> list[str]:
    """Return all modules of a room of `bertjobs`."""
    paths = sorted((ROOT / "bertjobs" / room).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def loaded_by(modules: Iterable[str], *, among: frozenset[str]) -> dict[str, list[str]]:
    """Import modules one after the other in a new interpreter.

    Returns for each module that loaded some of the packages in `among` which these are; a package counts for
    the first module that loads it.
    """
    script = (
        "import importlib, json, sys\n"
        "modules, among = json.loads(sys.argv[1])\n"
        "found = {}\n"
        "for module in modules:\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module(module)\n"
        "    new = {name.split('.')[0] for name in set(sys.modules) - before} & set(among)\n"
        "    if new: found[module] = sorted(new)\n"
        "print(json.dumps(found))\n"
    )
    argument = json.dumps([list(modules), sorted(among)])
    done = subprocess.run(
        [sys.executable, "-c", script, argument], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
