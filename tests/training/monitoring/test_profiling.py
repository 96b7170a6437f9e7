import json
import logging
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bertjobs.modeling import BertConfig
from bertjobs.modeling.bert import BertModel
from bertjobs.modeling.inputs import pack_rows
from bertjobs.training.monitoring.profiling import OperatorTime, StepProfile, training_flops


def test_a_profiled_run_leaves_a_trace_a_table_and_its_numbers(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = tiny.make_config(max_steps=8, profile=2)
    _, model, hooks = tiny.run_finetune(tmp_path / "profiled", config)
    folder = tmp_path / "profiled" / "j-test" / "profile"
    names = [event.get("name") for event in json.loads((folder / "trace.json").read_text())["traceEvents"]]
    assert "aten::addmm" in names or "aten::mm" in names
    found = json.loads((folder / "profile.json").read_text())
    assert found["num_steps"] == 2
    assert found["operators"] > 100 and found["launches"] == found["waits"] == 0, "a CPU launches nothing"
    assert found["tokens_per_s"] > 0 and 0 < found["peak_ratio"] < 1
    assert 0 < len(found["by_operator"]) <= 15
    own_ms = [operator["ms_per_step"] for operator in found["by_operator"]]
    assert own_ms == sorted(own_ms, reverse=True)
    table = (folder / "table.txt").read_text()
    assert table.startswith("Profile of 2 step(s) of rank 0") and table.strip() in caplog.text
    # It changes nothing about the training.
    _, plain, plain_hooks = tiny.run_finetune(tmp_path / "plain", tiny.make_config(max_steps=8))
    assert tiny.losses_of(hooks) == tiny.losses_of(plain_hooks)
    theirs = plain.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("max_steps", "num_profiled"), [(5, 2), (3, 0)])
def test_a_run_that_ends_early_has_a_profile_of_the_steps_that_it_took(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, max_steps: int, num_profiled: int
) -> None:
    tiny.run_finetune(tmp_path, tiny.make_config(max_steps=max_steps, profile=50))
    written = tmp_path / "j-test" / "profile" / "profile.json"
    if num_profiled:
        assert json.loads(written.read_text())["num_steps"] == num_profiled
    else:
        assert not written.exists()
        assert "--profile: the run ended within its first 3 steps" in caplog.text


def test_an_error_in_a_profiled_step_leaves_the_profiler_free_for_the_next_run(
    tiny: ModuleType, tmp_path: Path
) -> None:
    class Hooks(tiny.MemoryHooks):  # type: ignore[misc, name-defined]
        def on_progress(self, progress: object) -> None:
            super().on_progress(progress)
            if len(self.progress) == 5:
                raise RuntimeError("step 5 fails")

    with pytest.raises(RuntimeError, match="step 5 fails"):
        tiny.run_finetune(tmp_path / "a", tiny.make_config(profile=9), hooks=Hooks())
    assert not (tmp_path / "a" / "j-test" / "profile").exists()
    tiny.run_finetune(tmp_path / "b", tiny.make_config(max_steps=5, profile=1))
    assert (tmp_path / "b" / "j-test" / "profile" / "table.txt").exists()


def test_the_operations_of_a_step_are_those_that_torch_counts() -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertModel(config)
    rows = [[7] * 16, [8] * 16, [9] * 16]
    inputs = pack_rows(rows, segments=[[0] * 16] * 3)
    with FlopCounterMode(display=False) as counter:
        model(inputs).sum().backward()
    # Torch does not count attention on a CPU; written as products it does.
    q_HLE, k_HLE, v_HLE = (torch.randn(2, 16, 16, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as attention:
        (q_HLE @ k_HLE.transpose(1, 2) @ v_HLE).sum().backward()
    counted = counter.get_total_flops() + 2 * 3 * attention.get_total_flops()  # layers, rows
    assert counted == training_flops(config, [16] * 3)


def test_the_table_says_what_was_counted() -> None:
    found = StepProfile(
        num_steps=20, step_s=0.0123, operators=1467.0, launches=812.4, waits=0.05, tokens_per_s=123456.7,
        flops_per_s=3e14, peak_flops_per_s=8e14,
        by_operator=(OperatorTime(name="aten::mm", calls_per_step=96.0, ms_per_step=4.5),),
    )  # fmt: skip
    assert found.table().splitlines() == [
        "Profile of 20 step(s) of rank 0; the profiler slows small steps down",
        "  step             12.3 ms",
        "  operators       1,467 a step",
        "  launches          812 a step",
        "  waits               0 a step",
        "  tokens        123,457 a second",
        "  products        37.5% of the 800.00 TFLOP/s that a large product reaches here",
        "",
        "  own ms/step  calls/step  operator",
        "         4.50        96.0  aten::mm",
    ]
