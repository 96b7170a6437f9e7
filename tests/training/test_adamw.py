"""The optimizer of CUDA, on one thread of a CPU."""

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from bertjobs.config.sections import OptimSection
from bertjobs.errors import ModelError
from bertjobs.modeling.cpu.flat_adamw import FlatAdamW
from bertjobs.training.adamw import AdamW, LossScale, build_adamw, make_optimizer
from bertjobs.training.distributed import current_ranks
from host_waits import HostWait, NoHostWaits

OPTIM = OptimSection(max_grad_norm=0.5, weight_decay=0.1)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def _step(model: nn.Module, optimizer: AdamW, x: Tensor, *, lr: float = 1e-2) -> Tensor:
    optimizer.zero_grad()
    loss = model(x).square().sum()
    (loss if optimizer.loss_scale is None else loss * optimizer.loss_scale.scale).backward()
    norm = optimizer.sum_gradients(current_ranks(), token_ids_T=None)
    optimizer.step(lr=lr, grad_norm=norm)
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_takes_the_steps_of_torch_with_clipping_and_with_loss_scaling(dtype: torch.dtype) -> None:
    ours, theirs = _network(), _network()
    optimizer = build_adamw(ours, num_layers=0, optim=OPTIM, dtype=dtype)
    matrices, vectors = ([p for p in theirs.parameters() if (p.ndim > 1) is is_2d] for is_2d in (True, False))
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-2, eps=OPTIM.eps,
    )  # fmt: skip
    for step in range(5):
        x = torch.full((4, 6), 0.1 * (step + 1))
        norm = _step(ours, optimizer, x)
        reference.zero_grad()
        theirs(x).square().sum().backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.step()
        assert float(norm) == pytest.approx(float(expected), rel=1e-5)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_step_that_overflows_changes_nothing_but_the_loss_scale() -> None:
    model = _network()
    optimizer = build_adamw(model, num_layers=0, optim=OPTIM, dtype=torch.float16)
    _step(model, optimizer, torch.ones(4, 6))
    before = {name: value.clone() for name, value in optimizer.state().items()}
    weights = [p.clone() for p in model.parameters()]
    norm = _step(model, optimizer, torch.full((4, 6), float("inf")))
    assert not torch.isfinite(norm)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))
    for name, value in optimizer.state().items():
        if name.startswith("loss_scale"):
            continue
        assert torch.equal(value, before[name]), name
    assert optimizer.loss_scale is not None and float(optimizer.loss_scale.scale) == 2.0**15


def test_the_loss_scale_doubles_after_2000_good_steps() -> None:
    scale = LossScale(torch.device("cpu"))
    good, bad = torch.zeros(()), torch.ones(())
    for _ in range(1999):
        scale.update(good)
    assert float(scale.scale) == 2.0**16
    scale.update(good)
    assert float(scale.scale) == 2.0**17
    scale.update(bad)
    assert float(scale.scale) == 2.0**16


def test_its_state_continues_a_run_bit_for_bit() -> None:
    x = torch.linspace(-1, 1, 24).view(4, 6)
    whole, first = _network(), _network()
    optimizer = build_adamw(whole, num_layers=0, optim=OPTIM, dtype=torch.float16)
    for _ in range(4):
        _step(whole, optimizer, x)
    begun = build_adamw(first, num_layers=0, optim=OPTIM, dtype=torch.float16)
    for _ in range(2):
        _step(first, begun, x)
    state = {name: value.clone() for name, value in begun.state().items()}
    resumed_model = _network()
    resumed_model.load_state_dict(first.state_dict())
    resumed = build_adamw(resumed_model, num_layers=0, optim=OPTIM, dtype=torch.float16)
    resumed.load_state(state, num_steps_done=2)
    for _ in range(2):
        _step(resumed_model, resumed, x)
    for a, b in zip(whole.parameters(), resumed_model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_state_of_another_precision_is_refused() -> None:
    half = build_adamw(_network(), num_layers=0, optim=OPTIM, dtype=torch.float16)
    single = build_adamw(_network(), num_layers=0, optim=OPTIM, dtype=torch.float32)
    with pytest.raises(ModelError, match="to another precision"):
        single.load_state(half.state(), num_steps_done=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_step_makes_the_host_wait_for_nothing(dtype: torch.dtype) -> None:
    model = _network().to("meta")
    optimizer = build_adamw(model, num_layers=0, optim=OPTIM, dtype=dtype)
    x = torch.empty(4, 6, device="meta")
    # The fused kernel takes `grad_scale`; torch's plain one, which runs on meta, refuses it.
    optimizer._adamw.step = lambda: None  # type: ignore[method-assign]
    with NoHostWaits() as waits:
        _step(model, optimizer, x)
    assert waits.num_operations > 0 and waits.copies == []


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[x > 0],
        lambda x: torch.tensor([1.0]).to(x.device),
        lambda x: x.__setitem__(0, torch.tensor(1.0)),
    ],
    ids=["a boolean index", "a blocking copy", "a number of the host assigned"],
)
def test_the_check_fails_where_the_host_would_wait(wait: object) -> None:
    with NoHostWaits(), pytest.raises(HostWait):
        wait(torch.empty(4, device="meta"))  # type: ignore[operator]


def test_a_cpu_gets_the_flat_optimizer(tiny: ModuleType) -> None:
    model = tiny.make_model()
    optimizer = make_optimizer(model, num_layers=2, optim=OPTIM, dtype=torch.bfloat16)
    assert isinstance(optimizer, FlatAdamW)
    there = make_optimizer(model.to("meta"), num_layers=2, optim=OPTIM, dtype=torch.bfloat16)
    assert isinstance(there, AdamW) and there.loss_scale is None
