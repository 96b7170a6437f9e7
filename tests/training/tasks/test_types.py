"""Each type of task beside `transformers` with the same weights and features, and the official metrics."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
import sklearn.metrics
import torch
import transformers

from bertjobs.config.finetune import ModelSection
from bertjobs.config.sections import TextSection
from bertjobs.errors import ModelError
from bertjobs.modeling import BertConfig, load_weights, save_pretrained
from bertjobs.text.datasets.glue import STSB
from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.swag import SWAG
from bertjobs.text.datasets.task import Task, choice_labels
from bertjobs.text.encoding import EncodedTable
from bertjobs.training.batches import BatchLoader
from bertjobs.training.distributed import current_ranks
from bertjobs.training.evaluate import evaluate
from bertjobs.training.metrics import metrics_of
from bertjobs.training.tasks.regression import mean_ranks, regression_metrics
from bertjobs.training.tasks.task_type import TaskModel, TaskType
from bertjobs.training.tasks.types import task_type

TEXT = TextSection(max_len=24)
CPU = torch.device("cpu")
MARKS = Task(
    name="marks", labels=("no", "maybe", "yes"), label_values=("no", "maybe", "yes"), metric="accuracy",
    format="table", columns=Columns(text_a="a", text_b="b", label="label"), no_label=None,
)  # fmt: skip
SETS = Task(**{**vars(MARKS), "type": "multi_label", "metric": "f1_micro"})
TASKS = {"classification": MARKS, "multi_label": SETS, "regression": STSB, "multiple_choice": SWAG}
THEIRS = {
    "classification": (transformers.AutoModelForSequenceClassification, {"num_labels": 3}),
    "multi_label": (
        transformers.AutoModelForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "regression": (
        transformers.AutoModelForSequenceClassification, {"num_labels": 1, "problem_type": "regression"},
    ),
    "multiple_choice": (transformers.AutoModelForMultipleChoice, {}),
}  # fmt: skip
TYPES = pytest.mark.parametrize("name", sorted(TASKS))


def rows_of(name: str, tiny: ModuleType, num_rows: int = 22, *, labelled: bool = True) -> EncodedTable:
    """Random rows of a type; some are longer than `TEXT` allows."""
    rng = np.random.default_rng(7)
    table = tiny.make_table(num_rows, seed=3)
    columns: dict[str, Any] = {
        "a": pa.array([rng.integers(10, 80, rng.integers(1, 14)).tolist() for _ in range(num_rows)], IDS),
        "index": pa.array(np.arange(num_rows), pa.int64()),
    }
    texts = [[rng.integers(10, 80, rng.integers(1, 18)).tolist() for _ in range(4)] for _ in range(num_rows)]
    if name == "multiple_choice":
        columns["b"] = pa.array(texts, pa.list_(IDS))
        labels = pa.array(rng.integers(0, 4, num_rows), pa.int32())
    else:
        columns["b"] = pa.array([row[0] for row in texts], IDS)
        labels = pa.array(table.labels)
        if name == "regression":
            labels = pa.array(rng.random(num_rows) * 5, pa.float32())
        if name == "multi_label":
            labels = pa.array(rng.integers(0, 8, num_rows), pa.int64())
    if not labelled:
        labels = pa.array(np.full(num_rows, np.nan if name == "regression" else -1), labels.type)
    return EncodedTable.from_arrow(pa.table(columns | {"label": labels}))


IDS = pa.list_(pa.uint16())


def config_of(tiny: ModuleType) -> BertConfig:
    config: BertConfig = tiny.make_model(spread=0.2).config
    return config


def loader_of(table: EncodedTable, task: TaskType[Any], tiny: ModuleType) -> BatchLoader:
    return BatchLoader(
        table, text=TEXT, tokenizer=tiny.SpecialTokens(), max_tokens=4096, ranks=current_ranks(),
        vocab_size=tiny.VOCAB_SIZE, targets=task.targets,
    )  # fmt: skip


def outputs_of(model: TaskModel, table: EncodedTable, task: TaskType[Any], tiny: ModuleType) -> np.ndarray:
    """What is kept of each row's prediction, in the order of the table."""
    outputs = np.full((table.num_rows, task.num_outputs), np.nan, dtype=np.float32)

    def add(rows: np.ndarray, found: np.ndarray) -> None:
        outputs[rows] = found

    evaluate(
        model, table, task=task, text=TEXT, tokenizer=tiny.SpecialTokens(), batch_size=8, precision="fp32",
        on_predictions=add,
    )  # fmt: skip
    assert not np.isnan(outputs).any()
    return outputs


