"""In a container of the ray image: Ray's autoscaler with nodes that are processes, and requests as the
dispatcher sends them. Prints `came` and `gone` with the seconds that each took.

In a container because these nodes take Ray's default ports.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

PATIENCE_S = 240.0
STORE = {"object_store_memory": 80_000_000}


def start(version: str) -> None:
    """Start a head whose autoscaler may add two nodes of 4 GPUs."""
    gpu = {"resources": {"CPU": 16, "GPU": 4, **STORE}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    head = {"resources": {"CPU": 0, **STORE}, "node_config": {}, "max_workers": 0}
    provider = {"type": "fake_multinode", "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True}
    config = {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 0.1,
        "provider": provider,
        "available_node_types": {"ray.head.default": head, "gpu": gpu},
        "head_node_type": "ray.head.default",
    }
    path = Path.home() / "fake.json"
    path.write_text(json.dumps(config))
    env = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    if version == "v2":
        env |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID}
    env["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] = FAKE_HEAD_NODE_ID
    words = ["ray", "start", "--head", "--port=6379", "--num-cpus=0", "--num-gpus=0", "--disable-usage-stats"]
    words += [f"--autoscaling-config={path}", f"--object-store-memory={STORE['object_store_memory']}"]
    subprocess.run(words, env={**os.environ, **env}, check=True, stdout=subprocess.DEVNULL)


def gpus() -> float:
    """Return the GPUs of the living nodes."""
    return sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])


def ask(bundles: str) -> None:
    """Send a request as the dispatcher's Ray Job does."""
    subprocess.run([sys.executable, "-m", "bertjobs.runs.scale_request", bundles], check=True)


def wait_for(name: str, expected: float) -> None:
    """Wait until the cluster has this many GPUs."""
    start_s = time.monotonic()
    while gpus() != expected:
        assert time.monotonic() - start_s < PATIENCE_S, f"{name}: {gpus()} GPUs instead of {expected}"
        time.sleep(1)
    print(name, f"{time.monotonic() - start_s:.0f}", flush=True)


def main(version: str) -> None:
    """Have the nodes of a job with 8 GPUs come and go."""
    start(version)
    ray.init(address="auto", log_to_driver=False)
    assert gpus() == 0
    ask("[[1.0, 1.0, 8], [2.0, 0.0, 1]]")
    wait_for("came", 8)
    ask("[]")
    wait_for("gone", 0)


if __name__ == "__main__":
    main(sys.argv[1])
