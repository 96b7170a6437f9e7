"""What training will need is told from the configuration alone, and near to what is measured."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bertjobs.errors import OutOfMemory
from bertjobs.modeling import BertConfig, BertForPreTraining
from bertjobs.modeling.cpu import DropoutPool, accelerate, row_keys, set_dropout, write_gradients
from bertjobs.training import memory
from bertjobs.training.memory import (
    MemoryNeed,
    check_memory,
    estimate_training,
    free_bytes,
    has_room_for_copy,
)


def _estimate(size: str, *, num_tokens: int, max_len: int, recomputes: bool = False) -> MemoryNeed:
    config = BertConfig.of_size(size, vocab_size=30522)
    with torch.device("meta"):
        num_weights = sum(p.numel() for p in BertForPreTraining(config).parameters())
    return estimate_training(
        config,
        num_weights=num_weights,
        num_trained=num_weights,
        num_tokens=num_tokens,
        max_len=max_len,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),  # where attention is not packed: the larger need
        recomputes=recomputes,
        predicts_words=True,
    )


def test_large_at_512_fits_one_gpu_of_80_gb() -> None:
    default = _estimate("large", num_tokens=16384, max_len=512)
    assert 20e9 < default.total < 75e9
    assert _estimate("large", num_tokens=16384, max_len=512, recomputes=True).total < 15e9
    assert _estimate("large", num_tokens=65536, max_len=512).total > 80e9
    assert _estimate("large", num_tokens=65536, max_len=512, recomputes=True).total < 40e9


def test_weights_gradients_and_moments_are_sixteen_bytes_a_parameter() -> None:
    need = _estimate("base", num_tokens=512, max_len=512)
    num_weights = need.gradients // 4
    assert num_weights == pytest.approx(110e6, rel=0.01)
    assert (need.moments, need.weights) == (8 * num_weights, (4 + 2) * num_weights)
    assert need.total == need.weights + need.gradients + need.moments + need.activations
    assert need.checkpoint_copy == 12 * num_weights
    assert str(need).startswith("0.7 GB of weights, 0.4 GB of gradients, 0.9 GB of moments")


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("max_len", [32, 128])
def test_a_measured_peak_is_near_the_estimate(
    tiny_pretrain: ModuleType, monkeypatch: pytest.MonkeyPatch, recomputes: bool, max_len: int
) -> None:
    model = tiny_pretrain.make_model(
        num_hidden_layers=6, hidden_size=64, intermediate_size=256, num_attention_heads=4,
        max_position_embeddings=128, dropout=0.1,
    ).train()  # fmt: skip
    model.bert.encoder.recomputes = recomputes
    set_dropout(accelerate(model), DropoutPool(model.config, seed=0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    write_gradients(model, tables=True)
    num_rows = 4096 // max_len
    inputs = _full_rows(num_rows, max_len)
    masked_P = torch.arange(0, num_rows * max_len, 7)
    given = {
        "masked_P": masked_P,
        "targets_P": torch.full_like(masked_P, 9),
        "labels_B": torch.zeros(num_rows, dtype=torch.int64),
        "mlm_scale": torch.tensor(1e-3),
        "nsp_scale": 1e-3,
    }
    model.losses(inputs, **given).sum().backward()  # pools and copies are made by the first pass
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model.losses(inputs, **given).sum().backward()
    peak = _peak_bytes(profiler)
    per_token = memory.activation_bytes(
        model.config, max_len=max_len, itemsize=4, keeps_probabilities=True, recomputes=recomputes
    )
    print("ratio", max_len, recomputes, num_rows * max_len * per_token / peak, peak)
    assert 0.6 < num_rows * max_len * per_token / peak < 1.5


def _full_rows(num_rows: int, length: int) -> Any:
    from bertjobs.modeling import pack_rows

    rows = [[2, *[9 + (r + i) % 60 for i in range(length - 2)], 3] for r in range(num_rows)]
    keys_B = row_keys(torch.arange(num_rows), seed=0, step=0)
    return pack_rows(rows, segments=[[0] * length] * num_rows, row_keys_B=keys_B)


def _peak_bytes(profiler: Any) -> int:
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert len(events) > 100
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def test_too_little_is_an_error_with_numbers_and_what_to_change(
    tiny_pretrain: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_pretrain.make_model()
    need = MemoryNeed(weights=1_000_000_000, gradients=2**30, moments=2**31, activations=70_000_000_000)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 40_000_000_000)
    with pytest.raises(OutOfMemory) as caught:
        check_memory(model, need)
    assert caught.value.message == (
        "Training needs about 74.2 GB of memory on a worker, and there are 40.0 GB: 1.0 GB of weights, "
        "1.1 GB of gradients, 2.1 GB of moments, 70.0 GB of activations"
    )
    assert caught.value.hint == (
        "Lower --microbatch-tokens or set --activation-checkpointing: the result stays the same. Or take a "
        "smaller --model; more workers do not help a single one."
    )
    for enough in (80_000_000_000, None):
        monkeypatch.setattr(memory, "free_bytes", lambda _, enough=enough: enough)
        check_memory(model, need)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 3000 << 10),
        ({"memory.max": "max", "memory.current": "9", "memory.stat": "inactive_file 0"}, 3000 << 10),
        (
            {"memory.max": "900000", "memory.current": "500", "memory.stat": "anon 7\ninactive_file 200"},
            899_700,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "500",
                "memory/memory.stat": "total_inactive_file 200",
            },
            3000 << 10,
        ),
    ],
)
def test_free_memory_is_the_less_of_machine_and_container(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "memory").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:   3000 kB\n")
    assert free_bytes(torch.device("cpu"), meminfo=meminfo, cgroup=tmp_path) == expected


def test_a_copy_for_a_checkpoint_needs_room_beside_what_training_needs(
    tiny_pretrain: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_pretrain.make_model()
    there = 4 * sum(p.numel() for p in model.parameters())
    need = MemoryNeed(weights=there, gradients=10_000, moments=20_000, activations=0, checkpoint_copy=5_000)
    for free, has_room in ((34_999, False), (35_000, True), (None, True)):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        assert has_room_for_copy(model, need) is has_room
    on_device = model.to("meta")  # as on a GPU, whose host has to hold the copy only
    monkeypatch.setattr(memory, "free_bytes", lambda _: 5_000)
    assert has_room_for_copy(on_device, need)


def test_where_nothing_is_known_nothing_is_refused(tmp_path: Path) -> None:
    assert free_bytes(torch.device("cpu"), meminfo=tmp_path / "none", cgroup=tmp_path) is None
