"""Encode SNLI pairs: ours beside `datasets.map` with transformers' fast tokenizer, in pairs per second.

    BERTJOBS_TEST_DATA=... python tests/benchmarks/bench_encoding.py [--repeat 10] [--rounds 3] [--json FILE]

Both start from the texts in memory, use the bert-base-uncased vocabulary and the same threads, and end with
an Arrow file on disk; neither pads. They alternate in one run, the first round is thrown away, and the ratio
is of medians. Ours keeps all ids, theirs truncates to 128: no real pair is longer. Tokenizing each distinct
word once gains more the more text there is, so the file is measured as it is and repeated. Goal: at least 3
times theirs.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "true"
if "--threads" in sys.argv:  # read once, when the library starts its pool
    os.environ["RAYON_NUM_THREADS"] = sys.argv[sys.argv.index("--threads") + 1]

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from transformers import AutoTokenizer

from bertjobs.text.datasets.read_split import read_split
from bertjobs.text.datasets.tasks import resolve_task
from bertjobs.text.encoding import encode_table, write_arrow
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.tokenizer_files import load_tokenizer

GOAL = 3.0


def main() -> None:
    """Measure in rounds, check that both agree, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=10, help="copies of the file in the larger measurement")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the first")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of the tokenizers library"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    data = os.environ.get("BERTJOBS_TEST_DATA")
    if not data:
        sys.exit(
            "BERTJOBS_TEST_DATA is not set: it names the folder that holds data/snli_1.0 and data/vocab."
        )
    datasets.disable_progress_bars()
    figures = measure(Path(data) / "data", repeat=given.repeat, num_rounds=given.rounds)
    figures |= {"machine": platform.machine(), "cpus": os.cpu_count(), "threads": given.threads}
    show(figures)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(data: Path, *, repeat: int, num_rounds: int) -> dict[str, Any]:
    """Return pairs per second of both, for the file once and repeated."""
    table = read_split(
        resolve_task("snli"), str(data / "snli_1.0"), split="train",
        on_bad_row="error", cache=data, require_labels=True,
    ).table  # fmt: skip
    ours = load_tokenizer(data / "vocab" / "bert-base-uncased-vocab.txt")
    with tempfile.TemporaryDirectory(prefix="bertjobs-bench-") as name:
        folder = Path(name)
        ours.save(folder)
        theirs = AutoTokenizer.from_pretrained(str(folder))
        check_agreement(table.slice(0, 500), ours, theirs)
        return {
            "measured": [
                alternate(pa.concat_tables([table] * copies), ours, theirs, folder, num_rounds)
                for copies in (1, repeat)
            ]
        }


def alternate(table: pa.Table, ours: Tokenizer, theirs: Any, folder: Path, num_rounds: int) -> dict[str, Any]:
    dataset = datasets.Dataset(table.select(["text_a", "text_b", "label"]))
    seconds: dict[str, list[float]] = {"ours": [], "datasets.map": []}
    for i in range(num_rounds + 1):
        seconds["ours"].append(timed(lambda: encode_here(table, ours, folder / "ours.arrow")))
        cache = folder / f"theirs-{i}-{table.num_rows}.arrow"
        seconds["datasets.map"].append(timed(lambda cache=cache: encode_there(dataset, theirs, cache)))
    rates = {name: table.num_rows / statistics.median(found[1:]) for name, found in seconds.items()}
    return {
        "pairs": table.num_rows,
        "distinct_words": num_distinct_words(table),
        "pairs_per_s": rates,
        "ratio": rates["ours"] / rates["datasets.map"],
        "seconds": seconds,
    }


def encode_here(table: pa.Table, tokenizer: Tokenizer, path: Path) -> None:
    write_arrow(encode_table(table, tokenizer), path)


def encode_there(dataset: datasets.Dataset, tokenizer: Any, path: Path) -> None:
    dataset.map(
        lambda batch: tokenizer(batch["text_a"], batch["text_b"], truncation=True, max_length=128),
        batched=True,
        cache_file_name=str(path),
        load_from_cache_file=False,
    )


def check_agreement(table: pa.Table, ours: Tokenizer, theirs: Any) -> None:
    encoded = encode_table(table, ours)
    expected = theirs(table["text_a"].to_pylist(), table["text_b"].to_pylist())["input_ids"]
    rows = zip(encoded["a"].to_pylist(), encoded["b"].to_pylist(), strict=True)
    found = [[ours.cls_id, *a, ours.sep_id, *b, ours.sep_id] for a, b in rows]
    if found != expected:
        sys.exit("The two tokenizers disagree, so there is nothing to compare.")


def num_distinct_words(table: pa.Table) -> int:
    texts = pa.concat_arrays([c for name in ("text_a", "text_b") for c in table[name].chunks])
    return len(pc.unique(pc.split_pattern(texts, " ").flatten()))


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def show(figures: dict[str, Any]) -> None:
    print(f"{figures['machine']}, {figures['cpus']} cores, {figures['threads']} threads")
    print(f"{'pairs':>8} {'distinct words':>15} {'ours, pairs/s':>14} {'datasets.map':>13} {'ratio':>6}")
    for row in figures["measured"]:
        ours, theirs = row["pairs_per_s"]["ours"], row["pairs_per_s"]["datasets.map"]
        print(
            f"{row['pairs']:>8} {row['distinct_words']:>15} {ours:>14,.0f} {theirs:>13,.0f} "
            f"{row['ratio']:>6.1f}"
        )
    is_met = all(row["ratio"] >= GOAL for row in figures["measured"])
    print(f"goal: at least {GOAL:g} times datasets.map: {'met' if is_met else 'not met'}")


if __name__ == "__main__":
    main()
