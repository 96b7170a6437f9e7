"""Training in bf16 under the rules of CUDA's autocast, emulated on one thread of a CPU.

What CUDA runs is the plain model with torch's AdamW and flash attention; `as_on_cuda` takes them here too.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bertjobs.modeling import attention
from bertjobs.training import evaluate, finetune
from bertjobs.training.adamw import build_adamw
from bertjobs.training.pretraining import pretrain, pretrain_metrics
from cuda_autocast import CudaAutocast, fake_cuda_autocast
from flash_on_cpu import FlashOnCpu

OPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmax": lambda half, single: torch.softmax(half, dim=-1),
    "softmax as a method": lambda half, single: half.softmax(dim=-1),
    "softmax in a dtype": lambda half, single: torch.softmax(half, dim=-1, dtype=half.dtype),
    "log_softmax": lambda half, single: F.log_softmax(half, dim=-1),
    "cross_entropy": lambda half, single: F.cross_entropy(half, half.argmax(dim=1)),
    "layer_norm": lambda half, single: F.layer_norm(half, (4,)),
    "native_layer_norm": lambda half, single: torch.native_layer_norm(half, (4,), None, None, 1e-5)[0],
    "sum": lambda half, single: half.sum(),
    "sum in a dtype": lambda half, single: half.sum(0, dtype=half.dtype),
    "exp": lambda half, single: half.exp(),
    "square root of the inverse": lambda half, single: half.rsqrt(),
    "power": lambda half, single: half**2,
    "addcmul": lambda half, single: torch.addcmul(single, half, half),
    "cat": lambda half, single: torch.cat((half, single)),
    "mean": lambda half, single: half.mean(),
    "tanh": lambda half, single: torch.tanh(half),
    "gelu": lambda half, single: F.gelu(half),
    "product of both": lambda half, single: half * single,
    "mm": lambda half, single: torch.mm(single, half),
    "mv": lambda half, single: torch.mv(single, torch.empty(4, device=single.device)),
    "linear": lambda half, single: F.linear(single, half),
    "bmm": lambda half, single: torch.bmm(single.expand(1, 4, 4), half.expand(1, 4, 4)),
    "baddbmm": lambda half, single: torch.baddbmm(single, half.expand(1, 4, 4), single.expand(1, 4, 4)),
}


@pytest.fixture(autouse=True)
def bf16_is_emulated_if_need_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "bf16")


@pytest.mark.parametrize("name", OPS)
def test_the_emulation_gives_the_dtypes_of_cuda(name: str) -> None:
    with fake_cuda_autocast():
        half = torch.empty(4, 4, dtype=torch.bfloat16, device="cuda")
        expected = OPS[name](half, torch.empty(4, 4, device="cuda")).dtype
    half, single = torch.rand(4, 4).to(torch.bfloat16), torch.rand(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16), CudaAutocast():
        assert OPS[name](half, single).dtype == expected


def test_outside_of_autocast_nothing_is_cast() -> None:
    half = torch.rand(4, 4).to(torch.bfloat16)
    with CudaAutocast():
        assert torch.softmax(half, dim=-1).dtype == torch.bfloat16


def test_finetuning_with_dropout_takes_the_steps_of_a_cpu(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.make_config(precision="bf16", max_steps=6, accumulation=2)
    assert (
        config.model.attention_dropout is None
        and tiny.make_model().config.attention_probs_dropout_prob == 0.1
    )
    _, _, expected = tiny.run_finetune(tmp_path / "cpu", config)
    with CudaAutocast():
        _, _, hooks = tiny.run_finetune(tmp_path / "cuda", config)
    _assert_close(hooks, expected, eps=tiny.BF16_EPS)


@pytest.mark.parametrize("recomputes", [False, True])
def test_pretraining_with_dropout_takes_the_steps_of_a_cpu(
    tiny: ModuleType, tiny_pretrain: ModuleType, tmp_path: Path, recomputes: bool
) -> None:
    config = tiny_pretrain.make_config(precision="bf16", max_steps=6, activation_checkpointing=recomputes)
    _, _, expected = tiny_pretrain.run_pretrain(tmp_path / "cpu", config)
    with CudaAutocast():
        _, _, hooks = tiny_pretrain.run_pretrain(tmp_path / "cuda", config)
    _assert_close(hooks, expected, eps=tiny.BF16_EPS)


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlashOnCpu]:
    """Train what CUDA trains, by the rules of its autocast; yield what counts the kernels."""
    for module in (evaluate, finetune, pretrain, pretrain_metrics):
        monkeypatch.setattr(module, "accelerate", lambda model: model)
    for module in (finetune, pretrain):
        monkeypatch.setattr(module, "make_optimizer", _torchs_adamw)
    monkeypatch.setattr(attention, "has_flash", lambda device, dtype, head_size: dtype == torch.bfloat16)
    with ExitStack() as stack:
        stack.enter_context(CudaAutocast())
        yield stack.enter_context(FlashOnCpu())


def _torchs_adamw(
    model: torch.nn.Module,
    *,
    word_table: Any = None,
    token_ids_U: Any = None,
    uses_ddp: bool = False,
    **given: Any,
) -> Any:
    return build_adamw(model, **given)


def test_finetuning_the_plain_model_takes_the_steps_of_a_cpu(
    tiny: ModuleType, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Without decay: on a CPU rows of the word table that never occur are not decayed.
    config = tiny.make_config(precision="bf16", max_steps=6, accumulation=2, optim={"weight_decay": 0.0})
    _, _, expected = tiny.run_finetune(tmp_path / "cpu", config, model=tiny.make_model(dropout=0.0))
    kernels = request.getfixturevalue("as_on_cuda")
    _, _, hooks = tiny.run_finetune(tmp_path / "cuda", config, model=tiny.make_model(dropout=0.0))
    # Two layers, six steps, two microbatches, and the evaluation.
    assert kernels.num_attentions > 2 * 6 * 2
    _assert_close(hooks, expected, eps=tiny.BF16_EPS)


@pytest.mark.parametrize("recomputes", [False, True])
def test_pretraining_the_plain_model_takes_the_steps_of_a_cpu(
    tiny: ModuleType,
    tiny_pretrain: ModuleType,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    recomputes: bool,
) -> None:
    config = tiny_pretrain.make_config(precision="bf16", max_steps=6, activation_checkpointing=recomputes)
    given = {"model": tiny_pretrain.make_model(dropout=0.0)}
    _, _, expected = tiny_pretrain.run_pretrain(tmp_path / "cpu", config, **given)
    request.getfixturevalue("as_on_cuda")
    given = {"model": tiny_pretrain.make_model(dropout=0.0)}
    _, _, hooks = tiny_pretrain.run_pretrain(tmp_path / "cuda", config, **given)
    _assert_close(hooks, expected, eps=tiny.BF16_EPS)


def test_default_finetuning_with_dropout_repeats_itself_and_resumes_bit_for_bit(
    tiny: ModuleType, tmp_path: Path, as_on_cuda: FlashOnCpu
) -> None:
    config = tiny.make_config(precision="bf16", max_steps=8, checkpoint_steps=4)
    _, whole, hooks = tiny.run_finetune(tmp_path / "whole", config)
    stop = tiny.MemoryHooks(stop_after=3)
    tiny.run_finetune(tmp_path / "parts", config, hooks=stop)
    assert stop.published == ["step-00000004"]
    torch.manual_seed(99)  # what came before does not matter: each step seeds its masks
    _, resumed, rest = tiny.run_finetune(tmp_path / "parts", config, resume=stop.published[-1])
    assert tiny.losses_of(rest) == tiny.losses_of(hooks)[4:]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    # Masks differ from step to step: without dropout the losses are others.
    undropped = tiny.make_model(dropout=0.0)
    _, _, plain = tiny.run_finetune(tmp_path / "plain", config, model=undropped)
    assert tiny.losses_of(plain) != tiny.losses_of(hooks)
    assert as_on_cuda.num_attentions > 3 * 8 * 2


def _assert_close(hooks: Any, expected: Any, *, eps: float) -> None:
    """Compare losses and gradients of two runs that round at different places, each time to 8 bits."""
    assert len(hooks.progress) == len(expected.progress) == 6
    for ours, theirs in zip(hooks.progress, expected.progress, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=eps)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=4 * eps)
    (evaluated,), (evaluated_there,) = hooks.epochs, expected.epochs
    assert evaluated.metrics.loss == pytest.approx(evaluated_there.metrics.loss, rel=eps)
