"""The embedded local stack: Redis, a Ray head, the dispatcher and their watchdog, as detached processes.

With no `BERTJOBS_REDIS_URL` and no `BERTJOBS_RAY_ADDRESS` the first command that needs them starts them.
"""

from bertjobs.stack.lifecycle import StackAddresses, down, ensure, running_redis, up
from bertjobs.stack.status import ray_access, status

__all__ = ["StackAddresses", "down", "ensure", "ray_access", "running_redis", "status", "up"]
