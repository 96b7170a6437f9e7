"""What is free on the nodes of a cluster, indexed by the amount, so that a gang is placed without a walk over
all nodes: of a thousand nodes most have the same amounts free, and are one entry here. Pure."""

from collections.abc import Iterable, Mapping

from bertjobs.jobs.job import Grant

QUANTUM = 1e-4
"""Ray counts resources in ten-thousandths; a difference below that is rounding."""

NodeShare = tuple[float, float]
"""CPUs and GPUs of one node."""
NO_SHARE: NodeShare = (0.0, 0.0)
Placement = Mapping[str, NodeShare]
"""Node id -> what is taken of that node."""


class FreeResources:
    """The nodes by what is free on each. An amount may be negative: Ray's numbers are seconds old."""

    def __init__(self, free: Mapping[str, NodeShare]) -> None:
        self._share: dict[str, NodeShare] = {}
        self._nodes: dict[NodeShare, dict[str, None]] = {}
        """Node ids by their free share, in the order they were added: a dict is a set with an order."""
        self.cpus = self.gpus = 0.0
        self.usable_cpus = 0.0
        """CPUs, where a node with a negative amount counts as empty."""
        for node, share in free.items():
            self._put(node, share)

    def copy(self) -> "FreeResources":
        """Return an independent copy."""
        return FreeResources(self._share)

    def share_of(self, node: str) -> NodeShare:
        """Return what is free on a node; nothing on a node that has left the cluster."""
        return self._share.get(node, NO_SHARE)

    def take(self, placement: Placement, *, sign: int = 1) -> None:
        """Take a placement, or give it back with `sign=-1`; nodes that have left the cluster are skipped."""
        for node, (cpus, gpus) in placement.items():
            # A node may have left the cluster since the allocation was made.
            if node in self._share:
                old = self._remove(node)
                self._put(node, (old[0] - sign * cpus, old[1] - sign * gpus))

    def fits(self, grant: Grant) -> bool:
        """Return whether the whole gang fits: each worker on one node, Ray Data in what is left anywhere."""
        if grant.cpus > self.usable_cpus + QUANTUM:
            return False
        # Workers that fit, counted once per distinct share instead of once per node.
        room = sum(capacity(grant, share) * len(nodes) for share, nodes in self._nodes.items())
        return room >= grant.workers

    def place(self, grant: Grant) -> dict[str, NodeShare] | None:
        """Choose what to take of each node, or return None if the gang does not fit.

        Workers are packed as Ray Train packs them. Jobs without GPUs go to nodes without GPUs first.
        """
        if not self.fits(grant):
            return None
        taken: dict[str, NodeShare] = {}
        num_missing = grant.workers
        # Nodes that hold most workers come first: fewer nodes, less traffic between workers.
        for share in sorted(
            self._nodes, key=lambda s: (s[1] > 0 and not grant.gpus, -capacity(grant, s), -s[0])
        ):
            room = capacity(grant, share)
            for node in self._nodes[share] if room else ():
                if not num_missing:
                    break
                count = min(num_missing, room)
                num_missing -= count
                # A node has one entry, so it is visited once and nothing is overwritten.
                taken[node] = (count * grant.cpus_per_worker, count * grant.gpus_per_worker)
        return self._with_data(taken, grant.data_cpus)

    def _with_data(self, taken: dict[str, NodeShare], data_cpus: float) -> dict[str, NodeShare]:
        """Add Ray Data's CPUs to a placement, on the nodes with the most CPUs left."""
        # What the workers leave on their own nodes, then nodes that they do not use.
        left = [(self._share[node][0] - cpus, node) for node, (cpus, _) in taken.items()]
        left += self._nodes_with_most_cpus(data_cpus, without=taken)
        # Most CPUs first, equal ones by name: the same placement at every pass.
        for cpus, node in sorted(left, key=lambda place: (-place[0], place[1])):
            share = min(data_cpus, max(cpus, 0.0))
            data_cpus -= share
            if share:
                held = taken.get(node, NO_SHARE)
                taken[node] = (held[0] + share, held[1])
        return taken

    def _nodes_with_most_cpus(
        self, cpus: float, *, without: Mapping[str, NodeShare]
    ) -> list[tuple[float, str]]:
        """Return the nodes with the most free CPUs, as many as it takes to find this many CPUs."""
        found: list[tuple[float, str]] = []
        for share in sorted(self._nodes, key=lambda s: -s[0]):
            for node in self._nodes[share]:
                if cpus <= 0 or share[0] <= 0:
                    return found
                if node not in without:
                    found.append((share[0], node))
                    cpus -= share[0]
        return found

    def _put(self, node: str, share: NodeShare) -> None:
        # Without rounding, sums of floats would make nodes with equal amounts different entries.
        share = (round(share[0], 4), round(share[1], 4))
        self._share[node] = share
        if share not in self._nodes:
            self._nodes[share] = {}
        self._nodes[share][node] = None
        self._count(share, 1)

    def _remove(self, node: str) -> NodeShare:
        share = self._share[node]
        del self._nodes[share][node]
        if not self._nodes[share]:
            # An empty entry would still be sorted and counted at each placement.
            del self._nodes[share]
        self._count(share, -1)
        return share

    def _count(self, share: NodeShare, sign: int) -> None:
        self.cpus += sign * share[0]
        self.gpus += sign * share[1]
        self.usable_cpus += sign * max(share[0], 0.0)


def capacity(grant: Grant, free: NodeShare) -> int:
    """Count the gang's workers that fit on one node."""
    cpus, gpus = free
    # 0.7 / 0.1 is 6.999999999999999 in floating point: the quantum keeps the seventh worker.
    count = int((cpus + QUANTUM) / grant.cpus_per_worker)
    if grant.gpus_per_worker:
        count = min(count, int((gpus + QUANTUM) / grant.gpus_per_worker))
    return max(count, 0)


def sum_of(placements: Iterable[Placement]) -> dict[str, NodeShare]:
    """Add up placements per node."""
    total: dict[str, NodeShare] = {}
    for placement in placements:
        for node, (cpus, gpus) in placement.items():
            held = total.get(node, NO_SHARE)
            total[node] = (held[0] + cpus, held[1] + gpus)
    return total
