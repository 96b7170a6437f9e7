"""The hand-written backward passes are the derivatives of their forward passes; the packed order is right."""

from dataclasses import replace

import pytest
import torch

from bertjobs.modeling import BertConfig, ModelInputs, RowGroup, build_classifier, pack_rows
from bertjobs.modeling.cpu import DropoutPool, accelerate, row_keys
from bertjobs.modeling.cpu.dropout import TokenMasks
from bertjobs.modeling.cpu.kernels import add_norm, attend, project
from bertjobs.modeling.cpu.layout import GroupedLayout

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
    return pack_rows(
        [[1, 2], [3, 4, 5], [6, 7, 8, 9]],
        segments=[[0, 0], [0, 0, 1], [0, 0, 1, 1]],
        row_keys_B=row_keys(torch.arange(3), seed=0, step=0),
        group_sizes=[2, 1],
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
    model = accelerate(build_classifier(CONFIG, num_labels=3, seed=0))
    # Rows of equal length only, so nothing is padded; and the last row alone in a group twice its length.
    exact = replace(inputs, groups=tuple(RowGroup(1, n) for n in (2, 3, 4)))
    far_padded = replace(inputs, groups=(RowGroup(2, 3), RowGroup(1, 8)))
    found = []
    for batch in (exact, inputs, far_padded):
        model.zero_grad()
        logits_BC = model(batch)
        logits_BC.square().sum().backward()
        found.append([logits_BC.detach(), *(p.grad.clone() for p in model.parameters())])
    for batch_values in found[1:]:
        for value, expected in zip(batch_values, found[0], strict=True):
            torch.testing.assert_close(value, expected, atol=1e-7, rtol=1e-5)
    touched = model.bert.embeddings.word_embeddings.weight.grad.abs().sum(dim=1).nonzero().flatten()
    assert touched.tolist() == list(range(1, 10))
