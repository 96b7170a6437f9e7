"""Write the sample's GLUE and SWAG: small sets of generated sentences in the official formats.

Each is learnable from the words alone, as the rest of the sample. GLUE's test sets have no labels, as on its
server; SWAG's has.
"""

import csv
import io
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bertjobs.text.datasets.sample_grammar import Premise, draw_pair, draw_premise

NUM_ROWS = {"train": 240, "dev": 60, "test": 30}
_NLI = ("entailment", "neutral", "contradiction")

Draw = Callable[[random.Random, Premise, int], tuple[Sequence[str], str]]
"""Returns the texts of the n-th example about a scene, and its label."""


def write_glue(folder: Path, *, seed: int) -> list[Path]:
    """Write the folders of GLUE but CoLA's; return the files. The same seed gives the same bytes."""
    written = []
    for name, (header, draw) in _TASKS.items():
        splits = _SPLITS_OF_MNLI if name == "MNLI" else {split: split for split in NUM_ROWS}
        rng = random.Random(f"{name} {seed}")
        seen: set[str] = set()
        for file, split in splits.items():
            rows = _rows(rng, NUM_ROWS[split], draw=draw, seen=seen)
            path = folder / name / f"{file}.tsv"
            written.append(_write(path, _tsv(rows, header=header, has_labels=split != "test")))
    return written


def write_swag(folder: Path, *, seed: int) -> list[Path]:
    """Write `train.csv`, `val.csv` and `test.csv`; return them. The same seed gives the same bytes."""
    rng, seen = random.Random(f"swag {seed}"), set[str]()
    written = []
    for split, file in (("train", "train"), ("dev", "val"), ("test", "test")):
        rows = _rows(rng, NUM_ROWS[split], draw=_endings, seen=seen)
        written.append(_write(folder / f"{file}.csv", _csv(rows, split)))
    return written


def _rows(
    rng: random.Random, count: int, *, draw: Draw, seen: set[str]
) -> Iterator[tuple[int, Sequence[str], str]]:
    """Yield number, texts and label; no scene is in two splits."""
    number = 0
    while number < count:
        premise = draw_premise(rng)
        if premise.text in seen:
            continue
        seen.add(premise.text)
        yield number, *draw(rng, premise, number)
        number += 1


def _tsv(
    rows: Iterator[tuple[int, Sequence[str], str]], *, header: tuple[str, ...], has_labels: bool
) -> Iterator[str]:
    """Yield the lines of a file, whose columns `header` names: `NAME=WHAT`, or `NAME` of one that is filled.

    Labels are left out of test sets, which have an index instead.
    """
    names = [column.partition("=")[0] for column in header]
    places = [column.partition("=")[2] for column in header]
    shown = [i for i, place in enumerate(places) if has_labels or place != "label"]
    index = [] if has_labels or "index" in names else ["index"]
    yield "\t".join([*index, *(names[i] for i in shown)])
    for number, texts, label in rows:
        cells = {"0": texts[0], "1": texts[-1], "label": label, "number": str(number)}
        yield "\t".join([*(str(number) for _ in index), *(cells.get(places[i], "none") for i in shown)])


def _csv(rows: Iterator[tuple[int, Sequence[str], str]], split: str) -> Iterator[str]:
    header = ("", "video-id", "fold-ind", "startphrase", "sent1", "sent2", "gold-source")
    yield from _csv_lines((*header, "ending0", "ending1", "ending2", "ending3", "label"))
    for number, (scene, begin, *endings), label in rows:
        start = f"{scene} {begin}"
        cells = (str(number), f"sample_{split}_{number}", str(number), start, scene, begin, "gold")
        yield from _csv_lines((*cells, *endings, label))


def _csv_lines(cells: Sequence[str]) -> Iterator[str]:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    yield line.getvalue()


