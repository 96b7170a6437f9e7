"""What was acknowledged, written down outside Redis, and the invariants over it."""

import json
from typing import Any

from bertjobs.jobs.job import State

TERMINAL = frozenset(str(state) for state in State if state.is_terminal)
LOOK_EVERY_S = 5.0


class Journal:
    """The journal of one run."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self.jobs: dict[str, str] = {}
        """Accepted jobs, and the end that a user has seen."""
        self.lost: set[str] = set()
        """Jobs that Redis was rolled back to before."""
        self._was_rolled_back = False
        self._token: dict[str, int] = {}
        self._working: set[tuple[str, int]] = set()
        self._published: dict[str, tuple[int, str]] = {}
        self._looked_at = 0.0

    def accepted(self, job_id: str) -> None:
        self.jobs[job_id] = ""

    def submitted(self, driver: Any) -> None:
        """Check that tokens increase."""
        before = self._token.get(driver.job_id, 0)
        if driver.token < before and not self._was_rolled_back:
            self._world.violate(f"{driver.job_id}: token {driver.token} after {before}")
        self._token[driver.job_id] = max(before, driver.token)

    def started(self, driver: Any) -> None:
        """Check that one driver only works under a token, and beside no earlier one whose workers live."""
        others = [other.token for other in self._world.ray.living(driver.job_id) if other is not driver]
        # One that was cut off before it had done anything comes back, and has not noticed yet.
        if others and not driver.cut_until["ray"] and not self._was_rolled_back:
            self._world.violate(f"{driver.job_id}: token {driver.token} works beside {others}")
        if driver.actor in self._working and not self._was_rolled_back:
            self._world.violate(f"{driver.job_id}: two drivers under token {driver.token}")
        self._working.add(driver.actor)

    def published(self, job_id: str, *, token: int, name: str) -> None:
        """Check that no attempt publishes after a later one. Called when Redis carries it out, not when the
        answer arrives."""
        before, _ = self._published.get(job_id, (0, ""))
        if token < before and not self._was_rolled_back:
            self._world.violate(f"{job_id}: token {token} published after token {before}")
        self._published[job_id] = (token, name)

    def cancelled(self, job_id: str) -> None:
        """A user cancels what Redis shows, which after a rollback may be a job that had succeeded."""
        if self._was_rolled_back:
            self.jobs[job_id] = ""

    def rolled_back(self) -> None:
        """Redis loses what it has acknowledged: only what is in storage too can be asked for."""
        self._was_rolled_back = True
        self.jobs = {job_id: end if end == "SUCCEEDED" else "" for job_id, end in self.jobs.items()}

    def look(self) -> None:
        """Look at the states as a user does, and at what is granted."""
        world = self._world
        if world.now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = world.now
        self._check_ends()
        self._check_grants()

    def all_ended(self) -> bool:
        return all(self._state(job_id) in TERMINAL for job_id in self.jobs if job_id not in self.lost)

    def check_end(self) -> None:
        """Check what must hold once the faults have stopped for long."""
        world = self._world
        self._check_ends()
        for job_id in self.jobs:
            if job_id in self.lost:
                continue
            fields = world.client.hgetall(f"bj:job:{job_id}")
            if fields["state"] not in TERMINAL:
                world.violate(
                    f"{job_id} is {fields['state']}: {fields.get('reason')}, {fields.get('message')}"
                )
            if fields["state"] == "SUCCEEDED":
                self._check_result(job_id, fields)
            self._check_checkpoint(job_id, fields)
        for key in ("bj:live", "bj:leases", "bj:logs", "bj:delay", "bj:queue"):
            if world.client.exists(key):
                world.violate(f"{key} is not empty")

    def _check_ends(self) -> None:
        for job_id, seen in self.jobs.items():
            state = self._state(job_id)
            if state is None:
                if not self._was_rolled_back:
                    self._world.violate(f"{job_id} is gone")
                self.lost.add(job_id)
            elif seen and state != seen and not (self._was_rolled_back and state not in TERMINAL):
                self._world.violate(f"{job_id}: {seen} became {state}")
            elif state in TERMINAL:
                self.jobs[job_id] = state

    def _check_grants(self) -> None:
        client = self._world.client
        cpus = 0.0
        for member in client.smembers("bj:live"):
            job_id, number = member.split()
            grant = json.loads(client.hget(f"bj:job:{job_id}:a{number}", "grant") or "null")
            if grant:
                cpus += grant["workers"] * grant["cpus_per_worker"] + grant["data_cpus"]
        if cpus > 2 + 1e-9:
            self._world.violate(f"{cpus} CPUs are granted, the cluster has 2")

    def _check_result(self, job_id: str, fields: dict[str, str]) -> None:
        model = json.loads(fields["artifacts"])["model"]
        document = self._read(f"{model}/model.json", job_id)
        if document is None:
            return
        if document["steps"] != list(range(1, len(document["steps"]) + 1)):
            self._world.violate(f"{job_id}: trained steps are {document['steps']}")
        outputs = self._read(f"/jobs/{job_id}/outputs-a{document['attempt']}/metrics.json", job_id)
        copied = json.loads(self._world.files.get(f"/jobs/{job_id}/metrics.json", "null"))
        if copied is not None and copied != outputs:
            self._world.violate(f"{job_id}: metrics.json is that of token {copied['token']}")
        results = [f for f in self._world.files if f.startswith(f"/jobs/{job_id}/results/")]
        if not any(f.endswith(f"-t{document['token']}.json") for f in results):
            self._world.violate(f"{job_id}: the model bears token {document['token']}, results are {results}")

    def _check_checkpoint(self, job_id: str, fields: dict[str, str]) -> None:
        if "checkpoint" not in fields:
            return
        folder = f"/jobs/{job_id}/checkpoints/"
        if self._was_rolled_back and any(path.startswith(folder) for path in self._world.files):
            return  # the one that is named may be gone; the next attempt resumes from what is there
        document = self._read(folder + fields["checkpoint"], job_id)
        token, name = self._published.get(job_id, (None, ""))
        if document is None or name != fields["checkpoint"]:
            return
        if document["token"] != token:
            self._world.violate(
                f"{job_id}: checkpoint {fields['checkpoint']} was published by token {token} and bears "
                f"{document['token']}"
            )

    def _read(self, path: str, job_id: str) -> Any:
        if path not in self._world.files:
            self._world.violate(f"{job_id}: {path} is published and missing")
            return None
        return json.loads(self._world.files[path])

    def _state(self, job_id: str) -> str | None:
        found: str | None = self._world.client.hget(f"bj:job:{job_id}", "state")
        return found
