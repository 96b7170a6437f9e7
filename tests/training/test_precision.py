from pathlib import Path
from types import ModuleType

import pytest
import torch

from bertjobs.config.sections import Precision
from bertjobs.errors import ConfigError
from bertjobs.training.evaluate import evaluate
from bertjobs.training.precision import fp32_products, has_bf16, inference_dtype, training_dtype

CPU = torch.device("cpu")
BF16_FLAGS = ["amx_bf16", "avx512_bf16"]


@pytest.fixture(autouse=True)
def asks_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTJOBS_TEST_PRECISION", raising=False)


def _cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: fpu {flags} sse\nbugs\t\t: none\n")
    return path


@pytest.mark.parametrize("flag", BF16_FLAGS)
def test_auto_trains_in_bf16_where_the_processor_has_it(tmp_path: Path, flag: str) -> None:
    assert training_dtype("auto", CPU, cpuinfo=_cpuinfo(tmp_path, flag)) == torch.bfloat16


def test_auto_trains_in_fp32_elsewhere(tmp_path: Path) -> None:
    assert training_dtype("auto", CPU, cpuinfo=_cpuinfo(tmp_path, "avx512f amx_tile")) == torch.float32
    assert training_dtype("auto", CPU, cpuinfo=tmp_path / "missing") == torch.float32


@pytest.mark.parametrize("flag", [*BF16_FLAGS, "avx2"])
def test_auto_computes_results_in_fp32_on_any_processor(tmp_path: Path, flag: str) -> None:
    assert inference_dtype("auto", CPU, cpuinfo=_cpuinfo(tmp_path, flag)) == torch.float32


def test_what_is_asked_for_holds_for_training_and_for_results(tmp_path: Path) -> None:
    cpuinfo = _cpuinfo(tmp_path, "amx_bf16")
    for dtype_of in (training_dtype, inference_dtype):
        assert dtype_of("fp32", CPU, cpuinfo=cpuinfo) == torch.float32
        assert dtype_of("bf16", CPU, cpuinfo=cpuinfo) == torch.bfloat16


def test_bf16_is_refused_where_it_would_be_emulated(tmp_path: Path) -> None:
    for dtype_of in (training_dtype, inference_dtype):
        with pytest.raises(ConfigError, match=r"--precision bf16: .* no bf16 .* --precision auto"):
            dtype_of("bf16", CPU, cpuinfo=_cpuinfo(tmp_path, "avx2"))


@pytest.mark.parametrize(
    ("capability", "dtype"), [((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)]
)
def test_auto_is_the_half_precision_that_a_gpu_has_for_both(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "fp32" if dtype == torch.bfloat16 else "bf16")  # of CPUs
    for dtype_of in (training_dtype, inference_dtype):
        assert dtype_of("auto", torch.device("cuda")) == dtype


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_what_only_gpus_multiply_is_refused_on_a_cpu(precision: Precision) -> None:
    expected = rf"--precision {precision}: this processor has no {precision} arithmetic"
    for dtype_of in (training_dtype, inference_dtype):
        with pytest.raises(ConfigError, match=expected):
            dtype_of(precision, CPU)


def test_tf32_is_fp32_whose_products_round_and_only_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert training_dtype("tf32", torch.device("cuda")) == torch.float32
    before = torch.get_float32_matmul_precision()
    assert before == "highest"
    with fp32_products("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    with fp32_products("fp32"):
        assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before


def test_a_test_decides_what_the_processor_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "bf16")
    assert has_bf16(CPU, cpuinfo=_cpuinfo(tmp_path, "avx2"))
    assert training_dtype("auto", CPU, cpuinfo=_cpuinfo(tmp_path, "avx2")) == torch.bfloat16
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "fp32")
    assert not has_bf16(CPU, cpuinfo=_cpuinfo(tmp_path, "amx_bf16"))
    assert training_dtype("auto", CPU, cpuinfo=_cpuinfo(tmp_path, "amx_bf16")) == torch.float32


def test_auto_finetunes_in_bf16_and_reports_what_an_evaluation_finds_afterwards(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "bf16")
    configs = {name: tiny.make_config(precision=name, epochs=1) for name in ("auto", "bf16", "fp32")}
    runs = {name: tiny.run_finetune(tmp_path / name, config) for name, config in configs.items()}
    losses = {name: tiny.losses_of(hooks) for name, (_, _, hooks) in runs.items()}
    assert losses["auto"] == losses["bf16"] != losses["fp32"]
    assert losses["auto"] == pytest.approx(losses["fp32"], rel=tiny.BF16_EPS)
    result, model, _ = runs["auto"]
    given = {
        "task": tiny.TASK, "text": configs["auto"].text, "tokenizer": tiny.SpecialTokens(),
        "batch_size": configs["auto"].train.eval_batch_size,
    }  # fmt: skip
    valid = tiny.make_table(40, seed=2)
    assert evaluate(model, valid, precision="auto", **given) == result.metrics
    assert evaluate(model, valid, precision="fp32", **given) == result.metrics
    assert evaluate(model, valid, precision="bf16", **given) == runs["bf16"][0].metrics != result.metrics


def test_auto_pretrains_in_bf16_and_validates_in_fp32(
    tiny: ModuleType, tiny_pretrain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "bf16")
    runs = {
        name: tiny_pretrain.run_pretrain(
            tmp_path / name, tiny_pretrain.make_config(precision=name, max_steps=4)
        )
        for name in ("auto", "bf16", "fp32")
    }
    losses = {name: tiny.losses_of(hooks) for name, (_, _, hooks) in runs.items()}
    assert losses["auto"] == losses["bf16"] != losses["fp32"]
    assert losses["auto"] == pytest.approx(losses["fp32"], rel=tiny.BF16_EPS)
    (exact, ours, _), (rounded, theirs, _) = runs["auto"], runs["bf16"]
    weights = theirs.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in ours.state_dict().items())
    assert exact.metrics.loss != rounded.metrics.loss == pytest.approx(exact.metrics.loss, rel=tiny.BF16_EPS)


def test_auto_trains_in_fp32_on_a_processor_without_bf16(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "fp32")
    configs = {name: tiny.make_config(precision=name, max_steps=4) for name in ("auto", "fp32")}
    auto, fp32 = (tiny.run_finetune(tmp_path / name, config)[2] for name, config in configs.items())
    assert tiny.losses_of(auto) == tiny.losses_of(fp32)
    with pytest.raises(ConfigError, match="--precision bf16"):
        tiny.run_finetune(tmp_path / "bf16", tiny.make_config(precision="bf16", max_steps=4))
