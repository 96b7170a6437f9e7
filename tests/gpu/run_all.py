"""Check training on a GPU, and time it beside transformers: `make gpu`. No Ray or network; ten minutes.

    python tests/gpu/run_all.py                        everything, on cuda
    python tests/gpu/run_all.py --device cpu --tiny    the same with a tiny model, where there is no GPU

The data are generated rows and documents. Prints a table, writes JSON (--output), and exits 1 where a check
failed. What needs CUDA is skipped with a reason on a CPU.

Shape suffixes: N: tokens. B: rows. L: tokens of the longest row.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read before CUDA starts
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

import numpy as np
import tiny
import tiny_pretrain
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.config.sections import OptimSection, TextSection
from bertjobs.modeling import BertConfig, BertForSequenceClassification, build_classifier
from bertjobs.training.adamw import build_adamw
from bertjobs.training.batches import BatchLoader, Microbatch, StepBatch
from bertjobs.training.device_feed import StagedBatch, on_device
from bertjobs.training.distributed import current_ranks
from bertjobs.training.precision import autocast, training_dtype
from bertjobs.training.step import StepTaker, train_step
from host_waits import NoHostWaits

P = TypeVar("P")
"""What a timed step takes."""


class Skipped(Exception):
    """A check that cannot run here, and why."""


class Bench:
    """The device, the sizes, and models and batches made for them."""

    def __init__(self, device: str, *, is_tiny: bool) -> None:
        self.device, self.is_tiny = torch.device(device), is_tiny
        self.batch_size, self.num_steps = (8, 3) if is_tiny else (128, 30)
        self.half = training_dtype("auto", self.device) if self.device.type == "cuda" else torch.bfloat16
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        given = sizes if is_tiny else {}  # else BERT-base
        self.config_values = {
            "vocab_size": 200 if is_tiny else 30522,
            "max_position_embeddings": 128,
            **given,
        }

    def model(self, *, dropout: float = 0.1) -> BertForSequenceClassification:
        rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        # Wider than BERT's 0.02: with weights that small attention is nearly uniform, and an error in it
        # would hide below the tolerance.
        rates["initializer_range"] = 0.2 if self.is_tiny else 0.04
        return build_classifier(BertConfig(**self.config_values, **rates), num_labels=3, seed=0)

    def loader(self) -> BatchLoader:
        return BatchLoader(
            tiny.make_table(self.batch_size * 4, seed=1),
            text=TextSection(max_len=64),
            tokenizer=tiny.SpecialTokens(),
            max_tokens=65536,
            ranks=current_ranks(),
            vocab_size=self.config_values["vocab_size"],
        )

    def batches(self, num_steps: int) -> Iterator[StepBatch]:
        loader = self.loader()
        for step in range(num_steps):
            rows = (np.arange(self.batch_size) + step) % (self.batch_size * 4)
            yield loader.step_batch(rows, seed=0, step=step, min_microbatches=1)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def loss_of(model: nn.Module) -> Callable[[Microbatch, StepBatch], Tensor]:
    def losses(microbatch: Microbatch, batch: StepBatch) -> Tensor:
        logits_BC = model(microbatch.inputs).float()
        loss = F.cross_entropy(logits_BC, microbatch.targets["labels"], reduction="sum")
        return loss.view(1) / batch.num_rows

    return losses


def check_outputs_and_gradients(bench: Bench) -> str:
    """The device in fp32 and in half precision beside fp32 on the CPU, without dropout."""
    (batch,) = bench.batches(1)
    (reference,) = batch.microbatches
    found = {}
    for name, device, dtype in (
        ("cpu", torch.device("cpu"), torch.float32),
        ("fp32", bench.device, torch.float32),
        ("half", bench.device, bench.half),
    ):
        model = bench.model(dropout=0.0).to(device).train()
        there = StagedBatch.stage(batch, pin_memory=False).to(device)
        with autocast(device, dtype):
            loss = loss_of(model)(there.microbatches[0], there).sum()
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).cpu()
        found[name] = (float(loss.detach()), gradient)
    assert reference.inputs.ids_N.device.type == "cpu"
    told = []
    for name, tolerance in (("fp32", 1e-4), ("half", 5e-2)):
        loss_error = abs(found[name][0] - found["cpu"][0]) / abs(found["cpu"][0])
        error = float((found[name][1] - found["cpu"][1]).norm() / found["cpu"][1].norm())
        told.append(f"{name}: loss {loss_error:.1e}, gradient {error:.1e}")
        assert loss_error < tolerance and error < tolerance, told[-1]
    return "; ".join(told)


def check_transformers(bench: Bench) -> str:
    """Logits beside transformers, with the same weights, in fp32."""
    model = bench.model(dropout=0.0).to(bench.device).eval()
    theirs = hugging_face_model(bench, dropout=0.0).to(bench.device).eval()
    (batch,) = bench.batches(1)
    there = StagedBatch.stage(batch, pin_memory=False).to(bench.device).microbatches[0]
    with torch.inference_mode():
        expected = theirs(**padded(there)).logits
        error = float((model(there.inputs) - expected).abs().max())
    largest = float(expected.abs().max())
    assert error < 1e-3 * largest, f"logits of up to {largest:.1e} differ by {error:.1e}"
    return f"logits of up to {largest:.1e} differ by {error:.1e}"


def check_finetune_and_resume(bench: Bench) -> str:
    """Default fine-tuning of 20 steps, and 10, a checkpoint, a resume and 10 more."""
    config = tiny.make_config(precision="auto", max_steps=20, checkpoint_steps=10)
    return _resumed(bench, tiny.make_model, tiny.run_finetune, config)


def check_pretrain_and_resume(bench: Bench) -> str:
    """The same of pretraining."""
    config = tiny_pretrain.make_config(precision="auto", max_steps=20, checkpoint_steps=10)
    return _resumed(bench, tiny_pretrain.make_model, tiny_pretrain.run_pretrain, config)


def _resumed(bench: Bench, make_model: Any, run: Any, config: Any) -> str:
    def train(folder: Path, **given: Any) -> Any:
        return run(folder, config, model=make_model(spread=0.2).to(bench.device), **given)[2]

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = train(folder / "whole")
        stopped = train(folder / "parts", hooks=tiny.MemoryHooks(stop_after=10))
        resumed = train(folder / "parts", resume=stopped.published[-1])
    losses = tiny.losses_of(whole)
    tail = tiny.losses_of(resumed)
    assert losses[-1] < losses[0], f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"
    # Atomic sums on a GPU differ in the last bits from run to run, and steps carry that on.
    worst = max(abs(a - b) for a, b in zip(losses[-len(tail) :], tail, strict=True))
    assert worst < 0.05, f"losses after the resume differ by {worst:.2e}"
    return (
        f"loss {losses[0]:.3f} to {losses[-1]:.3f}; {len(tail)} losses after the resume differ by {worst:.1e}"
    )


def check_no_host_wait(bench: Bench) -> str:
    """Five steps under torch's check; on a CPU with a model on meta, where reading a value is an error."""
    device = bench.device if bench.device.type == "cuda" else torch.device("meta")
    model = bench.model().to(device).train()
    optimizer = build_adamw(model, num_layers=2, optim=OptimSection(), dtype=bench.half)
    given = {"optimizer": optimizer, "ranks": current_ranks(), "losses": loss_of(model), "lr": 1e-4}
    if device.type == "cuda":
        batches = on_device(bench.batches(7), device)
        for step, batch in enumerate(batches):
            torch.cuda.set_sync_debug_mode("error" if step >= 2 else "default")
            try:
                train_step(batch, dtype=bench.half, **given)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return "5 steps, torch.cuda.set_sync_debug_mode('error')"
    optimizer._adamw.step = lambda: None  # type: ignore[method-assign]  # meta has no fused AdamW
    staged = StagedBatch.stage(next(bench.batches(1)), pin_memory=False)
    with NoHostWaits() as waits:
        train_step(staged.to(device), dtype=torch.float32, **given)
    assert len(waits.copies) == 1, f"{len(waits.copies)} copies"
    return f"on meta: {waits.num_operations} operations without the update, 1 copy, no wait"


