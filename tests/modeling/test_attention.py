"""Both ways to attend over packed rows compute softmax(Q K^T) V; the private operator is the one we know."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bertjobs.modeling import ModelInputs, attention, pack_rows
from bertjobs.modeling.attention import attend, attend_flash, attend_padded, has_flash
from flash_on_cpu import FlashOnCpu

LENGTHS = (5, 1, 9, 9)
N, H, E = sum(LENGTHS), 2, 8
BF16_EPS = 2.0**-8

OPERATOR = torch.ops.aten._flash_attention_forward.default


@pytest.fixture
def inputs() -> ModelInputs:
    rows = [[1] * length for length in LENGTHS]
    return pack_rows(rows, segments=rows)


def qkv(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(N, H, E, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def by_hand(q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor) -> Tensor:
    """Attend row by row, head by head, in fp64."""
    context = []
    for q, k, v in zip(*(x.double().split(LENGTHS) for x in (q_NHE, k_NHE, v_NHE)), strict=True):
        heads = [(q[:, h] @ k[:, h].T / E**0.5).softmax(dim=1) @ v[:, h] for h in range(H)]
        context.append(torch.stack(heads, dim=1))
    return torch.cat(context)


def check(attend_: Callable[..., Tensor], inputs: ModelInputs, dtype: torch.dtype, tolerance: float) -> None:
    tensors, exact = qkv(dtype), qkv(dtype)
    context_NHE, expected_NHE = attend_(*tensors, inputs=inputs, dropout=0.0), by_hand(*exact)
    assert context_NHE.dtype == dtype
    torch.testing.assert_close(context_NHE.double(), expected_NHE, atol=tolerance, rtol=tolerance)
    weights_NHE = torch.linspace(-1, 1, N * H * E).view(N, H, E)
    (context_NHE.double() * weights_NHE).sum().backward()
    (expected_NHE * weights_NHE).sum().backward()
    for tensor, other in zip(tensors, exact, strict=True):
        torch.testing.assert_close(tensor.grad, other.grad, atol=2 * tolerance, rtol=2 * tolerance)


def test_padded_attention_is_attention_row_by_row(inputs: ModelInputs) -> None:
    check(attend_padded, inputs, torch.float32, 1e-5)


def test_padded_attention_in_bf16_differs_by_rounding(inputs: ModelInputs) -> None:
    check(attend_padded, inputs, torch.bfloat16, 2 * BF16_EPS)


def test_the_call_of_flash_attention_is_attention_row_by_row(inputs: ModelInputs) -> None:
    with FlashOnCpu() as kernels:
        check(attend_flash, inputs, torch.bfloat16, 2 * BF16_EPS)
    assert kernels.num_attentions == 1
    assert kernels.names.count("_flash_attention_backward") == 1


@pytest.mark.parametrize("by", ["flash", "padded"])
def test_dropout_keeps_the_mean_and_follows_from_the_seed(inputs: ModelInputs, by: str) -> None:
    q, k, _ = qkv(torch.bfloat16)
    # Values of one: without dropout every context is one, with it a mean of kept probabilities.
    v = torch.ones(N, H, E, dtype=torch.bfloat16)
    attend_ = attend_flash if by == "flash" else attend_padded
    torch.manual_seed(0)
    with torch.no_grad(), FlashOnCpu():
        found = [attend_(q, k, v, inputs=inputs, dropout=0.1).float() for _ in range(400)]
        torch.manual_seed(0)
        again = attend_(q, k, v, inputs=inputs, dropout=0.1).float()
    assert torch.equal(again, found[0]) and not torch.equal(again, found[1])
    # The row of one token is 1 / 0.9 or 0: 800 draws with a standard error of 0.012.
    assert float(torch.stack(found)[:, LENGTHS[0]].mean()) == pytest.approx(1.0, abs=0.05)
    assert float(torch.stack(found).mean()) == pytest.approx(1.0, abs=0.01)


def test_the_private_operator_takes_and_returns_what_it_did() -> None:
    """Canary: fails first when torch changes the operator that `attention.py` calls."""
    names = [argument.name for argument in OPERATOR._schema.arguments]
    assert names[:10] == [
        "query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal",
        "return_debug_mask",
    ]  # fmt: skip
    assert all(argument.has_default_value() for argument in OPERATOR._schema.arguments[10:])
    assert str(OPERATOR._schema.returns[0].type) == "Tensor"


def test_the_private_operator_has_shapes_and_a_backward_pass_without_a_device(inputs: ModelInputs) -> None:
    given = inputs.to(torch.device("meta"))
    q, k, v = (
        torch.empty(N, H, E, dtype=torch.bfloat16, device="meta", requires_grad=True) for _ in range(3)
    )
    context_NHE = attend_flash(q, k, v, inputs=given, dropout=0.1)
    assert context_NHE.shape == (N, H, E) and context_NHE.dtype == torch.bfloat16
    context_NHE.sum().backward()
    assert all(x.grad is not None and x.grad.shape == x.shape for x in (q, k, v))


@pytest.mark.parametrize(
    ("device", "dtype", "head_size", "expected"),
    [
        ("cuda", torch.bfloat16, 64, True),
        ("cuda", torch.float16, 32, True),
        ("cuda", torch.float32, 64, False),
        ("cuda", torch.bfloat16, 10, False),
        ("cuda", torch.bfloat16, 264, False),
        ("cpu", torch.bfloat16, 64, False),
        ("meta", torch.bfloat16, 64, False),
    ],
)
def test_flash_attention_runs_on_cuda_in_half_precision_only(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype, head_size: int, expected: bool
) -> None:
    monkeypatch.setattr(attention, "_is_built_for", lambda device: True)
    assert has_flash(torch.device(device), dtype, head_size=head_size) is expected


def test_a_gpu_without_flash_attention_takes_the_padded_way(
    monkeypatch: pytest.MonkeyPatch, inputs: ModelInputs
) -> None:
    monkeypatch.setattr(attention, "_is_built_for", lambda device: False)
    assert not has_flash(torch.device("cuda"), torch.float16, head_size=64)
    q, k, v = qkv(torch.float32)
    expected_NHE = attend_padded(q, k, v, inputs=inputs, dropout=0.0)
    assert torch.equal(attend(q, k, v, inputs=inputs), expected_NHE)
