"""`bertjobs.json`, which makes a folder of weights a trained artefact: its task (none where it was only
pretrained) and how texts were cut. Hugging Face's own files stand beside it and know nothing of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bertjobs
from bertjobs.config.finetune import TextSection
from bertjobs.errors import ModelError
from bertjobs.text.tasks import Task

FILE = "bertjobs.json"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What a job knows of the model it made."""

    task: Task | None
    """None where it was pretrained: there is no classifier then."""
    text: TextSection
    """How texts were cut; of a pretrained model only `max_len` was used."""
    trained_by: str
    """The job that made it."""

    def write(self, folder: Path) -> None:
        document = {
            "version": bertjobs.__version__,
            "task": None if self.task is None else self.task.to_json(),
            "text": self.text.model_dump(),
            "trained_by": self.trained_by,
        }
        (folder / FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_artefact(folder: Path) -> Artefact | None:
    """Read it; None where the folder was not made by bertjobs. Raises: ModelError: it is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        task = document["task"]
        return Artefact(
            task=None if task is None else Task.from_json(task),
            text=TextSection.model_validate(document["text"]),
            trained_by=document["trained_by"],
        )
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError(f"{path} is damaged: {e}.", hint="Train again, or give another --model.") from e