def their_features(table: EncodedTable, row: int) -> dict[str, torch.Tensor]:
    """The sequences of a row as `transformers` takes them, built from lists: one or one per ending."""
    ids, segments = [], []
    for sequence in table.sequences_of(np.array([row])).tolist():
        a = table.a_ids[table.a_offsets[row] : table.a_offsets[row + 1]].tolist()
        b = table.b_ids[table.b_offsets[sequence] : table.b_offsets[sequence + 1]].tolist()
        while len(a) + len(b) > TEXT.max_len - 3:
            (a if len(a) > len(b) else b).pop()
        ids.append([1, *a, 2, *b, 2])
        segments.append([0] * (len(a) + 2) + [1] * (len(b) + 1))
    longest = max(map(len, ids))
    return {
        "input_ids": torch.tensor([s + [0] * (longest - len(s)) for s in ids]),
        "token_type_ids": torch.tensor([s + [0] * (longest - len(s)) for s in segments]),
        "attention_mask": torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in ids]),
    }


def their_logits(reference: Any, table: EncodedTable, name: str) -> torch.Tensor:
    found = []
    for row in range(table.num_rows):
        features = their_features(table, row)
        if name == "multiple_choice":
            features = {key: value[None] for key, value in features.items()}
        with torch.no_grad():
            found.append(reference(**features).logits[0])
    return torch.stack(found)


def save_ours(model: TaskModel, task: TaskType[Any], folder: Path) -> None:
    save_pretrained(model, folder, labels=task.class_names, problem_type=task.problem_type)


@TYPES
def test_our_model_opens_in_transformers_with_the_same_logits_and_loss(
    name: str, tiny: ModuleType, tmp_path: Path
) -> None:
    task, table = task_type(TASKS[name]), rows_of(name, tiny)
    model = task.build_model(config_of(tiny), seed=0, model=ModelSection()).eval()
    save_ours(model, task, tmp_path)
    reference, report = THEIRS[name][0].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    logits = their_logits(reference.eval(), table, name)
    expected = {"regression": logits, "multi_label": logits.sigmoid()}.get(name, logits.softmax(dim=-1))
    np.testing.assert_allclose(outputs_of(model, table, task, tiny), expected.numpy(), atol=1e-5)
    targets = torch.from_numpy(table.labels.copy())
    if name == "multi_label":  # the loss of `transformers` itself, which is a mean over rows and labels
        sets = torch.stack([targets >> i & 1 for i in range(3)], dim=1).float()
        assert reference.config.problem_type == "multi_label_classification"
        loss = torch.nn.BCEWithLogitsLoss()(logits, sets) * table.num_rows
    elif name == "regression":
        loss = torch.nn.functional.mse_loss(logits.squeeze(1), targets, reduction="sum")
    else:
        loss = torch.nn.functional.cross_entropy(logits, targets.long(), reduction="sum")
    parts = loader_of(table, task, tiny).microbatches(np.arange(table.num_rows), min_microbatches=3)
    with torch.no_grad():
        ours = sum(float(task.loss_sum(model(part.inputs), part)) for part in parts)
    assert ours == pytest.approx(float(loss), rel=1e-5)


@TYPES
def test_their_model_opens_here_with_the_same_outputs(name: str, tiny: ModuleType, tmp_path: Path) -> None:
    auto, given = THEIRS[name]
    torch.manual_seed(0)
    words = config_of(tiny).to_json(architecture="x")
    del words["architectures"]
    reference = auto.from_config(transformers.BertConfig(**words, **given)).eval()
    reference.save_pretrained(tmp_path)
    task, table = task_type(TASKS[name]), rows_of(name, tiny)
    model = task.build_model(load_weights(tmp_path, cache=tmp_path), seed=1).eval()
    logits = their_logits(reference, table, name)
    expected = {"regression": logits, "multi_label": logits.sigmoid()}.get(name, logits.softmax(dim=-1))
    np.testing.assert_allclose(outputs_of(model, table, task, tiny), expected.numpy(), atol=1e-5)