def _write(path: Path, lines: Iterator[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return path


def _mood(rng: random.Random, premise: Premise, number: int) -> tuple[Sequence[str], str]:
    """A sentence about a film, which was good or bad (SST-2)."""
    is_good = number % 2 == 1
    praise = rng.choice(("a joy to watch", "warm and funny", "one of the best films of the year"))
    blame = rng.choice(("a waste of time", "dull and far too long", "a mess from start to end"))
    scene = premise.text.removesuffix(".").lower()
    return (f"the part where {scene} is {praise if is_good else blame} .",), str(int(is_good))


def _paraphrase(rng: random.Random, premise: Premise, number: int) -> tuple[Sequence[str], str]:
    """The same scene in other words, or something else (MRPC, QQP)."""
    is_same = number % 2 == 1
    other = draw_pair(rng, premise, "entailment" if is_same else "contradiction").hypothesis
    return (premise.text, other), str(int(is_same))


def _similarity(rng: random.Random, premise: Premise, number: int) -> tuple[Sequence[str], str]:
    """A pair with a score from 0 to 5, by what the second sentence says of the first (STS-B)."""
    label, score = (("entailment", 4.2), ("neutral", 2.8), ("contradiction", 1.2), ("", 5.0))[number % 4]
    other = draw_pair(rng, premise, label).hypothesis if label else premise.text
    score += rng.choice((0.0, 0.2, 0.4)) if label else 0.0
    return (premise.text, other), f"{score:.3f}"


def _inference(labels: Sequence[str], kinds: Sequence[str]) -> Draw:
    """Return what draws pairs of these kinds in turn, each with its label (MNLI, RTE, WNLI)."""

    def draw(rng: random.Random, premise: Premise, number: int) -> tuple[Sequence[str], str]:
        kind = kinds[number % len(kinds)]
        return (premise.text, draw_pair(rng, premise, kind).hypothesis), labels[number % len(labels)]

    return draw


def _question(rng: random.Random, premise: Premise, number: int) -> tuple[Sequence[str], str]:
    """A question about a place, and a sentence that answers it or is about something else (QNLI)."""
    is_answered = number % 2 == 0
    question = f"Who is {premise.deed}?"
    other = premise.text if is_answered else draw_pair(rng, premise, "contradiction").hypothesis
    return (question, other), "entailment" if is_answered else "not_entailment"


def _endings(rng: random.Random, premise: Premise, number: int) -> tuple[Sequence[str], str]:
    """A scene, how the next sentence begins, and four endings: the one with the same deed is right (SWAG)."""
    right = rng.randrange(4)
    others: list[str] = []
    while len(others) < 3:
        deed = draw_premise(rng).deed
        if deed != premise.deed and deed not in others:
            others.append(deed)
    others.insert(right, premise.deed)
    return (premise.text, "This is about", *(f"{deed}." for deed in others)), str(right)


_MNLI_COLUMNS = (
    *("index=number", "promptID", "pairID", "genre"),
    *("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"),
    *("sentence1=0", "sentence2=1", "label1=label", "gold_label=label"),
)
_SPLITS_OF_MNLI = {
    "train": "train",
    "dev_matched": "dev",
    "dev_mismatched": "dev",
    "test_matched": "test",
    "test_mismatched": "test",
}
_QQP_COLUMNS = ("id=number", "qid1", "qid2", "question1=0", "question2=1", "is_duplicate=label")
_STSB_COLUMNS = (
    *("index=number", "genre", "filename", "year", "old_index", "source1", "source2"),
    *("sentence1=0", "sentence2=1", "score=label"),
)
_PAIR_COLUMNS = ("index=number", "sentence1=0", "sentence2=1", "label=label")
_TWO_LABELS = ("entailment", "not_entailment")

_TASKS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "SST-2": (("sentence=0", "label=label"), _mood),
    "MRPC": (("Quality=label", "#1 ID", "#2 ID", "#1 String=0", "#2 String=1"), _paraphrase),
    "QQP": (_QQP_COLUMNS, _paraphrase),
    "STS-B": (_STSB_COLUMNS, _similarity),
    "MNLI": (_MNLI_COLUMNS, _inference(_NLI, _NLI)),
    "QNLI": (("index=number", "question=0", "sentence=1", "label=label"), _question),
    "RTE": (_PAIR_COLUMNS, _inference(_TWO_LABELS, ("entailment", "contradiction"))),
    "WNLI": (_PAIR_COLUMNS, _inference(("1", "0"), ("entailment", "contradiction"))),
}
"""The header of each file, with what its columns hold, and what draws its examples."""
