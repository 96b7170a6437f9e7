"""The hand-written backward passes are the derivatives of their forward passes; the packed order is right."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bertjobs.modeling import (
    BertConfig,
    DropoutPool,
    ModelInputs,
    PaddedGroup,
    bert,
    build_classifier,
    row_keys,
)
from bertjobs.modeling.cpu.dropout import TokenMasks
from bertjobs.modeling.cpu.kernels import add_norm, attend, project
from bertjobs.modeling.inputs import GroupedLayout, PackedLayout

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=16,
    hidden_dropout_prob=0.3,
    attention_probs_dropout_prob=0.3,
)


@pytest.fixture
def inputs() -> ModelInputs:
    """Two groups: rows of 2 and 3 tokens padded to 3, and one row of 4."""
    return ModelInputs(
        ids_N=torch.tensor([1, 2, 0, 3, 4, 5, 6, 7, 8, 9]),
        segments_N=torch.tensor([0, 0, 0, 0, 0, 1, 0, 0, 1, 1]),
        positions_N=torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 3]),
        groups=(PaddedGroup(0, 2, 3), PaddedGroup(6, 1, 4)),
        lengths_B=torch.tensor([2, 3, 4]),
        starts_B=torch.tensor([0, 3, 6]),
        row_keys_B=row_keys(torch.arange(3), seed=0, step=0),
    )


def masks_of(inputs: ModelInputs, layout: GroupedLayout) -> TokenMasks:
    return TokenMasks(
        DropoutPool(CONFIG, seed=0),
        row_keys_B=inputs.row_keys_B,
        rows_N=layout.rows_N,
        positions_N=inputs.positions_N[layout.order_N],
    )


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("drops", [False, True])
def test_attention_has_the_right_gradient(inputs, first_only, drops):
    layout = GroupedLayout(inputs, num_heads=2)
    mask = masks_of(inputs, layout).attention(1) if drops else None

    def attention(q, k, v):
        return attend(q, k, v, num_heads=2, layout=layout, first_only=first_only, mask=mask)

    num_queries = 3 if first_only else 10
    assert torch.autograd.gradcheck(
        attention, (random(num_queries, 8), random(10, 8, seed=1), random(10, 8, seed=2))
    )


def test_attention_of_first_tokens_is_that_part_of_the_whole(inputs):
    layout = GroupedLayout(inputs, num_heads=2)
    mask = masks_of(inputs, layout).attention(0)
    q_ND, k_ND, v_ND = (random(10, 8, seed=seed) for seed in range(3))
    whole_ND = attend(q_ND, k_ND, v_ND, num_heads=2, layout=layout, first_only=False, mask=mask)
    first_BD = attend(q_ND[layout.cls_B], k_ND, v_ND, num_heads=2, layout=layout, first_only=True, mask=mask)
    torch.testing.assert_close(first_BD, whole_ND[layout.cls_B])


@pytest.mark.parametrize("drops", [False, True])
def test_the_residual_sum_has_the_right_gradient(inputs, drops):
    layout = GroupedLayout(inputs, num_heads=2)
    mask = masks_of(inputs, layout).hidden(3) if drops else None

    def residual(branch, x, weight, bias):
        return add_norm(branch, x, weight_D=weight, bias_D=bias, eps=1e-5, mask=mask)

    assert torch.autograd.gradcheck(
        residual, (random(10, 8), random(10, 8, seed=1), random(8), random(8, seed=2))
    )


def test_layers_of_one_input_have_the_right_gradients():
    def layers(x, *parameters):
        return project(x, *parameters, write_gradients=False)

    parameters = (random(4, 8), random(4), random(3, 8, seed=1), random(3, seed=1))
    assert torch.autograd.gradcheck(layers, (random(5, 8), *parameters))


def test_padding_changes_no_result_and_gets_no_gradient(inputs):
    model = build_classifier(CONFIG, num_labels=3, seed=0)
    embedding = model.bert.embeddings.word_embeddings.weight
    logits_BC = model(inputs)
    other_BC = model(replace(inputs, ids_N=inputs.ids_N.index_fill(0, torch.tensor([2]), 49)))
    assert torch.equal(logits_BC, other_BC)
    other_BC.sum().backward()
    assert embedding.grad[49].abs().max() == 0 < embedding.grad[9].abs().max()


def test_the_packed_order_gives_the_grouped_paths_logits(inputs, monkeypatch):
    """The CUDA kernel cannot run here; row-wise attention stands in for it, with the same arguments."""

    def row_wise(q_ND, k_ND, v_ND, *, num_heads, layout: PackedLayout, first_only):
        starts = layout.cumulative.tolist()
        query_starts = layout.first_cumulative.tolist() if first_only else starts
        contexts = []
        for i in range(len(starts) - 1):
            q = q_ND[query_starts[i] : query_starts[i + 1]]
            k, v = (x[starts[i] : starts[i + 1]] for x in (k_ND, v_ND))
            q, k, v = (x.view(len(x), num_heads, -1).transpose(0, 1) for x in (q, k, v))
            contexts.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))
        return torch.cat(contexts)

    model = build_classifier(CONFIG, num_labels=3, seed=0, attention_dropout=0.0).train()
    model.set_dropout(DropoutPool(model.config, seed=0))
    with torch.no_grad():
        grouped_BC, grouped_ND = model(inputs), model.bert(inputs)
        monkeypatch.setattr(bert, "packs", lambda device, head_size: True)
        monkeypatch.setattr(bert, "attend_packed", row_wise)
        packed_BC, packed_ND = model(inputs), model.bert(inputs)
    torch.testing.assert_close(packed_BC, grouped_BC, atol=1e-6, rtol=0)
    is_real_N = torch.arange(10) != 2
    torch.testing.assert_close(packed_ND[is_real_N], grouped_ND[is_real_N], atol=1e-6, rtol=0)
    assert packed_ND[2].abs().max() == 0