@TYPES
def test_a_model_with_the_head_of_another_task_is_refused(
    name: str, tiny: ModuleType, tmp_path: Path
) -> None:
    task = task_type(TASKS[name])
    save_ours(task.build_model(config_of(tiny), seed=0, model=ModelSection()), task, tmp_path)
    loaded = load_weights(tmp_path, cache=tmp_path)
    messages = {
        "classification": "has the head of another type of task: it is a BertForSequenceClassification, not",
        "multi_label": "has the head of another type of task: it is a BertForSequenceClassification, not",
        "regression": "has the head of another type of task: it is a BertForSequenceClassification, not",
        "multiple_choice": "has the head of another type of task: it is a BertForMultipleChoice, not",
    }
    other = "classification" if name == "multiple_choice" else "multiple_choice"
    with pytest.raises(ModelError, match=messages[name]):
        task_type(TASKS[other]).build_model(loaded, seed=0)
    task_type(TASKS[other]).build_model(loaded, seed=0, model=ModelSection())  # a new head is no question


@TYPES
def test_training_lowers_the_loss_however_the_batch_is_divided(
    name: str, tiny: ModuleType, tmp_path: Path
) -> None:
    """Accumulation changes nothing: the sum of the parts is the loss of the whole."""
    task, table = task_type(TASKS[name]), rows_of(name, tiny)
    losses = {}
    for accumulation in (1, 3):
        model = task.build_model(config_of(tiny), seed=0, model=ModelSection(hidden_dropout=0.0))
        config = tiny.make_config(epochs=4, accumulation=accumulation)
        hooks = tiny.MemoryHooks()
        result = tiny.finetune(
            model, config=config, train=table, valid=table, task=task, tokenizer=tiny.SpecialTokens(),
            metric=task.task.metric, job_dir=tiny.JobDir(str(tmp_path / str(accumulation)), "j-test"),
            hooks=hooks,
        )  # fmt: skip
        losses[accumulation] = tiny.losses_of(hooks)
        assert result.metrics.num_examples == table.num_rows
        assert task.metrics_from_json(json.loads(json.dumps(result.metrics.to_json()))) == result.metrics
    assert losses[3] == pytest.approx(losses[1], rel=1e-4)
    assert losses[1][-1] < losses[1][0]


@TYPES
def test_rows_without_a_label_are_only_predicted(name: str, tiny: ModuleType) -> None:
    task, table = task_type(TASKS[name]), rows_of(name, tiny, labelled=False)
    model = task.build_model(config_of(tiny), seed=0, model=ModelSection())
    metrics = evaluate(
        model, table, task=task, text=TEXT, tokenizer=tiny.SpecialTokens(), batch_size=8, precision="fp32"
    )
    assert (metrics.num_examples, metrics.loss) == (0, None)
    outputs = outputs_of(model, table, task, tiny)
    split = pa.table({"label": pa.array(table.labels), "index": pa.array(table.indices)})
    columns = task.prediction_columns(split, outputs)
    assert pa.table(columns)["label"].null_count == table.num_rows
    values = task.submission_values(outputs)
    assert len(values) == table.num_rows and all(isinstance(value, str) for value in values)


