from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bertjobs.config.sections import OptimSection, TextSection
from bertjobs.modeling.cpu import DropoutPool, accelerate, set_dropout
from bertjobs.modeling.cpu.flat_adamw import LOSSES, STOP, FlatAdamW, build_optimizer
from bertjobs.training.batches import BatchLoader, Microbatch, StepBatch
from bertjobs.training.distributed import current_ranks
from bertjobs.training.loop import train_step


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
