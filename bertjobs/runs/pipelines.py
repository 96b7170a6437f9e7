"""How our Ray Data pipelines run: within the CPUs that the grant leaves them, in order, and quietly."""

import logging

import ray.data
from ray.data import ExecutionResources


def bound_pipelines(*, cpus: float, gpus: float = 0.0) -> None:
    """Set up Ray Data in this process: at most so many CPUs and GPUs, results in the order of the inputs."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(cpu=cpus, gpu=gpus)
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # a broken file is told as we tell it
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong comes as an exception too
