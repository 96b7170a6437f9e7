"""Write the sample corpus: short articles of a seeded grammar's sentences, laid out as WikiText is published.

A paragraph tells of one scene, so what comes next can be told from what comes from elsewhere.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from bertjobs.text.sample_grammar import Premise, draw_pair, draw_premise

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
    return " . ".join(" ".join(_words(sentence)) for sentence in sentences) + " ."


def _words(sentence: str) -> list[str]:
    return sentence.removesuffix(".").split()
