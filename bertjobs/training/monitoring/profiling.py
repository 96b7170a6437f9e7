"""Profile steps of a run (`--profile N`): a trace for Chrome or Perfetto, and a table of where time goes.

The peak that a step is compared with is measured: the rate of one large product in the step's dtype, on this
device and with these threads. Counted are the products of the encoder's layers, as in "model FLOPs
utilisation": what heads, recomputation and the optimizer do lowers the share.

Source: Chowdhery et al. 2022 (PaLM), appendix B.
"""

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bertjobs.modeling.config import BertConfig
from bertjobs.storage import JobDir
from bertjobs.training.objective import AnyStepBatch
from bertjobs.training.precision import autocast

logger = logging.getLogger(__name__)

FOLDER = "profile"
TABLE = f"{FOLDER}/table.txt"
_NUM_WARMUP = 3
"""Steps of an attempt that are not profiled: they allocate memory, make primitives, and may compile."""
_MAX_LINES = 15
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """One operator of the step."""

    name: str
    calls_per_step: float
    ms_per_step: float
    """Own time: on the GPU where there is one, else on the processor."""


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """What a step does on rank 0, as a mean over the profiled steps."""

    num_steps: int
    step_s: float
    operators: float
    """Calls of torch's operators, those that others call included."""
    launches: float
    """Kernels and graphs that the host started on a GPU."""
    waits: float
    """Times that the host waited for a GPU."""
    tokens_per_s: float
    flops_per_s: float
    peak_flops_per_s: float
    by_operator: tuple[OperatorTime, ...]

    @property
    def peak_ratio(self) -> float:
        return self.flops_per_s / self.peak_flops_per_s

    def table(self) -> str:
        """Return it as text."""
        head = (
            f"Profile of {self.num_steps} step(s) of rank 0; the profiler slows small steps down",
            f"  step       {self.step_s * 1e3:10,.1f} ms",
            f"  operators  {self.operators:10,.0f} a step",
            f"  launches   {self.launches:10,.0f} a step",
            f"  waits      {self.waits:10,.0f} a step",
            f"  tokens     {self.tokens_per_s:10,.0f} a second",
            f"  products   {self.peak_ratio:10.1%} of the {self.peak_flops_per_s / 1e12:.2f} TFLOP/s that a "
            "large product reaches here",
            "",
            f"  {'own ms/step':>11}  {'calls/step':>10}  operator",
        )
        rows = (f"  {o.ms_per_step:11.2f}  {o.calls_per_step:10.1f}  {o.name}" for o in self.by_operator)
        return "\n".join((*head, *rows))


class StepProfiler:
    """Profile the first steps after warming up, and write what was found into the job's folder."""

    def __init__(
        self, num_steps: int, *, config: BertConfig, job_dir: JobDir, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._num_steps, self._config, self._job_dir = num_steps, config, job_dir
        self._device, self._dtype = device, dtype
        self._num_seen = self._num_profiled = self._num_tokens = 0
        self._flops = 0.0
        self._began: float | None = None
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler: profile | None = profile(activities=activities)

    def before_step(self) -> None:
        """Begin where the warm-up is over."""
        if self._profiler is not None and self._num_seen == _NUM_WARMUP:
            self._synchronize()
            self._profiler.start()
            self._began = time.perf_counter()

    def after_step(self, batch: AnyStepBatch) -> bool:
        """Count a step; return whether it was the last one to profile, so that the profile is written."""
        self._num_seen += 1
        if self._profiler is None or self._num_seen <= _NUM_WARMUP:
            return False
        lengths = [n for part in batch.microbatches for n in part.inputs.lengths_B.tolist()]
        self._num_profiled += 1
        self._num_tokens += sum(lengths)
        self._flops += training_flops(self._config, lengths)
        if self._num_profiled < self._num_steps:
            return False
        self.finish()
        return True

    def finish(self) -> None:
        """End profiling, and write what there is of it; a run may end before it has so many steps."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        if self._began is None or not self._num_profiled:
            logger.warning(
                "--profile: the run ended within its first %d steps, which are not profiled", _NUM_WARMUP
            )
            return
        self._synchronize()
        elapsed_s = time.perf_counter() - self._began
        profiler.stop()
        found = self._profile_of(profiler, elapsed_s)
        with self._job_dir.new_dir(FOLDER) as folder:
            profiler.export_chrome_trace(str(folder / "trace.json"))
            document = {**asdict(found), "peak_ratio": found.peak_ratio}
            (folder / "profile.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            (folder / "table.txt").write_text(found.table() + "\n", encoding="utf-8")
        logger.info("%s\nThe trace is %s", found.table(), self._job_dir.path_of(f"{FOLDER}/trace.json"))

    def close(self) -> None:
        """Stop profiling after an error; nothing is written."""
        profiler, self._profiler = self._profiler, None
        if profiler is not None and self._began is not None:
            profiler.stop()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _profile_of(self, profiler: profile, elapsed_s: float) -> StepProfile:
        n, averages = self._num_profiled, profiler.key_averages()
        by_operator = [
            OperatorTime(name=a.key, calls_per_step=a.count / n, ms_per_step=self._own_us(a) / 1e3 / n)
            for a in averages
        ]
        return StepProfile(
            num_steps=n,
            step_s=elapsed_s / n,
            operators=_count(averages, ("aten::",)) / n,
            launches=_count(averages, _LAUNCHES) / n,
            waits=_count(averages, _WAITS, exactly=True) / n,
            tokens_per_s=self._num_tokens / elapsed_s,
            flops_per_s=self._flops / elapsed_s,
            peak_flops_per_s=measured_peak(self._device, self._dtype),
            by_operator=tuple(sorted(by_operator, key=lambda o: -o.ms_per_step)[:_MAX_LINES]),
        )

    def _own_us(self, average: Any) -> float:
        on_device = self._device.type == "cuda"
        return float(average.self_device_time_total if on_device else average.self_cpu_time_total)


def _count(averages: Iterable[Any], names: tuple[str, ...], *, exactly: bool = False) -> int:
    """Return the calls of what has one of these names, or begins with one."""
    return sum(a.count for a in averages if (a.key in names if exactly else a.key.startswith(names)))


def training_flops(config: BertConfig, lengths: Iterable[int]) -> float:
    """Return the floating-point operations of a step's products in the encoder's layers, for these rows.

    Six for each weight and token: a multiplication and an addition in the forward pass, twice that in the
    backward pass. Scores and context of attention: 12 D for each pair of tokens of a row.
    """
    D, F = config.hidden_size, config.intermediate_size
    num_weights = 4 * D * D + 2 * D * F
    return float(config.num_hidden_layers * sum(6 * num_weights * L + 12 * D * L * L for L in lengths))


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of a large product: the best of a few."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    best_s = float("inf")
    with torch.no_grad(), autocast(device, dtype):
        if dtype != torch.float32:
            a, b = a.to(dtype), b.to(dtype)
        for _ in range(6):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            began = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best_s = min(best_s, time.perf_counter() - began)
    return 2.0 * size**3 / best_s
