"""What is free on the nodes of a cluster, indexed by how much it is, so that a gang is placed without a walk
over all nodes: of a thousand nodes most have the same free, and are one entry here. Pure."""

from collections.abc import Iterable, Mapping

from bertjobs.jobs.job import Grant

QUANTUM = 1e-4
"""Ray counts resources in ten-thousandths; a difference below that is rounding."""

Share = tuple[float, float]
"""CPUs and GPUs, of one node."""
NOTHING: Share = (0.0, 0.0)
"""What is held of a node that is in no plan."""
Plan = Mapping[str, Share]
"""Node id -> what is taken of it."""


class FreeNodes:
    """The nodes by what is free on each. A share may be negative: Ray's numbers are seconds old."""

    def __init__(self, free: Mapping[str, Share]) -> None:
        self._share: dict[str, Share] = {}
        self._nodes: dict[Share, dict[str, None]] = {}
        """Node ids by share, in the order they came: a dict is a set with an order."""
        self.cpus = self.gpus = 0.0
        self.usable_cpus = 0.0
        """CPUs, overdrawn nodes counted as empty."""
        for node, share in free.items():
            self._put(node, share)

    def copy(self) -> "FreeNodes":
        """Return a floor of its own with the same free."""
        return FreeNodes(self._share)

    def share_of(self, node: str) -> Share:
        """Return what is free on a node; nothing on one that has gone."""
        return self._share.get(node, NOTHING)

    def take(self, plan: Plan, *, sign: int = 1) -> None:
        """Take a plan off, or with `sign=-1` give it back; nodes that have gone are left out."""
        for node, (cpus, gpus) in plan.items():
            if node in self._share:
                old = self._remove(node)
                self._put(node, (old[0] - sign * cpus, old[1] - sign * gpus))

    def fits(self, grant: Grant) -> bool:
        """Return whether the whole gang fits: each worker on one node, Ray Data in what is left anywhere."""
        if grant.cpus > self.usable_cpus + QUANTUM:
            return False
        room = sum(capacity(grant, share) * len(nodes) for share, nodes in self._nodes.items())
        return room >= grant.workers

    def place(self, grant: Grant) -> dict[str, Share] | None:
        """Choose what to take of each node, workers packed as Ray Train packs them; nothing if it does not
        fit.

        Jobs without GPUs go to nodes without GPUs first.
        """
        if not self.fits(grant):
            return None
        taken: dict[str, Share] = {}
        missing = grant.workers
        for share in sorted(
            self._nodes, key=lambda s: (s[1] > 0 and not grant.gpus, -capacity(grant, s), -s[0])
        ):
            room = capacity(grant, share)
            for node in self._nodes[share] if room else ():
                if not missing:
                    break
                count = min(missing, room)
                missing -= count
                taken[node] = (count * grant.cpus_per_worker, count * grant.gpus_per_worker)
        return self._with_data(taken, grant.data_cpus)

    def _with_data(self, taken: dict[str, Share], data_cpus: float) -> dict[str, Share]:
        """Add Ray Data's CPUs to a plan, where most are left."""
        left = [(self._share[node][0] - cpus, node) for node, (cpus, _) in taken.items()]
        left += self._roomiest(data_cpus, without=taken)
        for cpus, node in sorted(left, key=lambda place: (-place[0], place[1])):
            share = min(data_cpus, max(cpus, 0.0))
            data_cpus -= share
            if share:
                held = taken.get(node, NOTHING)
                taken[node] = (held[0] + share, held[1])
        return taken

    def _roomiest(self, cpus: float, *, without: Mapping[str, Share]) -> list[tuple[float, str]]:
        """Return nodes with the most free CPUs, only so many as are needed for this many CPUs."""
        found: list[tuple[float, str]] = []
        for share in sorted(self._nodes, key=lambda s: -s[0]):
            for node in self._nodes[share]:
                if cpus <= 0 or share[0] <= 0:
                    return found
                if node not in without:
                    found.append((share[0], node))
                    cpus -= share[0]
        return found

    def _put(self, node: str, share: Share) -> None:
        share = (round(share[0], 4), round(share[1], 4))
        self._share[node] = share
        if share not in self._nodes:
            self._nodes[share] = {}
        self._nodes[share][node] = None
        self._count(share, 1)

    def _remove(self, node: str) -> Share:
        share = self._share[node]
        del self._nodes[share][node]
        if not self._nodes[share]:
            del self._nodes[share]
        self._count(share, -1)
        return share

    def _count(self, share: Share, sign: int) -> None:
        self.cpus += sign * share[0]
        self.gpus += sign * share[1]
        self.usable_cpus += sign * max(share[0], 0.0)


def capacity(grant: Grant, free: Share) -> int:
    """Count the gang's workers that fit on one node."""
    cpus, gpus = free
    count = int((cpus + QUANTUM) / grant.cpus_per_worker)
    if grant.gpus_per_worker:
        count = min(count, int((gpus + QUANTUM) / grant.gpus_per_worker))
    return max(count, 0)


def sum_of(plans: Iterable[Plan]) -> dict[str, Share]:
    """Add plans up per node."""
    total: dict[str, Share] = {}
    for plan in plans:
        for node, (cpus, gpus) in plan.items():
            held = total.get(node, NOTHING)
            total[node] = (held[0] + cpus, held[1] + gpus)
    return total
