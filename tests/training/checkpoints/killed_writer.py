"""A run that is killed while a thread writes its second checkpoint: python killed_writer.py FOLDER.

Started by `test_checkpoint_writer.py`. Prints the checkpoint that was published before.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import tiny
import torch

from bertjobs.training.checkpoints import checkpoint


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    hooks = tiny.MemoryHooks()
    write_whole = checkpoint.save_file

    def write_or_die(tensors: dict[str, torch.Tensor], path: Path) -> Any:
        write_whole(tensors, path)
        if hooks.published and path.name == "optimizer.safetensors":
            print(hooks.published[-1], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = write_or_die
    tiny.run_finetune(folder, tiny.make_config(checkpoint_steps=4), hooks=hooks, writes_behind=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
