"""Replay runs of the campaign: `python -m tests.faults.replay SEED`, or a range of seeds: `0:1000`.

One seed: prints what happened and what was violated. A range: prints the seeds that failed and the table of
cells.
"""

import logging
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.campaign import connect, print_cells, run_seed
from redis_process import running_redis


def main(words: list[str]) -> int:
    seeds = [
        seed for word in words for seed in (range(*map(int, word.split(":"))) if ":" in word else [int(word)])
    ]
    cells: Counter[tuple[str, str]] = Counter()
    points: Counter[tuple[str, str, str]] = Counter()
    logging.disable(logging.CRITICAL if len(seeds) > 1 else logging.NOTSET)
    num_failed, began = 0, time.process_time()
    with running_redis() as server:
        client = connect(server.folder / "redis.sock")
        for seed in seeds:
            world = run_seed(client, seed)
            cells.update(fault.cell for fault in world.faults if fault.has_happened)
            points.update(world.points)
            num_failed += bool(world.violations)
            if world.violations or len(seeds) == 1:
                print(
                    f"seed {seed}",
                    *(world.trace if len(seeds) == 1 else []),
                    *world.violations,
                    sep="\n  ",
                    flush=True,
                )
    print_cells(cells)
    print(
        f"{len(seeds)} seeds, {num_failed} with a violation, "
        f"{sum(cells.values())} faults at {len(points)} points, "
        f"{time.process_time() - began:.0f} s of CPU"
    )
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
