"""The checks of `make gpu` that cost little, with a tiny model on a CPU: the script itself works."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    path, before = list(sys.path), dict(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # the script sets it; put back at the end
        spec = importlib.util.spec_from_file_location("gpu_run_all", Path(__file__).with_name("run_all.py"))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    sys.path[:] = path
    for name in set(sys.modules) - set(before):
        if name in ("tiny", "tiny_pretrain"):
            del sys.modules[name]


def test_a_step_of_the_plain_model_makes_the_host_wait_for_nothing(script: ModuleType) -> None:
    told = script.check_no_host_wait(script.Bench("cpu", is_tiny=True))
    assert told.endswith("1 copy, no wait")


def test_half_precision_is_near_fp32_and_one_rank_of_ddp_changes_nothing(script: ModuleType) -> None:
    bench = script.Bench("cpu", is_tiny=True)
    assert script.check_outputs_and_gradients(bench).startswith(
        "fp32: loss 0.0e+00, gradient 0.0e+00; half: "
    )
    assert script.check_ddp(bench).startswith("gloo: gradients differ by")


def test_another_weight_of_attention_is_noticed(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script.Bench("cpu", is_tiny=True)
    assert script.check_transformers(bench).startswith("logits of up to ")
    made = script.hugging_face_model

    def changed(*args: object, **given: object) -> torch.nn.Module:
        model = made(*args, **given)
        with torch.no_grad():
            model.bert.encoder.layer[0].attention.self.query.weight.mul_(1.5)
        return model

    monkeypatch.setattr(script, "hugging_face_model", changed)
    with pytest.raises(AssertionError, match="differ by"):
        script.check_transformers(bench)


def test_a_check_that_fails_is_told_and_the_others_go_on(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_arithmetic(bench: object) -> str:
        raise AssertionError("1 + 1 is 3")

    def check_nothing(bench: object) -> str:
        raise script.Skipped("no reason")

    monkeypatch.setattr(script, "CHECKS", (check_arithmetic, check_nothing))
    results = script.run(script.Bench("cpu", is_tiny=True))
    assert [(r["check"], r["outcome"], r["detail"]) for r in results] == [
        ("arithmetic", "FAILED", "AssertionError: 1 + 1 is 3"),
        ("nothing", "skipped", "no reason"),
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_it_says_what_to_run_instead(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    assert script.main() == 0
    assert "`--device cpu --tiny` runs the script itself" in capsys.readouterr().out
