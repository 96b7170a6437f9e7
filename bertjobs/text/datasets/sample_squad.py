"""Write small files in the format of SQuAD v1.1 and v2.0: questions about generated scenes.

A context tells of a few scenes; a question asks who does something or where, and the answer is in the
scene's sentence. In v2.0 some questions are about a scene of another context, and have no answer.
"""

import json
import random
from pathlib import Path
from typing import Any

from bertjobs.text.datasets.sample_grammar import Premise, draw_premise

NUM_CONTEXTS = {"train": 200, "dev": 40}
SCENES_PER_CONTEXT = 3
IMPOSSIBLE = 3
"""One in this many questions of v2.0 has no answer."""


def write_squad(folder: Path, rng: random.Random) -> list[Path]:
    """Write `train` and `dev` of both versions; v2.0 has the questions of v1.1 and more. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split, count in NUM_CONTEXTS.items():
        scenes = [[draw_premise(rng) for _ in range(SCENES_PER_CONTEXT)] for _ in range(count)]
        for version in ("v1.1", "v2.0"):
            paragraphs = [
                _paragraph(rng, split, i, scenes, with_impossible=version == "v2.0") for i in range(count)
            ]
            article = {"title": "Scenes", "paragraphs": paragraphs}
            path = folder / f"{split}-{version}.json"
            path.write_text(json.dumps({"version": version, "data": [article]}) + "\n", encoding="utf-8")
            written.append(path)
    return written


def _paragraph(
    rng: random.Random, split: str, number: int, scenes: list[list[Premise]], *, with_impossible: bool
) -> dict[str, Any]:
    own = scenes[number]
    context = " ".join(scene.text for scene in own)
    questions = []
    for i, scene in enumerate(own):
        question, answer = _question(scene, asks_where=(number + i) % 2 == 0)
        answer_start = context.index(scene.text) + scene.text.index(answer)
        found = {"text": answer, "answer_start": answer_start}
        qa: dict[str, Any] = {"id": f"{split}-{number}-{i}", "question": question, "answers": [found]}
        questions.append(qa | ({"is_impossible": False} if with_impossible else {}))
    if with_impossible:
        for i in range(len(own) // IMPOSSIBLE):
            other = rng.choice(scenes[(number + 1) % len(scenes)])
            question, answer = _question(other, asks_where=False)
            if other.deed not in context:
                qa = {"id": f"{split}-{number}-none-{i}", "question": question, "answers": []}
                questions.append(qa | {"is_impossible": True})
    return {"context": context, "qas": questions}


def _question(scene: Premise, *, asks_where: bool) -> tuple[str, str]:
    """Return a question about a scene, and its answer as it is in the scene's sentence."""
    be = "are" if scene.is_plural else "is"
    who = scene.text[: scene.text.index(f" {be} ")]
    if asks_where:
        return f"Where {be} {who[0].lower()}{who[1:]} {scene.deed}?", scene.place
    return f"Who {be} {scene.deed} {scene.place}?", who
