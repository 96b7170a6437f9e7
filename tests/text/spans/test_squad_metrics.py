"""SQuAD's metrics: by hand, and against the numbers of transformers 4.57.6 on random predictions.

`squad_golden.json` was written with `transformers.data.metrics.squad_metrics.squad_evaluate` from the random
predictions below.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bertjobs.text.spans.squad_metrics import (
    exact_match,
    f1_of_words,
    normalize_answer,
    squad_scores,
)

GOLDEN = json.loads((Path(__file__).parent / "squad_golden.json").read_text(encoding="utf-8"))
WORDS = [
    "the",
    "a",
    "Sea",
    "sea!",
    "River",
    "(river)",
    "of",
    "naïve",
    "1,000",
    "—",
    "An",
    "x",
    "中文",
    " ",
    "\u00a0",
]


def random_case(seed: int) -> dict[str, Any]:
    """Return predictions, references and null odds of 60 questions; the same numbers on every machine."""
    rng = random.Random(seed)  # Python keeps `random` and `choices` as they are, unlike numpy

    def text(limit: int) -> str:
        return " ".join(WORDS[int(rng.random() * len(WORDS))] for _ in range(int(rng.random() * limit)))

    references = [
        [text(5) or "x" for _ in range(int(rng.random() * 4))] if rng.random() < 0.7 else []
        for _ in range(60)
    ]
    predictions = [
        refs[0] if refs and rng.random() < 0.4 else text(4) if rng.random() < 0.8 else ""
        for refs in references
    ]
    null_odds = [round(rng.random() * 8 - 4, 1) for _ in references]
    return {"predictions": predictions, "references": references, "null_odds": null_odds}


@pytest.mark.parametrize("golden", GOLDEN["cases"], ids=lambda case: f"seed {case['seed']}")
def test_metrics_are_those_of_transformers_to_the_last_digit(golden: dict[str, Any]) -> None:
    case = random_case(golden["seed"])
    with_odds = squad_scores(**case, null_threshold=golden["null_threshold"]).official()
    assert with_odds == golden["with_odds"]
    case.pop("null_odds")
    without_odds = squad_scores(**case).official()
    assert without_odds == {key: golden["without_odds"][key] for key in without_odds}


def test_shares_are_the_official_percentages_divided_by_100() -> None:
    scores = squad_scores(["sea", "river", "x"], references=[["the sea"], ["a river bank"], ["y"]])
    exact, f1 = scores.all.shares()
    assert (exact, f1) == (1 / 3, (1 + 2 / 3) / 3)
    assert scores.official() == {
        "exact": 100.0 / 3, "f1": 100.0 * (1 + 2 / 3) / 3, "total": 3,
        "HasAns_exact": 100.0 / 3, "HasAns_f1": 100.0 * (1 + 2 / 3) / 3, "HasAns_total": 3,
    }  # fmt: skip


def test_the_best_threshold_separates_answers_from_none() -> None:
    scores = squad_scores(
        ["sea", "river", "lake", "bay"],
        references=[["sea"], ["river"], [], []],
        null_odds=[-3.0, -1.0, -0.5, 2.0],
        null_threshold=0.0,
    )
    assert scores.official()["exact"] == 75.0  # the lake is answered although it has no answer
    assert scores.best_exact is not None
    assert scores.best_exact.threshold == -1.0
    assert scores.official()["best_exact"] == scores.official()["best_f1"] == 100.0


def test_answers_are_compared_without_case_punctuation_and_articles() -> None:
    assert normalize_answer("  The (quick)  An fox, a-b ") == "quick fox ab"
    assert exact_match("the Sea!", "sea") == 1
    assert exact_match("theatre", "atre") == 0
    assert f1_of_words("the red sea", "a red river") == 0.5
    assert f1_of_words("", "the") == 1.0
    assert f1_of_words("sea", "the") == 0.0
