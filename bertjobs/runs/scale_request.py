"""Ask Ray's autoscaler for nodes, as a Ray Job: `python -m bertjobs.runs.scale_request BUNDLES`.

BUNDLES is a JSON list of [CPUs, GPUs, number]. It replaces the request before it; `[]` takes that back. Ray
takes a request from no one who is not connected to it, so the dispatcher sends it by this job.
"""

import json
import logging
import sys


def bundles_of(text: str) -> list[dict[str, float]]:
    """Return the bundles as Ray wants them: one entry each, without what is zero."""
    found = []
    for cpus, gpus, number in json.loads(text):
        bundle = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount > 0}
        found += [bundle] * number
    return found


def main(text: str) -> None:
    """Send the request."""
    import ray
    from ray.autoscaler.sdk import request_resources

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    request_resources(bundles=bundles_of(text))
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