def check_deterministic(bench: Bench) -> str:
    """Two runs with --deterministic are equal bit for bit."""
    config = tiny.make_config(precision="auto", max_steps=8, deterministic=True)
    found = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            model = tiny.make_model(spread=0.2).to(bench.device)
            found.append(tiny.losses_of(tiny.run_finetune(Path(folder), config, model=model)[2]))
    assert found[0] == found[1], f"{found[0]} and {found[1]}"
    return "8 losses equal"


def check_ddp(bench: Bench) -> str:
    """One rank through DistributedDataParallel gives the gradients of none."""
    backend = "nccl" if bench.device.type == "cuda" else "gloo"
    (batch,) = bench.batches(1)
    there = StagedBatch.stage(batch, pin_memory=False).to(bench.device)
    gradients = []
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            backend, init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        try:
            for is_wrapped in (False, True):
                model = bench.model(dropout=0.0).to(bench.device).train()
                wrapped = nn.parallel.DistributedDataParallel(model) if is_wrapped else model
                loss_of(wrapped)(there.microbatches[0], there).sum().backward()
                gradients.append(
                    torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
                )
        finally:
            torch.distributed.destroy_process_group()
    error = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    assert error < 1e-4, f"gradients differ by {error:.1e}"
    return f"{backend}: gradients differ by {error:.1e}"


def check_speed(bench: Bench) -> str:
    """Examples per second beside transformers: half precision, fused AdamW, dynamic padding; medians."""
    rates = {"ours": _our_rate(bench, is_compiled=False), "transformers": _their_rate(bench, compiles=False)}
    if bench.device.type == "cuda":
        rates["ours, compiled"] = _our_rate(bench, is_compiled=True)
        rates["transformers, compiled"] = _their_rate(bench, compiles=True)
    best = max(rates[name] for name in rates if name.startswith("transformers"))
    ours = max(rates[name] for name in rates if name.startswith("ours"))
    told = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    return f"examples/s at batch {bench.batch_size}: {told}; {ours / best:.2f} times the best of transformers"


