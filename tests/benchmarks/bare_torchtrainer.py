"""The least a person would write to train on Ray without bertjobs: one TorchTrainer, one worker, one step.

    RAY_ADDRESS=... python tests/benchmarks/bare_torchtrainer.py FILE

Random batch, random weights, no data to read. FILE gets the wall-clock time at which the first step was done.
Used by `bench_start.py` as the other side of the comparison.
"""

import sys
import time
from pathlib import Path

import ray
import ray.train.torch
import torch


def train(config: dict[str, str]) -> None:
    """Take one step of a small encoder and note the time."""
    layer = torch.nn.TransformerEncoderLayer(128, 2, 512, batch_first=True)
    model = ray.train.torch.prepare_model(torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model(torch.randn(32, 32, 128)).square().mean().backward()
    optimizer.step()
    Path(config["file"]).write_text(repr(time.time()))


def main() -> None:
    """Connect to the Ray that RAY_ADDRESS names and train."""
    ray.init(log_to_driver=False)
    ray.train.torch.TorchTrainer(
        train,
        train_loop_config={"file": sys.argv[1]},
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(storage_path=str(Path(sys.argv[1]).parent / "results")),
    ).fit()


if __name__ == "__main__":
    main()
