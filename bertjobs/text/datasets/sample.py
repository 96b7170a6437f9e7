"""Write the sample data: small sets of generated sentences, in the official formats.

Labels follow from the texts, so that a tiny BERT with random weights learns them in a minute. As in SNLI
itself, the hypothesis alone says much (sleeping is a contradiction, a purpose is neutral). In the corpus a
paragraph describes one scene, so that next sentences can be distinguished from random ones.
"""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from bertjobs.text.datasets.sample_grammar import Pair, Premise, draw_pair, draw_premise, draw_sentence
from bertjobs.text.datasets.sample_squad import write_squad
from bertjobs.text.datasets.sample_tasks import write_glue, write_swag

NUM_PAIRS = {"train": 600, "dev": 150, "test": 150}
NUM_SENTENCES = {"in_domain_train": 600, "in_domain_dev": 120, "out_of_domain_dev": 120}
DISAGREEMENT = 25
"""One in this many dev pairs has no gold label, as about 2 % of the published ones."""


def write_sample(folder: Path, *, seed: int = 0) -> list[Path]:
    """Write `snli_1.0/`, `cola_public/raw/`, `squad/`, `corpus/`, `glue/` and `swag/`; return the files.

    SNLI's train and dev are jsonl, its test is txt; the corpus is laid out as WikiText. The same seed gives
    the same bytes; no premise and no sentence is in two splits.

    Raises: OSError: the folder cannot be written.
    """
    return [
        *_write_snli(folder / "snli_1.0", random.Random(f"snli {seed}")),
        *_write_cola(folder / "cola_public" / "raw", random.Random(f"cola {seed}")),
        *write_squad(folder / "squad", random.Random(f"squad {seed}")),
        *write_corpus(folder / "corpus", seed=seed),
        *write_glue(folder / "glue", seed=seed),
        *write_swag(folder / "swag", seed=seed),
    ]


def _write_snli(folder: Path, rng: random.Random) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    premises_seen: set[str] = set()
    written = []
    for split, count in NUM_PAIRS.items():
        rows = _pair_rows(rng, split, count, premises_seen)
        is_txt = split == "test"
        path = folder / f"snli_1.0_{split}.{'txt' if is_txt else 'jsonl'}"
        lines = _txt_lines(rows) if is_txt else (json.dumps(row, sort_keys=True) for row in rows)
        written.append(_write_lines(path, lines))
    return written


def _pair_rows(
    rng: random.Random, split: str, count: int, premises_seen: set[str]
) -> list[dict[str, object]]:
    """Return rows with all of SNLI's fields; a premise gets one hypothesis per label, as its authors did."""
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        premise = draw_premise(rng)
        if premise.text in premises_seen:
            continue
        premises_seen.add(premise.text)
        caption = f"{len(premises_seen):07d}.jpg#0"
        for letter, label in (("n", "neutral"), ("c", "contradiction"), ("e", "entailment")):
            pair = draw_pair(rng, premise, label)
            is_disputed = split == "dev" and len(rows) % DISAGREEMENT == DISAGREEMENT - 1
            rows.append(_row(pair, caption, f"{caption}r1{letter}", is_disputed=is_disputed))
    return rows[:count]


def _row(pair: Pair, caption: str, pair_id: str, *, is_disputed: bool) -> dict[str, object]:
    votes = ["entailment", "neutral", "contradiction"] if is_disputed else [pair.label]
    return {
        "annotator_labels": votes,
        "captionID": caption,
        "gold_label": "-" if is_disputed else pair.label,
        "pairID": pair_id,
        "sentence1": pair.premise,
        "sentence1_binary_parse": _binary_parse(pair.premise),
        "sentence1_parse": _flat_parse(pair.premise),
        "sentence2": pair.hypothesis,
        "sentence2_binary_parse": _binary_parse(pair.hypothesis),
        "sentence2_parse": _flat_parse(pair.hypothesis),
    }


_TXT_COLUMNS = (
    *("gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"),
    *("sentence1", "sentence2", "captionID", "pairID"),
    *("label1", "label2", "label3", "label4", "label5"),
)


def _txt_lines(rows: list[dict[str, object]]) -> Iterable[str]:
    yield "\t".join(_TXT_COLUMNS)
    for row in rows:
        votes = row["annotator_labels"]
        assert isinstance(votes, list)
        fields = [str(row[column]) for column in _TXT_COLUMNS[:9]]
        yield "\t".join(fields + votes + [""] * (5 - len(votes)))


def _write_cola(folder: Path, rng: random.Random) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    written = []
    for split, count in NUM_SENTENCES.items():
        is_foreign = split == "out_of_domain_dev"
        lines: list[str] = []
        while len(lines) < count:
            text, is_acceptable = draw_sentence(rng, is_foreign=is_foreign)
            if text in seen:
                continue
            seen.add(text)
            source, mark = "sg26" if is_foreign else "sd26", "" if is_acceptable else "*"
            lines.append(f"{source}\t{int(is_acceptable)}\t{mark}\t{text}")
        written.append(_write_lines(folder / f"{split}.tsv", lines))
    return written


def _write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return path


def _words(text: str) -> list[str]:
    return [*text.removesuffix(".").split(), "."]


def _binary_parse(text: str) -> str:
    """Return the words in SNLI's brackets, branching to the right."""
    *words, last = _words(text)
    return "".join(f"( {word} " for word in words) + last + " )" * len(words)


def _flat_parse(text: str) -> str:
    return "(ROOT (S " + " ".join(f"(X {word})" for word in _words(text)) + "))"


NUM_ARTICLES = {"train": 240, "valid": 24}
_NUM_PARAGRAPHS, _NUM_SENTENCES = 3, (4, 8)
_SECTIONS = ("Place", "Purpose", "Reception")


def write_corpus(folder: Path, *, seed: int = 0) -> list[Path]:
    """Write `train.tokens` and `valid.tokens`; return them. The same seed gives the same bytes.

    Raises: OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"corpus {seed}")
    written = []
    for split, num_articles in NUM_ARTICLES.items():
        path = folder / f"{split}.tokens"
        lines = (line for _ in range(num_articles) for line in _article(rng))
        path.write_text(
            "".join(f" {line} \n" if line else " \n" for line in lines), encoding="utf-8", newline="\n"
        )
        written.append(path)
    return written


def _article(rng: random.Random) -> Iterator[str]:
    premises = [draw_premise(rng) for _ in range(_NUM_PARAGRAPHS)]
    sections = [f"= {name} =" for name in rng.sample(_SECTIONS, _NUM_PARAGRAPHS - 1)]
    for heading, premise in zip([premises[0].place.title(), *sections], premises, strict=True):
        yield from ("", f"= {heading} =", "", _paragraph(rng, premise))


def _paragraph(rng: random.Random, premise: Premise) -> str:
    labels = rng.choices(("entailment", "neutral"), k=rng.randint(*_NUM_SENTENCES) - 1)
    sentences = [premise.text, *(draw_pair(rng, premise, label).hypothesis for label in labels)]
    return " . ".join(" ".join(_corpus_words(sentence)) for sentence in sentences) + " ."


def _corpus_words(sentence: str) -> list[str]:
    return sentence.removesuffix(".").split()
