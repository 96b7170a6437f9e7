"""One rank of a run of several, started by `test_two_ranks.py`: python two_ranks_worker.py SPEC.json RANK."""

import json
import sys
from pathlib import Path

import tiny
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from bertjobs.training.monitoring import plots


def main(spec_path: str, rank: int) -> None:
    spec = json.loads(Path(spec_path).read_text())
    folder = Path(spec["folder"])
    torch.set_num_threads(1)
    plots.save_plots = lambda *_, **__: ()  # drawing would take longer than the run
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=spec["world_size"]
    )
    # Ranks but the first start with other weights: they must get rank 0's.
    model = tiny.make_model(seed=rank)
    hooks = tiny.MemoryHooks(stop_after=spec.get("stop_after"))
    result, model, hooks = tiny.run_finetune(
        folder,
        tiny.make_config(**spec["train"]),
        num_rows=spec["num_rows"],
        hooks=hooks,
        model=model,
        resume=spec.get("resume"),
    )
    outcome = {
        "steps": [[p.step, p.loss, p.grad_norm] for p in hooks.progress],
        "num_steps": result.num_steps,
        "stopped": result.stopped,
        "metrics": result.metrics.to_json() if result.metrics else None,
        "published": hooks.published,
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(outcome))
    save_file(
        {name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / f"rank{rank}.st"
    )
    tiny.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
