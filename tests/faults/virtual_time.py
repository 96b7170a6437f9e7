"""Virtual time for the real Lua scripts, and for the modules of the product that read a clock.

The scripts use Redis' own clock. The campaign loads a copy of their source with a few lines in front that
stand between the script and `redis`: they answer TIME from an argument, and keep the expiry of the leadership
by it. The product's own source has no such lines and knows no such argument.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from bertjobs.jobs.driver import session, throttle
from bertjobs.jobs.store import connection, job_store

EPOCH_S = 1_800_000_000

SHIM = """
local real = redis
local redis = setmetatable({call = function(name, ...)
  if name == 'TIME' then return {ARGV[2], '0'} end
  if name == 'PEXPIRE' then
    real.call('SET', 'test:until:' .. select(1, ...), ARGV[2] * 1000 + select(2, ...))
    return 1
  end
  if name == 'SET' and select('#', ...) == 4 then
    real.call('SET', 'test:until:' .. select(1, ...), ARGV[2] * 1000 + select(4, ...))
    return real.call('SET', select(1, ...), (select(2, ...)))
  end
  local reply = real.call(name, ...)
  if name == 'SMEMBERS' then table.sort(reply) end  -- Redis seeds the order of a set anew in each process
  return reply
end}, {__index = real})
if tonumber(real.call('GET', 'test:until:bj:leader') or 'inf') <= ARGV[2] * 1000 then
  real.call('DEL', 'bj:leader', 'test:until:bj:leader')
end
"""


class VirtualClock:
    """What the product takes for the module `time`."""

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.monotonic = now
        self.sleep = sleep

    def time(self) -> float:
        return EPOCH_S + self.monotonic()


@contextmanager
def patched_clocks(clock: VirtualClock, *, new_id: Callable[[], str]) -> Iterator[None]:
    """Give the product this clock, and ids that depend on the seed only."""
    with ExitStack() as patches:
        for module in (session, throttle, connection):
            patches.enter_context(mock.patch.object(module, "time", clock))
        patches.enter_context(mock.patch.object(job_store, "new_job_id", new_id))
        yield


class VirtualConnection(connection.Connection):
    """The product's connection, whose scripts run in virtual time and whose calls may meet a fault."""

    READS = frozenset({"get", "find", "list", "read_live", "read_queue", "read_logs", "list_ended", "quotas"})

    def __init__(self, client: Any, world: Any) -> None:
        super().__init__(client, where="the campaign's Redis")
        self._world = world
        self.answered_at = world.now
        """When Redis last gave an answer."""

    def run(self, script: str, /, **arg: Any) -> list[Any]:
        def effect() -> list[Any]:
            now = f"{EPOCH_S + self._world.now:.3f}"
            answer = self._run_at(now, script, arg)
            if script == "checkpoint":
                self._world.journal.published(arg["id"], token=arg["token"], name=arg["name"])
            return answer

        answer = self._world.call("redis", script, effect, is_write=script not in self.READS)
        self.answered_at = self._world.now
        return answer

    def _run_at(self, now: str, script: str, arg: dict[str, Any]) -> list[Any]:
        if script not in self._scripts:
            source = SHIM + connection.source_of(script)
            self._scripts[script] = self.client.register_script(source)
        real, at = self._scripts[script], now

        def with_time(args: list[Any]) -> Any:
            return real(args=[*args, at])

        self._scripts[script] = with_time  # type: ignore[assignment]
        try:
            return super().run(script, **arg)
        finally:
            self._scripts[script] = real
