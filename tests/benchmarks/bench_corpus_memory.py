"""Peak memory of encoding a corpus, and one ten times as large: blocks bound it, whatever the size.

    BERTJOBS_TEST_DATA=<folder with data/wikitext-2> python tests/benchmarks/bench_corpus_memory.py

Both are made by repeating WikiText. Each is encoded in a process of its own, shard after shard, every block
written to disk, as a task of Ray Data does it. Goal: within 1.2 times.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bertjobs.config.pretrain import CorpusSection
from bertjobs.text.corpus.blocks import BlockInfo, encode_shard
from bertjobs.text.corpus.shards import plan_shards
from bertjobs.text.encoding import write_arrow
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tokenizer_files import load_tokenizer

GOAL = 1.2
FACTOR = 10


def main() -> None:
    """Encode both in children, and compare their peaks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--block-mib", type=int, default=4, help="data.block_bytes, in MiB")
    parser.add_argument("--blocks", type=int, default=2, help="blocks of the smaller corpus")
    parser.add_argument("--encode", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    if "BERTJOBS_TEST_DATA" not in os.environ:
        sys.exit("BERTJOBS_TEST_DATA is not set: it names the folder that holds data/wikitext-2.")
    data = Path(os.environ["BERTJOBS_TEST_DATA"]) / "data"
    if given.encode is not None:
        print(json.dumps(encode(given.encode, data, block_bytes=given.block_mib << 20)))
        return
    figures = [measure(data, given.block_mib, given.blocks * factor) for factor in (1, FACTOR)]
    show(figures)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(data: Path, block_mib: int, num_blocks: int) -> dict[str, float]:
    """Return the figures of a child that encodes so much text."""
    with tempfile.TemporaryDirectory(prefix="bertjobs-bench-") as name:
        corpus = Path(name) / "corpus.tokens"
        text = (data / "wikitext-2" / "wiki.train.tokens").read_bytes()
        with corpus.open("wb") as f:
            while f.tell() < (block_mib << 20) * num_blocks:
                f.write(text)
        command = [sys.executable, __file__, "--encode", str(corpus), "--block-mib", str(block_mib)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        figures: dict[str, float] = json.loads(done.stdout)
        return figures


def encode(corpus: Path, data: Path, *, block_bytes: int) -> dict[str, float]:
    """Encode a corpus here, and say what it took; the peak counts from the start of the process."""
    tokenizer = load_tokenizer(data / "vocab" / "bert-base-uncased-vocab.txt")
    at_start = peak_mib()
    began = time.perf_counter()
    section = CorpusSection(corpus=str(corpus), block_bytes=block_bytes)
    shards = plan_shards([SourceFile(corpus)], section)
    num_tokens = 0
    for shard in shards:
        table = encode_shard(shard, tokenizer)
        write_arrow(table, corpus.with_name(f"{shard.number}.arrow"))
        num_tokens += BlockInfo.of(table).num_tokens
    return {
        "corpus_mib": corpus.stat().st_size / (1 << 20),
        "blocks": len(shards),
        "tokens": num_tokens,
        "seconds": time.perf_counter() - began,
        "start_mib": at_start,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def show(figures: list[dict[str, float]]) -> None:
    print(
        f"{'corpus, MiB':>12} {'blocks':>7} {'tokens':>12} {'MiB/s':>6} {'start, MiB':>11} {'peak, MiB':>10}"
    )
    for row in figures:
        rate = row["corpus_mib"] / row["seconds"]
        print(
            f"{row['corpus_mib']:>12.1f} {row['blocks']:>7} {row['tokens']:>12,} {rate:>6.1f} "
            f"{row['start_mib']:>11.0f} {row['peak_mib']:>10.0f}"
        )
    ratio = figures[1]["peak_mib"] / figures[0]["peak_mib"]
    is_met = ratio <= GOAL
    print(f"peak {ratio:.2f} times; goal: within {GOAL:g} times: {'met' if is_met else 'not met'}")


if __name__ == "__main__":
    main()
