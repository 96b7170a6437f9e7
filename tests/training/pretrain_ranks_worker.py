"""One rank of a pretraining run of several: python pretrain_ranks_worker.py SPEC.json RANK."""

import json
import sys
from pathlib import Path

import tiny
import tiny_pretrain
import torch
import torch.distributed as dist

from bertjobs.training.monitoring import plots


def main(spec_path: str, rank: int) -> None:
    spec = json.loads(Path(spec_path).read_text())
    folder = Path(spec["folder"])
    torch.set_num_threads(1)
    plots.save_pretraining_plots = lambda *_, **__: ()  # drawing would take longer than the run
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=spec["world_size"]
    )
    # Ranks but the first start with other weights and clocks: they must follow rank 0's.
    clock = iter(range(10_000))
    result, _, hooks = tiny_pretrain.run_pretrain(
        folder,
        tiny_pretrain.make_config(**spec["train"]),
        model=tiny_pretrain.make_model(seed=rank),
        clock=lambda: float(next(clock)) * (1 + 100 * rank),
    )
    outcome = {
        "steps": [[p.losses["mlm_loss"], p.losses["nsp_loss"], p.grad_norm] for p in hooks.progress],
        "num_steps": result.num_steps,
        "num_tokens": result.num_tokens,
        "metrics": result.metrics.to_json(),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(outcome))
    tiny.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
