"""Does pretraining help? The same model from a pretrained checkpoint and from random weights, over seeds.

    python tests/benchmarks/pretraining_study.py --snli DIR [--corpus wikitext-2 --corpus-data DIR]

Pretrains once, then fine-tunes on SNLI from that checkpoint and from random weights with its vocabulary,
with each seed and each number of labelled pairs, by `bertjobs run`. Without `--corpus` it pretrains on the
texts of SNLI's training file without their labels: a premise and its hypotheses are one document, a sentence
a line (Gururangan et al. 2020, "Don't Stop Pretraining", section 4, calls it task-adaptive). Prints a line
per run, then mean and spread, and draws `pretraining.png`. A second call goes on where the first one was
broken off. Not a part of `make bench`: on 2 cores it takes half an hour.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

STARTS = {"pretrained": "#1f5fa8", "random": "#7a7a7a"}
"""Where the weights come from, and in which colour it is drawn."""
CAPTIONS = "--sentences line --segments sentence --vocab-size 4096"


def main() -> None:
    """Run the study in `--output`; what is there already is not run again."""
    given = _arguments()
    given.output.mkdir(parents=True, exist_ok=True)
    pretrained = _result(given.output / "pretrained", *_pretrain_words(given))
    print(
        f"pretrained: {_shown(pretrained['metrics'], 'mlm_loss', 'mlm_accuracy', 'frequency_loss')}",
        flush=True,
    )
    found = {limit: _accuracies(given, limit, epochs) for limit, epochs in given.pairs}
    for limit, of_starts in found.items():
        for start, values in of_starts.items():
            print(f"{limit} pairs, {start}: mean {statistics.mean(values):.4f}, {_spread(values)}")
    _draw(found, given.output / "pretraining.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", help="What to pretrain on; default: the texts of SNLI's training file.")
    parser.add_argument("--corpus-data", help="Folder of a published corpus.")
    parser.add_argument("--snli", type=Path, required=True, help="Folder of SNLI.")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain", default="--max-steps 4000 --batch-size 64 --max-len 64 --lr 2e-3")
    parser.add_argument("--finetune", default="--batch-size 32 --max-len 64 --lr 5e-4")
    parser.add_argument(
        "--pairs",
        type=lambda text: tuple(int(part) for part in text.split(":")),
        nargs="+",
        default=[(500, 16), (2000, 8), (8580, 4)],
        metavar="PAIRS:EPOCHS",
        help="Labelled pairs to train on, and for how many epochs.",
    )
    parser.add_argument("--output", type=Path, default=Path("pretraining-study"))
    return parser.parse_args()


def _pretrain_words(given: argparse.Namespace) -> list[str]:
    words = ["pretrain", "--model", given.size, "--warmup-ratio", "0.1", *given.pretrain.split()]
    if given.corpus is None:
        corpus = given.output / "captions.jsonl"
        _write_captions(given.snli / "snli_1.0_train.jsonl", corpus)
        return [*words, "--corpus", str(corpus), *CAPTIONS.split()]
    data = [] if given.corpus_data is None else ["--data", given.corpus_data]
    return [*words, "--corpus", given.corpus, *data]


def _write_captions(snli: Path, corpus: Path) -> None:
    """Write each premise with its hypotheses as a document of lines; labels are not read."""
    hypotheses: dict[str, list[str]] = {}
    with snli.open(encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            hypotheses.setdefault(row["sentence1"].strip(), []).append(row["sentence2"].strip())
    lines = (json.dumps({"text": "\n".join([premise, *those])}) for premise, those in hypotheses.items())
    corpus.write_text("".join(f"{line}\n" for line in lines))


def _accuracies(given: argparse.Namespace, limit: int, epochs: int) -> dict[str, list[float]]:
    """Fine-tune on so many pairs from both starts with each seed; return the development accuracies."""
    checkpoint = str(given.output / "pretrained" / "model")
    models = {
        "pretrained": ["--model", checkpoint],
        "random": ["--model", given.size, "--vocab", checkpoint],
    }
    found: dict[str, list[float]] = {start: [] for start in STARTS}
    for seed in range(given.seeds):
        for start, model in models.items():
            words = ["finetune", "--task", "snli", "--data", str(given.snli), *model, "--seed", str(seed)]
            words += ["--limit-train", str(limit), "--epochs", str(epochs), *given.finetune.split()]
            done = _result(given.output / f"{start}-{limit}-{seed}", *words)
            found[start].append(done["metrics"]["accuracy"])
            shown = _shown(done["metrics"], "accuracy", "mcc", "loss")
            print(f"{limit} pairs, {start}, seed {seed}: {shown}", flush=True)
    return found


def _result(folder: Path, *words: str) -> dict[str, Any]:
    """Run a command in the foreground, or read what it answered before."""
    answer = folder.with_suffix(".json")
    if not answer.exists():
        bertjobs = [sys.executable, "-m", "bertjobs", "run"]
        command = [*bertjobs, *words, "--output", str(folder), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}")
        answer.write_text(done.stdout)
    return dict(json.loads(answer.read_text()))


def _draw(found: dict[int, dict[str, list[float]]], path: Path) -> None:
    """Draw each seed's accuracy as a dot over the number of pairs, and the means as lines."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for start, colour in STARTS.items():
        means = [statistics.mean(of_starts[start]) for of_starts in found.values()]
        axes.plot(list(found), means, color=colour, linewidth=2, label=f"{start} weights")
        for limit, of_starts in found.items():
            axes.plot([limit] * len(of_starts[start]), of_starts[start], "o", color=colour, alpha=0.5)
    axes.axhline(1 / 3, color="#7a7a7a", linestyle="--", linewidth=1, label="chance")
    axes.set_xscale("log")
    axes.set_xticks(list(found), [f"{limit:,}" for limit in found])
    axes.minorticks_off()
    axes.set(xlabel="labelled training pairs", ylabel="accuracy, development pairs")
    axes.set_title("SNLI: the same model from pretrained and from random weights", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(path)


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"standard deviation {deviation:.4f}"


def _shown(metrics: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in names)


if __name__ == "__main__":
    main()
