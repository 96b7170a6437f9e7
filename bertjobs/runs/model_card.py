"""The card of a trained model: README.md in its folder, in the format of Hugging Face's model cards.

What users named (tasks, labels, models) is escaped, so that it is shown as text and cannot end the YAML or a
block. Paths of the machine that trained it are left out: a card is what travels with a model.

Source: the Hub's documentation, "Model cards" and "Model card metadata" (`model-index`).
"""

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import bertjobs
from bertjobs.config import FinetuneConfig, PretrainConfig
from bertjobs.config.difference import changed_values
from bertjobs.text.corpus.files import PUBLISHED_CORPORA
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import BUILT_IN

CARD_FILE = "README.md"
_PIPELINES = {
    "classification": "text-classification",
    "multi_label": "text-classification",
    "regression": "text-classification",
    "multiple_choice": "multiple-choice",
    "span": "question-answering",
}
"""Names of the Hub for what a model does, by type of task."""
_PRETRAINED = "fill-mask"
_PATHS = frozenset({"data.path", "data.valid", "model.vocab", "origin.from_trial"})
"""Parameters that may name a file of this machine."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-!|~$])")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is said of a model."""

    kind: str
    """Of the job that trained it: `finetune` or `pretrain`."""
    config: FinetuneConfig | PretrainConfig
    task: Task | None
    """None where it was pretrained."""
    metrics: Mapping[str, Any]
    """Of its weights; only numbers are shown."""
    split: str
    """What the metrics are from."""
    trained_by: str
    """Id of the job."""

    def write(self, folder: Path) -> None:
        """Write the card beside the model's other files, from which it takes the model's class."""
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = self.text(model_class=described["architectures"][0])
        (folder / CARD_FILE).write_text(text, encoding="utf-8")

    def text(self, *, model_class: str) -> str:
        """Return the card. model_class: of transformers, as in `BertForSequenceClassification`."""
        front = yaml.safe_dump(self.front_matter(), sort_keys=False, allow_unicode=True)
        return f"---\n{front}---\n\n" + "\n\n".join([
            f"# {escaped(self.title)}",
            self._summary(),
            f"## Results on the {escaped(self.split)}",
            self._results(),
            "## Use",
            self._use(model_class),
            "## Training",
            self._training(),
        ]) + "\n"  # fmt: skip

    @property
    def title(self) -> str:
        return f"BERT for {self.task.name}" if self.task else "Pretrained BERT"

    def front_matter(self) -> dict[str, Any]:
        """Return the metadata that the Hub reads."""
        pipeline = _PIPELINES[self.task.type] if self.task else _PRETRAINED
        data = one_line(self.task.name if self.task else self._corpus())
        is_known = data in BUILT_IN or data in PUBLISHED_CORPORA
        metrics = [{"type": name, "value": value} for name, value in _numbers(self.metrics).items()]
        result = {
            "task": {"type": pipeline},
            "dataset": {"name": data, "type": data if is_known else "text", "split": self.split},
            "metrics": metrics,
        }
        base = self._base_model()
        return {
            "library_name": "transformers",
            "pipeline_tag": pipeline,
            **({"base_model": base} if base else {}),
            **({"datasets": [data]} if is_known else {}),
            "tags": ["bert", "bertjobs"],
            "model-index": [{"name": self.trained_by, "results": [result]}],
        }

    def _corpus(self) -> str:
        """Return the name of a published corpus; of one's own only the last part of its path."""
        assert isinstance(self.config, PretrainConfig), "a model without a task was pretrained"
        return Path(self.config.data.corpus or "corpus").name

    def _base_model(self) -> str | None:
        """Return the model of the Hub that training began with; None: another, or random weights."""
        source = str(self.config.model.source)
        return source if "/" in source and _HUB_NAME.fullmatch(source) else None

    def _summary(self) -> str:
        if self.task is None:
            what = "A BERT encoder, pretrained on masked words"
        elif self.task.type in ("classification", "multi_label", "regression"):
            labels = ", ".join(escaped(label) for label in self.task.labels)
            what = f"A BERT, fine-tuned as {self.task.type.replace('_', '-')}" + (
                f" with the labels {labels}" if labels else ""
            )
        else:
            what = f"A BERT, fine-tuned for {self.task.type.replace('_', ' ')}"
        base = self._base_model()
        began = f"from {escaped(base)}" if base else "from a model of its trainer, or random weights"
        return f"{what}, {began}. Trained by bertjobs {bertjobs.__version__}, job {escaped(self.trained_by)}."

    def _results(self) -> str:
        rows = [f"| {escaped(name)} | {value:.4g} |" for name, value in _numbers(self.metrics).items()]
        return "\n".join(["| metric | value |", "|---|---|", *rows])

    def _use(self, model_class: str) -> str:
        program = [
            f"from transformers import AutoTokenizer, {model_class}",
            "",
            'folder = "..."  # where this file is',
            f"model = {model_class}.from_pretrained(folder)",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
        ]
        commands = ['bertjobs encode "some text" --model FOLDER']
        if self.task is not None:
            # A name of ours is safe in a shell; that of a task file is the user's.
            name = self.task.name if self.task.name in BUILT_IN else "TASK.yaml"
            commands.insert(0, f"bertjobs submit evaluate --model FOLDER --task {name} --split test")
        else:
            commands.insert(0, "bertjobs submit finetune --model FOLDER --task snli")
        return f"{_block('python', program)}\n\n{_block('sh', commands)}"

    def _training(self) -> str:
        changed = changed_values(self.kind, self.config.model_dump(mode="json"))
        values = {c.path: c.value for c in changed if c.path not in _PATHS and not _is_path(c.value)}
        lines = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).splitlines() if values else ["{}"]
        versions = (
            f"bertjobs {bertjobs.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
        )
        return (
            "Parameters that differ from the defaults of bertjobs, without the paths of files:\n\n"
            f"{_block('yaml', lines)}\n\nVersions: {versions}."
        )


def escaped(text: str) -> str:
    """Return a text as Markdown that shows it: on one line, without markup or HTML."""
    return _MARKUP.sub(
        r"\\\1", one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )


def one_line(text: str) -> str:
    """Return a text without line breaks and what is not printable."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _block(language: str, lines: list[str]) -> str:
    """Return a block of code, fenced by more backticks than it has in a row."""
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float | int]:
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith((".", "/", "~")) or "://" in value)
