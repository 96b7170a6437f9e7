"""Questions through the training loop: what is learned, resumed, evaluated and written."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from bertjobs.config.sections import TextSection
from bertjobs.modeling.config import BertConfig
from bertjobs.storage import JobDir
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.read_split import read_split
from bertjobs.text.datasets.squad import SQUAD, SQUAD_V2
from bertjobs.text.datasets.task import Task
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.spans.squad_metrics import squad_scores
from bertjobs.text.spans.windows import WindowTable
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.vocabulary import train_wordpiece
from bertjobs.training.evaluate import evaluate
from bertjobs.training.finetune import finetune
from bertjobs.training.tasks.span import Span, SpanMetrics
from bertjobs.training.tasks.types import task_type

TEXT = TextSection(max_len=32, doc_stride=8)


@dataclass(frozen=True)
class Split:
    rows: pa.Table
    windows: WindowTable


@pytest.fixture(scope="module")
def tokenizer(sample: Path) -> Tokenizer:
    rows = _read(sample, SQUAD_V2, "train")
    return train_wordpiece(example_format(SQUAD_V2).texts(rows), vocab_size=300)


def _read(sample: Path, task: Task, split: str) -> pa.Table:
    given = {"on_bad_row": "error", "cache": sample, "require_labels": True}
    return read_split(task, str(sample / "squad"), split=split, **given).table


def make_split(sample: Path, tokenizer: Tokenizer, task: Task, split: str, *, limit: int) -> Split:
    rows = _read(sample, task, split).slice(0, limit)
    encoded = EncodedTable.from_arrow(example_format(task).encode(rows, tokenizer))
    windows = task_type(task).prepare(encoded, text=TEXT)
    assert isinstance(windows, WindowTable)
    return Split(rows, windows)


@pytest.fixture(scope="module")
def train(sample: Path, tokenizer: Tokenizer) -> Split:
    return make_split(sample, tokenizer, SQUAD_V2, "train", limit=80)


@pytest.fixture(scope="module")
def dev(sample: Path, tokenizer: Tokenizer) -> Split:
    return make_split(sample, tokenizer, SQUAD_V2, "dev", limit=40)


def make_model(tokenizer: Tokenizer, *, seed: int = 0) -> Any:
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.1,
    )
    return task_type(SQUAD_V2).build_model(config, seed=seed)


def run(
    tiny: ModuleType, folder: Path, train: Split, dev: Split, tokenizer: Tokenizer, **options: Any
) -> tuple[Any, Any, Any]:
    hooks = options.pop("hooks", None) or tiny.MemoryHooks()
    config = tiny.make_config(epochs=2, batch_size=16, checkpoint_steps=3).model_copy(update={"text": TEXT})
    model = make_model(tokenizer, seed=options.pop("seed", 0))
    result = finetune(
        model,
        config=config,
        train=train.windows,
        valid=dev.windows,
        task=Span(SQUAD_V2),
        tokenizer=tokenizer,
        metric="f1",
        job_dir=JobDir(str(folder), "j-test"),
        hooks=hooks,
        **options,
    )
    return result, model, hooks


def test_training_on_windows_lowers_the_loss_and_a_resumed_run_ends_with_the_same_bits(
    tiny: ModuleType, tmp_path: Path, train: Split, dev: Split, tokenizer: Tokenizer
) -> None:
    assert train.windows.num_rows > train.rows.num_rows  # some contexts need two windows
    whole, model, hooks = run(tiny, tmp_path / "whole", train, dev, tokenizer)
    losses = tiny.losses_of(hooks)
    assert sum(losses[-3:]) < sum(losses[:3])
    assert isinstance(whole.metrics, SpanMetrics)
    assert 0 <= whole.metrics.exact <= whole.metrics.f1 <= 1

    _, _, asked = run(tiny, tmp_path / "parts", train, dev, tokenizer, hooks=tiny.MemoryHooks(stop_after=4))
    resume = asked.published[-1]
    assert resume != hooks.published[-1]
    # New weights from another seed: everything must come from the checkpoint.
    resumed, again, _ = run(tiny, tmp_path / "parts", train, dev, tokenizer, resume=resume, seed=9)
    assert resumed.metrics == whole.metrics
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def evaluated(
    split: Split, tokenizer: Tokenizer, *, task: Task = SQUAD_V2, batch_size: int = 16, **options: Any
) -> tuple[SpanMetrics, np.ndarray]:
    outputs = np.full((split.windows.num_rows, Span(task).num_outputs), np.nan, dtype=np.float32)

    def keep(rows: np.ndarray, found: np.ndarray) -> None:
        outputs[rows] = found

    metrics = evaluate(
        make_model(tokenizer), split.windows, task=Span(task), text=TEXT, tokenizer=tokenizer,
        batch_size=batch_size, precision="fp32", on_predictions=keep, **options,
    )  # fmt: skip
    assert not np.isnan(outputs).any()
    return metrics, outputs


def test_predictions_have_the_metrics_that_the_evaluation_reports(dev: Split, tokenizer: Tokenizer) -> None:
    metrics, outputs = evaluated(dev, tokenizer)
    files = Span(SQUAD_V2).prediction_files(dev.rows, outputs)
    content = {name: json.loads(raw) for name, raw in files.items()}
    assert set(content) == {"predictions.json", "nbest.json", "null_odds.json", "scores.json"}
    ids = dev.rows["id"].to_pylist()
    assert all(list(content[name]) == ids for name in ("predictions.json", "nbest.json", "null_odds.json"))
    texts = [content["predictions.json"][i] for i in ids]
    official = squad_scores(texts, references=dev.rows["answers"].to_pylist()).official()
    assert official["exact"] == content["scores.json"]["exact"] == pytest.approx(100 * metrics.exact)
    assert official["f1"] == content["scores.json"]["f1"] == pytest.approx(100 * metrics.f1)
    assert metrics.num_has_answer + metrics.num_no_answer == metrics.num_examples == 40
    assert metrics.num_windows == dev.windows.num_rows
    columns = Span(SQUAD_V2).prediction_columns(dev.rows, outputs)
    assert columns["prediction"].to_pylist() == texts
    for text, start, end, context in zip(
        texts,
        *(columns[c].to_pylist() for c in ("start", "end")),
        dev.rows["text_b"].to_pylist(),
        strict=True,
    ):
        assert text == (context[start:end] if start >= 0 else "")


def test_a_threshold_is_tuned_where_the_task_sets_none_and_goes_with_the_model(
    dev: Split, tokenizer: Tokenizer
) -> None:
    tuned, _ = evaluated(dev, tokenizer)
    assert tuned.null_threshold_is_tuned
    assert tuned.null_threshold == tuned.best_f1_threshold
    assert tuned.f1 == pytest.approx(tuned.best_f1)
    trained = Span(SQUAD_V2).task_of_model(tuned)
    assert trained.null_threshold == tuned.null_threshold
    again, _ = evaluated(dev, tokenizer, task=Span(SQUAD_V2).evaluated_task(trained))
    assert (again.f1, again.exact) == (tuned.f1, tuned.exact)
    assert not again.null_threshold_is_tuned
    strict, _ = evaluated(dev, tokenizer, task=replace(SQUAD_V2, null_threshold=-1e6))
    assert (strict.has_answer_f1, strict.no_answer_f1) == (0.0, 1.0)
    assert Span(SQUAD_V2).evaluated_task(None).null_threshold == 0.0


def test_the_batch_size_changes_neither_metrics_nor_answers(dev: Split, tokenizer: Tokenizer) -> None:
    (one, few), (all_, many) = (evaluated(dev, tokenizer, batch_size=size) for size in (3, 1000))
    assert one.f1 == all_.f1
    assert one.loss == pytest.approx(all_.loss, rel=1e-6)
    np.testing.assert_allclose(few, many, atol=1e-5)


def test_every_question_of_v1_is_answered(sample: Path, tokenizer: Tokenizer) -> None:
    dev = make_split(sample, tokenizer, SQUAD, "dev", limit=20)
    metrics, outputs = evaluated(dev, tokenizer, task=SQUAD)
    assert metrics.null_threshold is None
    assert metrics.best_f1 is None
    assert metrics.num_no_answer == 0
    files = Span(SQUAD).prediction_files(dev.rows, outputs)
    assert set(files) == {"predictions.json", "nbest.json", "scores.json"}
    assert all(json.loads(files["predictions.json"]).values())
    assert "null_odds" not in Span(SQUAD).prediction_columns(dev.rows, outputs)


def test_questions_without_known_answers_are_predicted_and_not_counted(
    sample: Path, tokenizer: Tokenizer, dev: Split
) -> None:
    blank = pa.array([[]] * 40, pa.list_(pa.string()))
    rows = dev.rows.set_column(dev.rows.column_names.index("answers"), "answers", blank)
    rows = rows.set_column(rows.column_names.index("label"), "label", pa.array([-1] * 40, pa.int32()))
    encoded = EncodedTable.from_arrow(example_format(SQUAD_V2).encode(rows, tokenizer))
    windows = task_type(SQUAD_V2).prepare(encoded, text=TEXT)
    assert isinstance(windows, WindowTable)
    metrics, outputs = evaluated(Split(rows, windows), tokenizer)
    assert (metrics.num_examples, metrics.f1, metrics.loss) == (0, None, None)
    assert "scores.json" not in Span(SQUAD_V2).prediction_files(rows, outputs)


def test_metrics_survive_json(dev: Split, tokenizer: Tokenizer) -> None:
    metrics, _ = evaluated(dev, tokenizer)
    assert Span(SQUAD_V2).metrics_from_json(json.loads(json.dumps(metrics.to_json()))) == metrics
    assert metrics.value_of("f1") == metrics.f1
    assert metrics.value_of("loss") == -metrics.loss
