"""What a model does worst: the rows with the largest losses, and errors by class, by length and by confusion.

Made from `predictions.parquet`, which has the texts, labels and predictions of a split; what its columns are
tells the type of its task. Rows without a label are left out. Knows no model.

Legend: R rows.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.errors import DataError
from bertjobs.text.spans.squad_metrics import answer_scores

NUM_BUCKETS = 5
"""Of lengths; each has about as many rows as the others."""
_SMALLEST = 1e-12
"""Stands for a probability of 0, so that its loss is a number."""


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """The labelled rows of a split, and how wrong each prediction is."""

    type: str
    texts: list[dict[str, str]]
    labels: list[Any]
    predictions: list[Any]
    losses_R: np.ndarray
    """Cross-entropy in nats, squared error, or 1 - F1 of an answer."""
    errors_R: np.ndarray
    """0 or 1, whether it is wrong; of scores the absolute error."""
    indices: list[int]
    has_classes: bool
    """Whether labels are few, so that errors per class and confusions say something."""

    wrong_of_label: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Of label sets: whether each label is wrongly given or left out."""

    @property
    def length_R(self) -> np.ndarray:
        """Words of all texts of a row."""
        return np.array([sum(len(text.split()) for text in texts.values()) for texts in self.texts])


def read_error_report(content: bytes, *, num_worst: int) -> dict[str, Any]:
    """Return the report on a `predictions.parquet`. Raises: DataError: as `error_report`; it is damaged."""
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as e:
        raise DataError(
            f"The predictions cannot be read as Parquet: {str(e).splitlines()[0]}",
            hint="The file is damaged or cut short; evaluate the model again.",
        ) from e
    return error_report(table, num_worst=num_worst)


def error_report(table: pa.Table, *, num_worst: int) -> dict[str, Any]:
    """Return the report as a document. Raises: DataError: no row has a label, or it is another table."""
    rows = scored_rows(table)
    return {
        "type": rows.type,
        "rows": len(rows.labels),
        "mean_loss": float(rows.losses_R.mean()),
        "error": float(rows.errors_R.mean()),
        "worst": _worst(rows, num_worst),
        "per_class": _per_class(rows) if rows.has_classes else [],
        "confusions": _confusions(rows) if rows.type in ("classification", "multiple_choice") else [],
        "per_length": _per_length(rows),
    }


def scored_rows(table: pa.Table) -> ScoredRows:
    """Score the labelled rows of `predictions.parquet`. Raises: DataError."""
    if "prediction" not in table.column_names:
        raise DataError(
            f"The table has no predictions; its columns are {', '.join(table.column_names)}",
            hint="Give the `predictions.parquet` of a finetune or evaluate job.",
        )
    score, is_labelled_R = _type_of(table)
    table = table.filter(pa.array(is_labelled_R))
    if not table.num_rows:
        raise DataError(
            "None of the rows has a label, so no prediction can be called wrong",
            hint="Evaluate the model on a split with labels: `bertjobs submit evaluate --split dev`.",
        )
    return score(table)


def _type_of(table: pa.Table) -> tuple[Callable[[pa.Table], ScoredRows], np.ndarray]:
    """Return what scores the rows, and which of them have a label."""
    if "answers" in table.column_names:
        # A split of which nobody knows the answers has none at all.
        has_answer_R = np.array([bool(answers) for answers in table["answers"].to_pylist()])
        return _score_answers, np.full(table.num_rows, has_answer_R.any())
    is_labelled_R = ~np.asarray(table["label"].is_null().to_numpy(zero_copy_only=False))
    if "endings" in table.column_names:
        return _score_endings, is_labelled_R
    if pa.types.is_list(table["prediction"].type):
        return _score_label_sets, is_labelled_R
    is_score = pa.types.is_floating(table["prediction"].type)
    return (_score_scores if is_score else _score_labels), is_labelled_R


def _score_labels(table: pa.Table) -> ScoredRows:
    labels, predictions = table["label"].to_pylist(), table["prediction"].to_pylist()
    names = sorted(set(labels))
    probability = {name: table[f"p_{name}"].to_numpy() for name in names}
    own_R = np.array([probability[label][i] for i, label in enumerate(labels)], dtype=np.float64)
    return _of_classes("classification", table, labels, predictions, own_R)


def _score_endings(table: pa.Table) -> ScoredRows:
    labels, predictions = table["label"].to_pylist(), table["prediction"].to_pylist()
    own_R = np.array([table[f"p_{label}"][i].as_py() for i, label in enumerate(labels)], dtype=np.float64)
    return _of_classes("multiple_choice", table, labels, predictions, own_R)


def _of_classes(
    type_: str, table: pa.Table, labels: list[Any], predictions: list[Any], probability_R: np.ndarray
) -> ScoredRows:
    wrong_R = np.array([a != b for a, b in zip(labels, predictions, strict=True)], dtype=np.float64)
    losses_R = -np.log(np.maximum(probability_R, _SMALLEST))
    return _rows(type_, table, labels, predictions, losses_R, wrong_R, has_classes=True)


