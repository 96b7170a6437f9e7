"""Many seeds in pieces, and the tables of docs/faults.md.

    python -m tests.faults.report run 0:100000 FOLDER     # a file for each piece; those there are skipped
    python -m tests.faults.report write FOLDER            # the tables, into docs/faults.md

Several may run at a time, over different ranges.
"""

import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.campaign import connect, run_seed
from faults.plan import APPLICABLE, FAULTS, TARGETS
from redis_process import running_redis

PIECE = 250
PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- written by tests/faults/report.py -->\n", "<!-- end of what it writes -->\n"


def run(first: int, last: int, folder: Path) -> None:
    """Run the seeds from `first` up to `last`, and write a file for each piece."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.CRITICAL)
    for start in range(first, last, PIECE):
        path = folder / f"seeds-{start}.json"
        if not path.exists():
            found = _run_piece(range(start, min(start + PIECE, last)))
            path.with_suffix(".new").write_text(json.dumps(found))
            path.with_suffix(".new").rename(path)
            print(f"{start}: {len(found['failed'])} failed {' '.join(found['failed'])}", flush=True)


def _run_piece(seeds: range) -> dict[str, Any]:
    cells: Counter[str] = Counter()
    points: Counter[str] = Counter()
    failed = {}
    with running_redis() as server:  # a new one: its file would grow for ever
        client = connect(server.folder / "redis.sock")
        for seed in seeds:
            world = run_seed(client, seed)
            cells.update("|".join(fault.cell) for fault in world.faults if fault.has_happened)
            points.update({"|".join(point): number for point, number in world.points.items()})
            if world.violations:
                failed[str(seed)] = world.violations
    return {"num_seeds": len(seeds), "failed": failed, "cells": cells, "points": points}


def tables(pieces: list[dict[str, Any]]) -> str:
    """Return the tables over all pieces, as Markdown."""
    cells: Counter[str] = Counter()
    points: Counter[str] = Counter()
    for piece in pieces:
        cells.update(piece["cells"])
        points.update(piece["points"])
    failed = sorted(int(seed) for piece in pieces for seed in piece["failed"])
    num_seeds = sum(piece["num_seeds"] for piece in pieces)
    by_operation: Counter[tuple[str, str]] = Counter()
    for point, number in points.items():
        _, fault, place = point.split("|")
        by_operation[place.split()[1], fault] += number
    operations = sorted({operation for operation, _ in by_operation})
    return "\n".join(
        (
            f"{num_seeds:,} seeds, {cells.total():,} faults at {len(points):,} points (a process, a fault, a "
            f"call, before or after its effect). {len(failed)} seeds violated an invariant"
            f"{': ' + ', '.join(map(str, failed)) if failed else ''}.",
            "",
            "Faults by what they struck (`-`: no such fault):",
            "",
            _table(
                FAULTS,
                TARGETS,
                lambda fault, target: (
                    f"{cells[f'{target}|{fault}']:,}" if fault in APPLICABLE[target] else "-"
                ),
            ),
            "",
            "Faults by the call at which they struck:",
            "",
            _table(operations, FAULTS, lambda place, fault: f"{by_operation[place, fault]:,}"),
            "",
        )
    )


def _table(rows: Any, columns: Any, text_of: Any) -> str:
    lines = [["", *columns], ["---", *("--:" for _ in columns)]]
    lines += [[row, *(text_of(row, column) for column in columns)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(folder: Path, page: Path) -> None:
    """Put the tables of a folder's pieces between the two marks of the page."""
    pieces = [json.loads(path.read_text()) for path in sorted(folder.glob("seeds-*.json"))]
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not pieces or not mark:
        raise SystemExit(f"{folder} has no pieces, or {page} has no marks")
    page.write_text(f"{before}{BEGIN}\n{tables(pieces)}\n{END}{after}", encoding="utf-8")


def main(words: list[str]) -> int:
    """Run the command."""
    if len(words) == 3 and words[0] == "run":
        first, _, last = words[1].partition(":")
        run(int(first), int(last), Path(words[2]))
        return 0
    if len(words) == 2 and words[0] == "write":
        write(Path(words[1]), PAGE)
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
