"""A very small model, rows it can learn, and hooks that remember; on the CPU, in fp32 unless told otherwise.

Tests get this module as the fixture `tiny`, `two_ranks_worker.py` imports it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch.distributed as dist

from bertjobs.config.finetune import FinetuneConfig
from bertjobs.modeling.build import build_classifier
from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.heads import BertForSequenceClassification
from bertjobs.storage import JobDir
from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.task import Task
from bertjobs.text.encoding import EncodedTable
from bertjobs.training.finetune import finetune
from bertjobs.training.monitoring.progress import EpochResult, FinetuneResult, Progress
from bertjobs.training.tasks.classification import Classification

VOCAB_SIZE = 120
LABELS = ("no", "maybe", "yes")
TASK = Classification(
    Task(
        name="marks",
        labels=LABELS,
        label_values=LABELS,
        metric="accuracy",
        format="table",
        columns=Columns(text_a="a", text_b="b", label="label"),
        no_label=None,
    )
)
BF16_EPS = 2.0**-8
"""The share by which rounding to bf16 changes a number at most: what two runs in bf16 may differ by."""


@dataclass(frozen=True)
class SpecialTokens:
    """Stands in for a tokenizer where only these ids are read."""

    cls_id: int = 1
    sep_id: int = 2
    pad_id: int = 0


@dataclass
class MemoryHooks:
    """Remembers all calls; may ask to stop after `stop_after` steps, or die before a checkpoint counts."""

    stop_after: int | None = None
    before_publish: Callable[[str, int], None] | None = None
    before_write: Callable[[], None] | None = None
    progress: list[Progress] = field(default_factory=list)
    epochs: list[EpochResult] = field(default_factory=list)
    published: list[str] = field(default_factory=list)

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def on_epoch(self, result: EpochResult) -> None:
        self.epochs.append(result)

    def before_checkpoint(self) -> None:
        if self.before_write:
            self.before_write()

    def publish_checkpoint(self, name: str, step: int) -> None:
        if self.before_publish:
            self.before_publish(name, step)
        self.published.append(name)

    def should_stop(self) -> str | None:
        is_time = self.stop_after is not None and self.progress[-1].step >= self.stop_after
        return "asked to" if is_time else None


def make_table(num_rows: int, *, seed: int, is_pair: bool = True) -> EncodedTable:
    """Rows of random wordpieces from 10 to 79; the label is which mark, 3 to 5, ends the second text."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(LABELS), num_rows)
    marked = [[*rng.integers(10, 80, rng.integers(1, 9)), 3 + label] for label in labels]
    plain = [rng.integers(10, 80, rng.integers(1, 12)).tolist() for _ in labels]
    columns: dict[str, Any] = {"a": plain, "b": marked} if is_pair else {"a": marked}
    arrays = {name: pa.array(rows, pa.list_(pa.uint16())) for name, rows in columns.items()}
    arrays["label"] = pa.array(labels, pa.int32())
    arrays["index"] = pa.array(np.arange(num_rows), pa.int64())
    return EncodedTable.from_arrow(pa.table(arrays))


def make_model(
    *, dropout: float = 0.1, seed: int = 0, num_labels: int = 3, spread: float = 0.02
) -> BertForSequenceClassification:
    """Draw weights with this standard deviation: with 0.2 they learn in some ten steps, 0.02 is BERT's."""
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=spread,
    )
    return build_classifier(config, num_labels=num_labels, seed=seed)


def make_config(*, optim: dict[str, Any] | None = None, **train: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate(
        {
            "text": {"max_len": 32},
            "optim": {"lr": 3e-3, **(optim or {})},
            "train": {"batch_size": 8, "precision": "fp32", **train},
        }
    )


def destroy_process_group() -> None:
    """Destroy the process group, and check that nothing keeps it: its threads would outlive Python's end."""
    dist.destroy_process_group()
    threads = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    assert not [name for name in threads if "gloo" in name], threads


def run_finetune(
    folder: Path,
    config: FinetuneConfig,
    *,
    num_rows: int = 70,
    hooks: MemoryHooks | None = None,
    model: BertForSequenceClassification | None = None,
    train: EncodedTable | None = None,
    metric: str = "accuracy",
    writes_behind: bool = False,
    **others: Any,
) -> tuple[FinetuneResult, BertForSequenceClassification, MemoryHooks]:
    """Run `finetune` in one call; 70 rows at batch 8 are 9 steps an epoch, the last with 6 rows.

    writes_behind: else each checkpoint is published at its step, however fast the disk is.
    """
    model = model or make_model()
    hooks = hooks or MemoryHooks()
    result = finetune(
        model,
        config=config,
        train=train or make_table(num_rows, seed=1),
        valid=make_table(40, seed=2),
        task=TASK,
        tokenizer=SpecialTokens(),
        metric=metric,
        job_dir=JobDir(str(folder), "j-test"),
        hooks=hooks,
        writes_behind=writes_behind,
        **others,
    )
    return result, model, hooks


def losses_of(hooks: MemoryHooks) -> list[float]:
    return [progress.loss for progress in hooks.progress]