def _score_label_sets(table: pa.Table) -> ScoredRows:
    labels, predictions = table["label"].to_pylist(), table["prediction"].to_pylist()
    names = [name.removeprefix("p_") for name in table.column_names if name.startswith("p_")]
    is_true_RC = np.array([[name in row for name in names] for row in labels])
    is_predicted_RC = np.array([[name in row for name in names] for row in predictions])
    p_RC = np.stack([table[f"p_{name}"].to_numpy().astype(np.float64) for name in names], axis=1)
    own_RC = np.maximum(np.where(is_true_RC, p_RC, 1 - p_RC), _SMALLEST)
    losses_R = -np.log(own_RC).mean(axis=1)
    wrong_RC = is_true_RC != is_predicted_RC
    rows = _rows(
        "multi_label", table, labels, predictions, losses_R, wrong_RC.any(axis=1).astype(np.float64),
        has_classes=True,
    )  # fmt: skip
    return replace(rows, wrong_of_label={name: wrong_RC[:, i] for i, name in enumerate(names)})


def _score_scores(table: pa.Table) -> ScoredRows:
    labels, predictions = table["label"].to_pylist(), table["prediction"].to_pylist()
    error_R = np.abs(np.array(predictions, dtype=np.float64) - np.array(labels, dtype=np.float64))
    return _rows("regression", table, labels, predictions, error_R**2, error_R, has_classes=False)


def _score_answers(table: pa.Table) -> ScoredRows:
    references, predictions = table["answers"].to_pylist(), table["prediction"].to_pylist()
    scores = [answer_scores(p, r) for p, r in zip(predictions, references, strict=True)]
    f1_R = np.array([f1 for _, f1 in scores], dtype=np.float64)
    exact_R = np.array([exact for exact, _ in scores], dtype=np.float64)
    labels = [" | ".join(dict.fromkeys(answers)) for answers in references]
    return _rows("span", table, labels, predictions, 1 - f1_R, 1 - exact_R, has_classes=True)


def _rows(
    type_: str,
    table: pa.Table,
    labels: list[Any],
    predictions: list[Any],
    losses_R: np.ndarray,
    errors_R: np.ndarray,
    *,
    has_classes: bool,
) -> ScoredRows:
    return ScoredRows(
        type=type_,
        texts=_texts(table),
        labels=labels,
        predictions=predictions,
        losses_R=losses_R,
        errors_R=errors_R,
        indices=table["index"].to_pylist(),
        has_classes=has_classes,
    )


def _texts(table: pa.Table) -> list[dict[str, str]]:
    texts: list[dict[str, str]] = [{} for _ in range(table.num_rows)]
    for name in ("text_a", "text_b"):
        if name in table.column_names:
            for row, text in zip(texts, table[name].to_pylist(), strict=True):
                row[name] = text
    if "endings" in table.column_names:
        for row, endings in zip(texts, table["endings"].to_pylist(), strict=True):
            row |= {f"ending {i}": ending for i, ending in enumerate(endings)}
    return texts


def _worst(rows: ScoredRows, count: int) -> list[dict[str, Any]]:
    # Of equal losses the earlier row comes first.
    order = np.argsort(-rows.losses_R, kind="stable")[:count]
    return [
        {
            "index": rows.indices[i],
            "loss": float(rows.losses_R[i]),
            "label": rows.labels[i],
            "prediction": rows.predictions[i],
            "texts": rows.texts[i],
        }
        for i in order.tolist()
    ]


def _per_class(rows: ScoredRows) -> list[dict[str, Any]]:
    """Return the errors of each label; of label sets those of the rows where it applies or is predicted."""
    if rows.type == "multi_label":
        return [
            _part(
                {"label": name},
                replace(rows, errors_R=wrong_R.astype(np.float64)),
                [name in a or name in b for a, b in zip(rows.labels, rows.predictions, strict=True)],
            )
            for name, wrong_R in rows.wrong_of_label.items()
        ]
    of_class = rows.labels
    if rows.type == "span":
        of_class = ["answer" if label else "no answer" for label in rows.labels]
    return [_part({"label": name}, rows, [c == name for c in of_class]) for name in sorted(set(of_class))]


def _confusions(rows: ScoredRows) -> list[dict[str, Any]]:
    """Return pairs of a label and a wrong prediction, the most frequent first."""
    pairs = Counter((a, b) for a, b in zip(rows.labels, rows.predictions, strict=True) if a != b)
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [{"label": a, "prediction": b, "rows": count} for (a, b), count in ordered]


def _per_length(rows: ScoredRows) -> list[dict[str, Any]]:
    length_R = rows.length_R
    ends = np.unique(np.quantile(length_R, np.arange(1, NUM_BUCKETS + 1) / NUM_BUCKETS, method="higher"))
    start, found = int(length_R.min()), []
    for end in ends.astype(int).tolist():
        is_inside_R = (length_R >= start) & (length_R <= end)
        found.append(_part({"from": start, "to": end}, rows, is_inside_R))
        start = end + 1
    return found


def _part(name: dict[str, Any], rows: ScoredRows, is_part_R: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    chosen = np.asarray(is_part_R, dtype=bool)
    return name | {
        "rows": int(chosen.sum()),
        "error": float(rows.errors_R[chosen].mean()) if chosen.any() else 0.0,
        "mean_loss": float(rows.losses_R[chosen].mean()) if chosen.any() else 0.0,
    }