def _our_rate(bench: Bench, *, is_compiled: bool) -> float:
    model = bench.model().to(bench.device).train()
    optimizer = build_adamw(model, num_layers=2, optim=OptimSection(), dtype=bench.half)
    taker = StepTaker(loss_of(model), is_compiled=is_compiled)

    def step(batch: StepBatch) -> None:
        taker.step(batch, optimizer=optimizer, ranks=current_ranks(), dtype=bench.half, lr=1e-5)

    rate = _rate(bench, step, prepare=lambda batch: batch)
    assert taker.is_compiled is is_compiled, "torch.compile failed; see the warning"
    return rate


def _their_rate(bench: Bench, *, compiles: bool) -> float:
    model = hugging_face_model(bench, dropout=0.1).to(bench.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    forward = torch.compile(model, dynamic=True) if compiles else model

    def prepare(batch: StepBatch) -> tuple[dict[str, Tensor], Tensor]:
        # Padding is the collator's work: not timed.
        (microbatch,) = batch.microbatches
        return padded(microbatch), microbatch.targets["labels"]

    def step(prepared: tuple[dict[str, Tensor], Tensor]) -> None:
        inputs, labels_B = prepared
        with autocast(bench.device, bench.half):
            logits_BC = forward(**inputs).logits
        F.cross_entropy(logits_BC.float(), labels_B).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return _rate(bench, step, prepare=prepare)


def _rate(bench: Bench, step: Callable[[P], None], *, prepare: Callable[[StepBatch], P]) -> float:
    """Return the examples per second of the median of three passes, after one for warming up.

    prepare: makes of a batch on the device what a step takes; not timed.
    """
    with torch.random.fork_rng():
        for batch in on_device(bench.batches(bench.num_steps), bench.device):
            step(prepare(batch))
        rates = []
        for _ in range(3):
            batches = [
                prepare(StagedBatch.stage(b, pin_memory=False).to(bench.device))
                for b in bench.batches(bench.num_steps)
            ]
            bench.synchronize()
            began = time.perf_counter()
            for batch in batches:
                step(batch)
            bench.synchronize()
            rates.append(bench.num_steps * bench.batch_size / (time.perf_counter() - began))
    return statistics.median(rates)


def hugging_face_model(bench: Bench, *, dropout: float) -> Any:
    try:
        import transformers
    except ImportError as e:
        raise Skipped("transformers is not installed") from e
    config = transformers.BertConfig(
        **bench.config_values, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    loaded = model.load_state_dict(bench.model().state_dict(), strict=False)
    assert not loaded.missing_keys and not loaded.unexpected_keys, loaded
    return model


def padded(microbatch: Microbatch) -> dict[str, Tensor]:
    """Return the same rows as transformers takes them, padded to the longest."""
    inputs = microbatch.inputs
    places = inputs.padded
    mask_BL = places.is_token_BL
    return {
        "input_ids": inputs.ids_N[places.token_BL] * mask_BL,
        "token_type_ids": inputs.segments_N[places.token_BL] * mask_BL,
        "attention_mask": mask_BL.long(),
    }


CHECKS = (
    check_outputs_and_gradients, check_transformers, check_finetune_and_resume, check_pretrain_and_resume,
    check_no_host_wait, check_deterministic, check_ddp, check_speed,
)  # fmt: skip


def run(bench: Bench) -> list[dict[str, Any]]:
    """Run all checks, and print a line for each."""
    results = []
    for check in CHECKS:
        began, outcome = time.perf_counter(), "ok"
        try:
            detail = check(bench)
        except Skipped as e:
            outcome, detail = "skipped", str(e)
        except ModuleNotFoundError as e:
            outcome, detail = "skipped", f"{e.name} is not installed"
        except Exception as e:  # one check that fails must not hide the others
            outcome, detail = "FAILED", f"{type(e).__name__}: {e}"
            traceback.print_exc()
        name = check.__name__.removeprefix("check_").replace("_", " ")
        seconds = time.perf_counter() - began
        results.append({"check": name, "outcome": outcome, "detail": detail, "seconds": round(seconds, 1)})
        print(f"{name:24} {outcome:8} {seconds:6.1f} s  {detail}", flush=True)
    return results


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the log of the runs, which would hide the table; warnings stay."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check training on a GPU, and time it beside transformers.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few steps")
    parser.add_argument("--output", type=Path, help="write the results as JSON to this file")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device here: every check is skipped. `--device cpu --tiny` runs the script itself.")
        return 0
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"torch {torch.__version__} on {name}")
    with quiet():
        results = run(Bench(given.device, is_tiny=given.tiny))
    if given.output:
        document = {"torch": torch.__version__, "device": name, "checks": results}
        given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return int(any(result["outcome"] == "FAILED" for result in results))


if __name__ == "__main__":
    sys.exit(main())
