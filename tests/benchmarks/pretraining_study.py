"""Does pretraining help? The same model from a pretrained checkpoint and from random weights, over seeds.

    python tests/benchmarks/pretraining_study.py --corpus wikitext-2 --corpus-data DIR --snli DIR

Pretrains once, then fine-tunes on SNLI from that checkpoint and from random weights with its vocabulary,
with each seed, by `bertjobs run`. Prints a line per run, then mean and spread. Not a part of `make bench`: on
2 cores it takes half an hour.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the study in `--output`; what is there already is not run again."""
    given = _arguments()
    given.output.mkdir(parents=True, exist_ok=True)
    words = ["pretrain", "--corpus", given.corpus, "--model", given.size, *given.pretrain.split()]
    data = [] if given.corpus_data is None else ["--data", given.corpus_data]
    pretrained = _result(given.output / "pretrained", *words, *data)
    print(
        f"pretrained: {_shown(pretrained['metrics'], 'mlm_loss', 'mlm_accuracy', 'nsp_accuracy')}", flush=True
    )
    checkpoint = given.output / "pretrained" / "model"
    sources = {
        "pretrained": ["--model", str(checkpoint)],
        "random": ["--model", given.size, "--vocab", str(checkpoint)],
    }
    accuracies: dict[str, list[float]] = {name: [] for name in sources}
    for seed in range(given.seeds):
        for name, model in sources.items():
            finetune = ["finetune", "--task", "snli", "--data", given.snli, *model, "--seed", str(seed)]
            done = _result(given.output / f"{name}-{seed}", *finetune, *given.finetune.split())
            accuracies[name].append(done["metrics"]["accuracy"])
            print(f"{name}, seed {seed}: {_shown(done['metrics'], 'accuracy', 'mcc', 'loss')}", flush=True)
    for name, found in accuracies.items():
        print(f"{name}: mean {statistics.mean(found):.4f}, standard deviation {statistics.stdev(found):.4f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", default="wikitext-2")
    parser.add_argument("--corpus-data", help="Folder of the published corpus.")
    parser.add_argument("--snli", required=True, help="Folder of SNLI.")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain", default="--max-steps 2000 --batch-size 64 --max-len 64 --lr 1e-3")
    parser.add_argument("--finetune", default="--epochs 3 --batch-size 32 --max-len 64 --lr 3e-4")
    parser.add_argument("--output", type=Path, default=Path("pretraining-study"))
    return parser.parse_args()


def _result(folder: Path, *words: str) -> dict[str, Any]:
    """Run a command in the foreground, or read what it answered before."""
    answer = folder.with_suffix(".json")
    if not answer.exists():
        command = [
            sys.executable,
            "-m",
            "bertjobs.cli.main",
            "run",
            *words,
            "--output",
            str(folder),
            "--json",
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}")
        answer.write_text(done.stdout)
    return dict(json.loads(answer.read_text()))


def _shown(metrics: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in names)


if __name__ == "__main__":
    main()
