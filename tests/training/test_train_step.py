import logging
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bertjobs.config.sections import OptimSection, TextSection
from bertjobs.modeling.cpu import DropoutPool, accelerate, set_dropout
from bertjobs.modeling.cpu.flat_adamw import LOSSES, STOP, FlatAdamW, build_optimizer
from bertjobs.training.adamw import build_adamw
from bertjobs.training.batches import BatchLoader, Microbatch, StepBatch
from bertjobs.training.distributed import current_ranks
from bertjobs.training.step import StepTaker, train_step


def _one_step(
    tiny: ModuleType, *, dtype: torch.dtype, min_microbatches: int
) -> tuple[float, float, FlatAdamW]:
    model, ranks = tiny.make_model().train(), current_ranks()
    loader = BatchLoader(
        tiny.make_table(24, seed=1),
        text=TextSection(max_len=32),
        tokenizer=tiny.SpecialTokens(),
        max_tokens=16384,
        ranks=ranks,
        vocab_size=tiny.VOCAB_SIZE,
    )
    optimizer = build_optimizer(
        model,
        num_layers=2,
        word_table=model.bert.embeddings.word_embeddings,
        token_ids_U=loader.token_ids(),
        optim=OptimSection(max_grad_norm=0.0),
    )
    set_dropout(accelerate(model), DropoutPool(model.config, seed=0))
    batch = loader.step_batch(np.arange(24), seed=0, step=0, min_microbatches=min_microbatches)
    assert len(batch.microbatches) == min_microbatches

    def losses(microbatch: Microbatch, batch: StepBatch) -> torch.Tensor:
        logits_BC = model(microbatch.inputs).float()
        return (
            F.cross_entropy(logits_BC, microbatch.targets["labels"], reduction="sum").view(1) / batch.num_rows
        )

    norm = train_step(
        batch,
        losses=losses,
        optimizer=optimizer,
        ranks=ranks,
        dtype=dtype,
        lr=1e-3,
        requests_stop=min_microbatches == 3,
    )
    return float(optimizer.scalars[LOSSES]), float(norm), optimizer


def test_bf16_with_weights_cast_once_for_all_microbatches_stays_near_fp32(tiny: ModuleType) -> None:
    loss, norm, optimizer = _one_step(tiny, dtype=torch.float32, min_microbatches=1)
    for min_microbatches in (1, 3):
        half_loss, half_norm, half = _one_step(tiny, dtype=torch.bfloat16, min_microbatches=min_microbatches)
        assert half_loss == pytest.approx(loss, rel=5e-3)
        assert half_norm == pytest.approx(norm, rel=5e-2)
        assert all(m.dtype == torch.float32 for n, m in half.state().items() if n.endswith("exp_avg"))
        for name, moment in optimizer.state().items():
            if name.endswith("weight.exp_avg"):
                cosine = torch.cosine_similarity(moment.flatten(), half.state()[name].flatten(), dim=0)
                assert cosine > 0.98, name


def test_a_wish_to_stop_rides_along(tiny: ModuleType) -> None:
    _, _, optimizer = _one_step(tiny, dtype=torch.float32, min_microbatches=3)
    assert float(optimizer.scalars[STOP]) == 1.0


def test_token_ids_are_the_batch_and_the_special_ones(tiny: ModuleType) -> None:
    table = tiny.make_table(24, seed=1)
    loader = BatchLoader(
        table,
        text=TextSection(max_len=8),
        tokenizer=tiny.SpecialTokens(),
        max_tokens=64,
        ranks=current_ranks(),
        vocab_size=tiny.VOCAB_SIZE,
    )
    batch = loader.step_batch(np.array([3, 5]), seed=0, step=0, min_microbatches=1)
    texts = [
        t[o[r] : o[r + 1]]
        for t, o in ((table.a_ids, table.a_offsets), (table.b_ids, table.b_offsets))
        for r in (3, 5)
    ]
    assert batch.token_ids_T.tolist() == sorted({0, 1, 2, *np.concatenate(texts).tolist()})
    in_batch = torch.cat([m.inputs.ids_N for m in batch.microbatches]).unique()
    assert set(in_batch.tolist()) <= set(batch.token_ids_T.tolist())
    assert batch.num_tokens == sum(int(m.inputs.lengths_B.sum()) for m in batch.microbatches)
    assert loader.token_ids().tolist() == sorted({0, 1, 2, *table.a_ids.tolist(), *table.b_ids.tolist()})


class _Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _broken_backend(graph: object, inputs: object) -> object:
    raise RuntimeError("no compiler on this machine")


# Dynamo looks at `.grad` of what it traces; in tests every warning is an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(("backend", "falls_back"), [("aot_eager", False), (_broken_backend, True)])
def test_compiled_steps_are_those_of_eager_ones_also_where_compiling_fails(
    tiny: ModuleType, backend: Any, falls_back: bool
) -> None:
    found = {}
    recorder = _Recorder()
    logging.getLogger("bertjobs.training.step").addHandler(recorder)
    for is_compiled in (False, True):
        model, ranks = tiny.make_model(dropout=0.0).train(), current_ranks()
        optimizer = build_adamw(model, num_layers=2, optim=OptimSection(), dtype=torch.float32)
        loader = BatchLoader(
            tiny.make_table(24, seed=1),
            text=TextSection(max_len=32),
            tokenizer=tiny.SpecialTokens(),
            max_tokens=16384,
            ranks=ranks,
            vocab_size=tiny.VOCAB_SIZE,
        )

        def losses(microbatch: Microbatch, batch: StepBatch, model: Any = model) -> torch.Tensor:
            loss = F.cross_entropy(model(microbatch.inputs), microbatch.targets["labels"], reduction="sum")
            return loss.view(1) / batch.num_rows

        taker = StepTaker(losses, is_compiled=is_compiled, backend=backend)
        norms = []
        for step, rows in enumerate((np.arange(8), np.arange(8, 20))):
            batch = loader.step_batch(rows, seed=0, step=step, min_microbatches=1)
            norm = taker.step(batch, optimizer=optimizer, ranks=ranks, dtype=torch.float32, lr=1e-3)
            norms.append((float(optimizer.scalars[LOSSES]), float(norm)))
        found[is_compiled] = norms
        assert taker.is_compiled is (is_compiled and not falls_back)
    logging.getLogger("bertjobs.training.step").removeHandler(recorder)
    torch.testing.assert_close(torch.tensor(found[True]), torch.tensor(found[False]))
    warned = [
        text for text in recorder.texts if text.startswith("--compile failed, training goes on without it")
    ]
    assert len(warned) == falls_back


def test_an_error_of_the_loss_itself_is_raised_though_it_was_compiled(tiny: ModuleType) -> None:
    def losses(microbatch: Any, batch: Any) -> torch.Tensor:
        raise ZeroDivisionError("of the loss")

    model = tiny.make_model()
    optimizer = build_adamw(model, num_layers=2, optim=OptimSection(), dtype=torch.float32)
    taker = StepTaker(losses, is_compiled=True, backend="eager")
    batch = SimpleNamespace(microbatches=[None], token_ids_T=None)
    with pytest.raises(ZeroDivisionError, match="of the loss"):
        taker.step(batch, optimizer=optimizer, ranks=current_ranks(), dtype=torch.float32, lr=1e-3)  # type: ignore[arg-type]
