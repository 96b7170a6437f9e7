"""The chunked decoder and loss are `F.linear` and `F.cross_entropy`, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from bertjobs.modeling.cpu import masked_loss
from bertjobs.modeling.cpu.masked_loss import masked_cross_entropy, masked_scores

V, D = 97, 16


def given(num_predictions: int, *, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    weight_VD = torch.nn.Parameter(torch.randn(V, D, generator=generator))
    bias_V = torch.nn.Parameter(torch.randn(V, generator=generator))
    hidden_PD = torch.randn(num_predictions, D, generator=generator).to(dtype).requires_grad_()
    targets_P = torch.randint(0, V, (num_predictions,), generator=generator)
    return hidden_PD, weight_VD, bias_V, targets_P


@pytest.fixture(params=[1, 4, 10, 1000], ids="chunks of {}".format)
def chunk(request, monkeypatch) -> int:
    monkeypatch.setattr(masked_loss, "_CHUNK_BYTES", request.param * 4 * V)
    return request.param


@pytest.mark.parametrize("writes", [False, True])
def test_loss_and_gradients_are_those_of_all_logits_at_once(chunk: int, writes: bool):
    hidden_PD, weight_VD, bias_V, targets_P = given(10)
    expected = F.cross_entropy(F.linear(hidden_PD, weight_VD, bias_V), targets_P, reduction="sum") / 7
    tensors = (hidden_PD, weight_VD, bias_V)
    gradients = torch.autograd.grad(expected, tensors)
    before = [torch.full_like(tensor, 0.5) for tensor in (weight_VD, bias_V)]
    if writes:
        weight_VD.grad, bias_V.grad = (tensor.clone() for tensor in before)
        places = [weight_VD.grad.data_ptr(), bias_V.grad.data_ptr()]
    loss = masked_cross_entropy(
        hidden_PD, weight_VD=weight_VD, bias_V=bias_V, targets_P=targets_P,
        scale=torch.tensor(1 / 7), write_gradients=True,
    )  # fmt: skip
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(hidden_PD.grad, gradients[0])
    for parameter, gradient, old in zip((weight_VD, bias_V), gradients[1:], before, strict=True):
        torch.testing.assert_close(parameter.grad, gradient + old if writes else gradient)
    if writes:
        assert places == [weight_VD.grad.data_ptr(), bias_V.grad.data_ptr()]


def test_bf16_products_stay_near_fp32(chunk: int):
    hidden_PD, weight_VD, bias_V, targets_P = given(10)
    exact = F.cross_entropy(F.linear(hidden_PD, weight_VD, bias_V), targets_P, reduction="sum")
    gradients = torch.autograd.grad(exact, (hidden_PD, weight_VD, bias_V))
    loss = masked_cross_entropy(
        hidden_PD.bfloat16(), weight_VD=weight_VD, bias_V=bias_V, targets_P=targets_P,
        scale=torch.tensor(1.0), write_gradients=False,
    )  # fmt: skip
    loss.backward()
    assert loss.dtype == weight_VD.grad.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
    for tensor, gradient in zip((hidden_PD, weight_VD, bias_V), gradients, strict=True):
        assert torch.cosine_similarity(tensor.grad.flatten(), gradient.flatten(), dim=0) > 0.999


def test_a_frozen_decoder_gets_no_gradient_and_passes_one_on():
    hidden_PD, weight_VD, bias_V, targets_P = given(5)
    weight_VD.requires_grad_(False)
    masked_cross_entropy(
        hidden_PD, weight_VD=weight_VD, bias_V=bias_V, targets_P=targets_P,
        scale=torch.tensor(1.0), write_gradients=True,
    ).backward()  # fmt: skip
    assert weight_VD.grad is None and bias_V.grad is not None and hidden_PD.grad is not None


def test_a_batch_without_predictions_has_a_loss_of_zero():
    hidden_PD, weight_VD, bias_V, targets_P = given(0)
    loss = masked_cross_entropy(
        hidden_PD, weight_VD=weight_VD, bias_V=bias_V, targets_P=targets_P,
        scale=torch.tensor(1.0), write_gradients=True,
    )  # fmt: skip
    loss.backward()
    assert loss.item() == 0.0 and not weight_VD.grad.any()
    assert [
        float(x) for x in masked_scores(hidden_PD, weight_VD=weight_VD, bias_V=bias_V, targets_P=targets_P)
    ] == [0, 0]


def test_a_target_without_probability_counts_as_87_nats_and_not_a_number_stays_one():
    hidden_PD, weight_VD, bias_V, targets_P = given(1)
    given_words = {"weight_VD": weight_VD, "bias_V": bias_V, "targets_P": targets_P}
    with torch.no_grad():
        bias_V[int(targets_P)] = -1000.0
        loss = masked_cross_entropy(hidden_PD, **given_words, scale=torch.tensor(1.0), write_gradients=False)
        assert loss.item() == pytest.approx(87.3, abs=0.1)
        bias_V[0] = float("nan")
        loss = masked_cross_entropy(hidden_PD, **given_words, scale=torch.tensor(1.0), write_gradients=False)
        assert loss.isnan()


def test_scores_are_sums_of_losses_and_of_hits(chunk: int):
    hidden_PD, weight_VD, bias_V, targets_P = given(10)
    logits_PV = F.linear(hidden_PD, weight_VD, bias_V)
    targets_P[:4] = logits_PV[:4].argmax(dim=1)
    loss_sum, num_correct = masked_scores(hidden_PD, weight_VD=weight_VD, bias_V=bias_V, targets_P=targets_P)
    expected = F.cross_entropy(logits_PV.double(), targets_P, reduction="sum")
    torch.testing.assert_close(loss_sum, expected, rtol=1e-5, atol=0)
    assert int(num_correct) == int((logits_PV.argmax(dim=1) == targets_P).sum()) >= 4
