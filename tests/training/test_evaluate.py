from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bertjobs.config.sections import TextSection
from bertjobs.modeling.inputs import pack_rows
from bertjobs.text.encoding import EncodedTable
from bertjobs.training.evaluate import evaluate
from bertjobs.training.metrics import Metrics, matthews

TEXT = TextSection(max_len=32)
FORCED = pytest.mark.parametrize("forced", ["bf16", "fp32"])
"""What the processor counts as having."""


def _evaluate(tiny: ModuleType, model: torch.nn.Module, table: EncodedTable, **others: object) -> Metrics:
    given = {"text": TEXT, "batch_size": 16, "precision": "fp32", **others}
    return evaluate(model, table, task=tiny.TASK, tokenizer=tiny.SpecialTokens(), **given)


def _logits_one_by_one(model: torch.nn.Module, table: EncodedTable) -> torch.Tensor:
    logits = []
    model.eval()
    for i in range(table.num_rows):
        a = table.a_ids[table.a_offsets[i] : table.a_offsets[i + 1]].tolist()
        b = table.b_ids[table.b_offsets[i] : table.b_offsets[i + 1]].tolist()
        inputs = pack_rows([[1, *a, 2, *b, 2]], segments=[[0] * (len(a) + 2) + [1] * (len(b) + 1)])
        with torch.no_grad():
            logits.append(model(inputs)[0])
    return torch.stack(logits)


def test_sorted_and_packed_equals_row_by_row(tiny: ModuleType) -> None:
    model, table = tiny.make_model(), tiny.make_table(45, seed=5)
    seen: dict[int, np.ndarray] = {}
    metrics = _evaluate(
        tiny,
        model,
        table,
        on_predictions=lambda rows, probs: seen.update(zip(rows.tolist(), probs, strict=True)),
    )
    logits = _logits_one_by_one(model, table)
    labels, predicted = torch.tensor(table.labels.tolist()), logits.argmax(dim=1)
    assert metrics.num_examples == 45
    assert metrics.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert metrics.accuracy == pytest.approx(float((predicted == labels).float().mean()))
    assert sorted(seen) == list(range(45))
    np.testing.assert_allclose([seen[i] for i in range(45)], logits.softmax(dim=1), atol=1e-5)


def test_mcc_batches_are_consecutive_rows_whatever_the_order_of_computing(tiny: ModuleType) -> None:
    model, table = tiny.make_model(), tiny.make_table(45, seed=5)
    predicted = _logits_one_by_one(model, table).argmax(dim=1).numpy()
    expected = []
    for start in (0, 16, 32):
        confusion = np.zeros((3, 3), dtype=np.int64)
        np.add.at(confusion, (table.labels[start : start + 16], predicted[start : start + 16]), 1)
        expected.append(matthews(confusion))
    assert _evaluate(tiny, model, table).mcc_per_batch == pytest.approx(expected)


def test_rows_without_a_label_are_predicted_but_not_counted(tiny: ModuleType) -> None:
    model, table = tiny.make_model(), tiny.make_table(20, seed=5)
    whole = _evaluate(tiny, model, table.select(np.arange(12)))
    labels = table.labels.copy()
    labels[12:] = -1
    rows: list[int] = []
    part = _evaluate(
        tiny,
        model,
        EncodedTable(**{**vars(table), "labels": labels}),
        on_predictions=lambda r, _: rows.extend(r),
    )
    assert part.num_examples == 12
    assert part.loss == pytest.approx(whole.loss, rel=1e-6)
    assert part.confusion == whole.confusion
    assert sorted(rows) == list(range(20))


def test_small_microbatches_change_nothing(tiny: ModuleType) -> None:
    model, table = tiny.make_model(), tiny.make_table(45, seed=5)
    small = _evaluate(tiny, model, table, microbatch_tokens=64)
    large = _evaluate(tiny, model, table)
    assert small.confusion == large.confusion
    assert small.loss == pytest.approx(large.loss, rel=1e-6)


def test_progress_ends_at_all_rows_and_the_mode_is_put_back(tiny: ModuleType) -> None:
    model, calls = tiny.make_model().train(), []
    _evaluate(tiny, model, tiny.make_table(20, seed=5), on_progress=lambda done, n: calls.append((done, n)))
    assert calls == [(16, 20), (20, 20)]
    assert model.training


@FORCED
def test_auto_is_fp32_on_any_processor(
    tiny: ModuleType, monkeypatch: pytest.MonkeyPatch, forced: str
) -> None:
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", forced)
    model, table = tiny.make_model(spread=0.2), tiny.make_table(45, seed=5)
    assert _evaluate(tiny, model, table, precision="auto") == _evaluate(tiny, model, table, precision="fp32")


def test_bf16_stays_near_fp32(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "bf16")
    model, table = tiny.make_model(spread=0.2), tiny.make_table(45, seed=5)
    probabilities: dict[str, np.ndarray] = {name: np.empty((45, 3)) for name in ("fp32", "bf16")}
    losses = {
        name: _evaluate(
            tiny,
            model,
            table,
            precision=name,
            on_predictions=lambda rows, p, of=found: of.__setitem__(rows, p),
        ).loss
        for name, found in probabilities.items()
    }
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=4 * tiny.BF16_EPS)
    off = np.abs(probabilities["bf16"] - probabilities["fp32"]).max()
    assert 0 < off < 4 * tiny.BF16_EPS
