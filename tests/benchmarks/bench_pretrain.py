"""Pretraining tokens/s: ours beside Hugging Face's Trainer with its own collator.

    python tests/benchmarks/bench_pretrain.py [--size mini] [--steps 20] [--rounds 3] [--threads 2]

Same corpus (WikiText-2 of BERTJOBS_TEST_DATA), vocabulary of 30,522, size from random weights, batches of 32
windows of 128 tokens, dropout 0.1, same threads. `masked_lm` is beside our `--pairs none`, where neither side
pads; `pre_training`, which has the pair's head too, beside our `nsp`, whose padding does not count as tokens.
Each figure is a process of its own; they alternate, round by round, and the ratio is the median of the
rounds' ratios. Goal, with AMX: at least 3 times.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bertjobs.config.pretrain import CorpusSection, PretrainConfig
from bertjobs.modeling.build import build_pretraining
from bertjobs.modeling.config import BertConfig
from bertjobs.storage import JobDir
from bertjobs.text.corpus.blocks import Block, BlockInfo, encode_shard
from bertjobs.text.corpus.files import find_files
from bertjobs.text.corpus.shards import plan_shards
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.training.monitoring.progress import EpochResult, Progress
from bertjobs.training.precision import training_dtype
from bertjobs.training.pretraining.pretrain import pretrain

HERE = Path(__file__).parent
BESIDE = {"none": "masked_lm", "nsp": "pre_training"}
HF_STEPS = 5
"""A step of theirs takes seconds and does the same in each: few are enough."""
WARMUP_STEPS = 3


def main() -> None:
    given = arguments()
    if given.pairs:
        print(json.dumps({"tokens_per_s": ours(given)}))
        return
    names = [name for pair in BESIDE.items() for name in pair]
    rounds = [{name: measure(name, given) for name in names} for _ in range(given.rounds)]
    show(rounds, given)
    if given.json:
        given.json.write_text(json.dumps(rounds, indent=1) + "\n")


def measure(name: str, given: argparse.Namespace) -> float:
    """Run one variant in a process of its own; return its tokens/s."""
    shared = ["--size", given.size, "--threads", str(given.threads), "--batch-size", str(given.batch_size)]
    shared += ["--data", str(given.data), "--vocab", str(given.vocab)]
    if name in BESIDE:
        command = [str(Path(__file__)), "--pairs", name, "--steps", str(given.steps)]
    else:
        command = [str(HERE / "hf_pretrain_baseline.py"), "--variant", name, "--steps", str(HF_STEPS)]
    done = subprocess.run([sys.executable, *command, *shared], stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["tokens_per_s"])


class Stopwatch:
    """Hooks that time the steps after the warmup and ask to stop when there were enough."""

    def __init__(self, *, warmup: int, steps: int) -> None:
        self._warmup, self._last = warmup, warmup + steps
        self.began = self.ended = 0.0

    def on_progress(self, progress: Progress) -> None:
        if progress.step == self._warmup:
            self.began = time.perf_counter()
        if progress.step == self._last:
            self.ended = time.perf_counter()

    def on_epoch(self, result: EpochResult) -> None:
        """Not timed: it lies after the last step."""

    def before_checkpoint(self) -> None:
        """Nobody else writes."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Not timed either."""

    def should_stop(self) -> str | None:
        return "measured" if self.ended else None


def ours(given: argparse.Namespace) -> float:
    """Pretrain as a worker does, without Ray around it; return tokens/s without padding."""
    torch.set_num_threads(given.threads)
    tokenizer = load_tokenizer(given.vocab)
    blocks = {split: encoded(given, split, tokenizer) for split in ("train", "valid")}
    config = PretrainConfig.model_validate(
        {
            "objective": {"pairs": given.pairs},
            "train": {"max_steps": 10_000, "batch_size": given.batch_size},
        }
    )
    watch = Stopwatch(warmup=WARMUP_STEPS, steps=given.steps)
    size = BertConfig.of_size(given.size, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id)
    with tempfile.TemporaryDirectory() as folder:
        result = pretrain(
            build_pretraining(size, seed=0),
            config=config,
            **blocks,
            tokenizer=tokenizer,
            job_dir=JobDir(folder, "bench"),
            hooks=watch,
        )
    # Batches differ by some tokens only: the mean over all steps is that of the timed ones.
    return result.num_tokens / result.num_steps * given.steps / (watch.ended - watch.began)


@dataclass(frozen=True)
class InMemoryBlocks:
    """The blocks of a small corpus."""

    blocks: Sequence[Block]
    infos: Sequence[BlockInfo]

    def get(self, number: int) -> Block:
        return self.blocks[number]


def encoded(given: argparse.Namespace, split: str, tokenizer: Tokenizer) -> InMemoryBlocks:
    """Encode a part of a split in this process."""
    data = CorpusSection(corpus="wikitext-2", path=str(given.data), limit_documents=100)
    files = find_files("wikitext-2", str(given.data), split=split, cache=Path())
    tables = [encode_shard(shard, tokenizer) for shard in plan_shards(files, data)]
    return InMemoryBlocks([Block.from_arrow(t) for t in tables], [BlockInfo.of(t) for t in tables])


def show(rounds: list[dict[str, float]], given: argparse.Namespace) -> None:
    """Print the table with the machine and the arithmetic."""
    dtype = str(training_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "processor unknown")
    print(f"{cpu}, {given.threads} threads, {dtype}, torch {torch.__version__}")
    print(f"{given.size}, WikiText-2, batch {given.batch_size}, max_len 128; tokens/s, median (min..max)")
    for name in rounds[0]:
        values = [r[name] for r in rounds]
        print(f"  {name:14} {statistics.median(values):9.0f}  ({min(values):.0f}..{max(values):.0f})")
    for name, theirs in BESIDE.items():
        ratios = [r[name] / r[theirs] for r in rounds]
        median = statistics.median(ratios)
        print(f"  {name} / {theirs}: {median:.2f}  ({min(ratios):.2f}..{max(ratios):.2f})")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    root = os.environ.get("BERTJOBS_TEST_DATA")
    data = root and Path(root, "data", "wikitext-2")
    vocab = root and Path(root, "data", "vocab", "bert-base-uncased-vocab.txt")
    parser.add_argument("--pairs", choices=tuple(BESIDE), help="only this, and only ours")
    parser.add_argument("--data", type=Path, default=data, required=not data)
    parser.add_argument("--vocab", type=Path, default=vocab, required=not vocab)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