def test_scores_for_the_glue_server_stay_in_their_range() -> None:
    assert task_type(STSB).submission_values(np.array([[-0.2], [2.34567], [5.4]], dtype=np.float32)) == [
        "0.000", "2.346", "5.000",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_the_official_ones_to_the_last_digit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = (rng.integers(0, 26, 1500) / 5).astype(np.float32)  # with ties, as people score
    predicted = (truth * rng.normal(1, 0.3, 1500) + rng.normal(0, 1, 1500)).astype(np.float32)
    found = regression_metrics(truth, predicted)
    x, y = truth.astype(np.float64), predicted.astype(np.float64)
    assert found.pearson == scipy.stats.pearsonr(x, y).statistic
    assert found.spearman == scipy.stats.spearmanr(x, y).statistic
    assert found.loss == pytest.approx(sklearn.metrics.mean_squared_error(x, y), rel=1e-14)
    assert (mean_ranks(x) == scipy.stats.rankdata(x)).all()
    for num_labels in (2, 3):
        labels, guesses = rng.integers(0, num_labels, 900), rng.integers(0, num_labels, 900)
        counts = np.zeros((1, num_labels, num_labels), dtype=np.int64)
        np.add.at(counts, (0, labels, guesses), 1)
        metrics = metrics_of(counts, loss_sum=0.0, labels=choice_labels(num_labels))
        assert metrics.accuracy == sklearn.metrics.accuracy_score(labels, guesses)
        assert metrics.mcc == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, guesses), rel=1e-13)
        average = "binary" if num_labels == 2 else "macro"
        assert metrics.f1 == pytest.approx(
            sklearn.metrics.f1_score(labels, guesses, average=average), rel=1e-15
        )


def test_what_does_not_vary_has_no_correlation() -> None:
    metrics = regression_metrics(np.array([1.0, 2.0, np.nan]), np.array([3.0, 3.0, 3.0]))
    assert (metrics.num_examples, metrics.pearson, metrics.spearman) == (2, 0.0, 0.0)


def test_class_weights_and_label_smoothing_are_those_of_pytorch(tiny: ModuleType) -> None:
    weights = (0.5, 1.0, 4.0)
    task = task_type(Task(**{**vars(MARKS), "class_weights": weights, "label_smoothing": 0.1}))
    table = rows_of("classification", tiny)
    model = task.build_model(config_of(tiny), seed=0, model=ModelSection()).eval()
    rows = np.arange(table.num_rows)
    (part,) = loader_of(table, task, tiny).microbatches(rows)
    with torch.no_grad():
        logits_BC = model(part.inputs)
        expected = torch.nn.functional.cross_entropy(
            logits_BC, part.targets["labels"], weight=torch.tensor(weights), label_smoothing=0.1
        )
        ours = task.loss_sum(logits_BC, part) / task.loss_weight(table, rows)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_label_sets_are_those_of_scikit_learn(seed: int, tiny: ModuleType) -> None:
    rng = np.random.default_rng(seed)
    task = task_type(Task(**{**vars(SETS), "threshold": 0.4}))
    table = rows_of("multi_label", tiny, 40)
    bits = rng.integers(-1, 8, 40)  # some rows have no labels to compare with
    logits = torch.from_numpy(rng.normal(size=(40, 3)).astype(np.float32))
    table = EncodedTable(**{**vars(table), "labels": bits})
    counts = task.start_counts(table, batch_size=8, device=CPU)
    for part in loader_of(table, task, tiny).microbatches(np.arange(40), min_microbatches=4):
        counts.add(logits[part.rows_B], part)
    metrics = counts.metrics(current_ranks())
    known = bits >= 0
    truth = (bits[known, None] >> np.arange(3)) & 1
    guesses = (logits.sigmoid().numpy()[known] > 0.4).astype(int)
    for average, found in (("micro", metrics.f1_micro), ("macro", metrics.f1_macro)):
        expected = sklearn.metrics.f1_score(truth, guesses, average=average, zero_division=0)
        assert found == pytest.approx(expected, rel=1e-12)
    assert metrics.accuracy == sklearn.metrics.accuracy_score(truth, guesses)
    assert metrics.num_examples == known.sum()
    correct = task.is_correct(table, logits.sigmoid().numpy())
    assert correct is not None
    assert correct[known].mean() == metrics.accuracy


def test_predicted_label_sets_are_lists_and_may_be_empty() -> None:
    task = task_type(SETS)
    outputs = np.array([[0.9, 0.2, 0.6], [0.1, 0.2, 0.3]], dtype=np.float32)
    split = pa.table({"label": pa.array([5, -1], pa.int64())})
    columns = task.prediction_columns(split, outputs)
    assert columns["label"].to_pylist() == [["no", "yes"], None]
    assert columns["prediction"].to_pylist() == [["no", "yes"], []]
    assert task.submission_values(outputs) == ["no|yes", ""]
    predicted = [[v.value for v in row if v.is_predicted] for row in task.ranked(split, outputs)]
    assert predicted == [["no", "yes"], []]
