"""`make bench`: every benchmark, one after the other, each a process of its own. Names given run only those.

    python tests/benchmarks/run_all.py [encoding cli ...]

Each prints a table with its goal; together about half an hour on 2 idle cores. Those that need the real data
are left out, and named, where BERTJOBS_TEST_DATA is not set.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NEEDS_DATA = {"train", "pretrain", "encoding", "masking", "corpus_memory", "represent", "squad"}


def main() -> int:
    """Run them; return 1 if one failed."""
    found = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    wanted = sys.argv[1:] or found
    unknown = sorted(set(wanted) - set(found))
    if unknown:
        sys.exit(f"There is no benchmark {', '.join(unknown)}. There are: {', '.join(found)}.")
    failed = []
    for name in wanted:
        print(f"\n=== {name}", flush=True)
        if name in NEEDS_DATA and "BERTJOBS_TEST_DATA" not in os.environ:
            print("left out: BERTJOBS_TEST_DATA does not name a folder with the real data")
            continue
        began = time.monotonic()
        done = subprocess.run([sys.executable, str(HERE / f"bench_{name}.py")])
        print(f"--- {name}: exit code {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
        failed += [name] if done.returncode else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
