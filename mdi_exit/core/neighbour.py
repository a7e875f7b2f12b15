"""What a worker keeps about its neighbours."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mdi_exit.core.types import Limits, Routes, Task, TaskKey, WorkerReport


@dataclass(slots=True)
class Transfer:
    """A hand-over under way: its tasks with their places in line, and those that came back before its end."""

    tasks: list[tuple[int, Task]]
    returned: dict[TaskKey, Task] = field(default_factory=dict)

    def came_back(self) -> list[tuple[int, Task]]:
        """What is ours again after all. It has crossed as many links as either copy: two that pass each other for ever
        would otherwise never be stopped by `hops_max`."""
        return [
            (order, replace(task, hops=max(task.hops, self.returned[task.key].hops)))
            for order, task in self.tasks
            if task.key in self.returned
        ]


@dataclass(slots=True)
class Neighbour:
    """A neighbour m (a NeighbourView): its last report, the measured D_nm, and what is under way to it."""

    name: str
    waiting: tuple[int, ...]
    accepts: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    backlogs: tuple[int, ...] = ()  # Q[m][k], k = 1..K: tasks that wait at m on either side, as last reported
    compute_delay_s: float = 0.0  # Gamma_m
    transfer_delay_s: float = 0.0  # D_nm, over all segments
    segment_transfer_s: list[float] = field(default_factory=list)  # D[n->m][k]; 0: not measured
    answered_s: float = 0.0  # when it last acknowledged a hand-over
    round_trip_s: float = 0.0  # the shortest from a hand-over to its answer; 0: none yet
    epoch: int = -1
    sequence: int = -1
    transfers: dict[int, Transfer] = field(default_factory=dict)
    handed: list[int] = field(default_factory=list)  # tasks of them, per segment: policies look at them at every event
    declined: bool = False  # the policy said no and its retry time has not passed
    quarantined: bool = False
    quarantine_s: float = 0.0  # the last quarantine's length; 0 while the link is good
    input_queue: int = 0  # I_m, as last reported, and what is on its way there: a sum that policies order by

    def segment_delay_s(self, k: int) -> float:
        """D[n->m][k], how long a task keeps the link's window from the next one; the mean transfer delay over all
        segments while none of this one was sent, 0 before anything was."""
        return self.segment_transfer_s[k - 1] or self.transfer_delay_s

    def learn(self, report: WorkerReport) -> bool:
        """Take a report in unless a newer one is known. Return whether it was news."""
        if (report.epoch, report.sequence) <= (self.epoch, self.sequence):
            return False
        self.epoch, self.sequence = report.epoch, report.sequence
        self.waiting, self.output, self.compute_delay_s = report.waiting, report.output, report.compute_delay_s
        self.backlogs = tuple(map(operator.add, report.waiting, report.output))
        self.input_queue = sum(report.waiting) + sum(self.handed)
        return True

    def quarantine(self, limits: Limits) -> float:
        """Leave it alone for a while, each time twice as long until a delivery succeeds. Return how long."""
        self.quarantined = True
        self.quarantine_s = min(2 * self.quarantine_s or limits.quarantine_s, limits.quarantine_max_s)
        return self.quarantine_s


class Neighbourhood:
    """All neighbours of one worker, and which of them lead where."""

    def __init__(self, exits: int) -> None:
        self.routes = Routes(-1, ((),) * exits, (), (), (), ())
        self._exits = exits
        self._by_name: dict[str, Neighbour] = {}
        self._toward: tuple[tuple[Neighbour, ...], ...] = ((),) * exits

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Neighbour | None:
        """Return a neighbour, or None when it is not one (any more)."""
        return self._by_name.get(name)

    def toward(self, k: int) -> tuple[Neighbour, ...]:
        """Return the neighbours that host segment k or lead to a worker that does."""
        return self._toward[k - 1]

    def toward_source(self) -> str | None:
        """Return the next hop for results: the nearest to the source that is not in quarantine."""
        return next((name for name in self.routes.toward_source if not self._by_name[name].quarantined), None)

    def replace(self, routes: Routes) -> list[Transfer]:
        """Take over new routes, keep what is known of those who stay. Return what was under way to those who left."""
        before, self._by_name = self._by_name, {}
        for name in routes.peers:
            none = (0,) * self._exits
            new = Neighbour(name, none, (), none, none, segment_transfer_s=[0.0] * len(none), handed=[0] * len(none))
            neighbour = before.pop(name, new)
            neighbour.accepts = tuple(k for k, names in enumerate(routes.toward_segment, 1) if name in names)
            self._by_name[name] = neighbour
        self.routes = routes
        self._toward = tuple(tuple(self._by_name[m] for m in names) for names in routes.toward_segment)
        return [transfer for gone in before.values() for transfer in gone.transfers.values()]

    def end_transfer(self, name: str, transfer_id: int) -> tuple[Neighbour | None, Transfer | None]:
        """Return the neighbour and the hand-over that ended; None for whichever is not known any more."""
        neighbour = self._by_name.get(name)
        transfer = neighbour.transfers.pop(transfer_id, None) if neighbour else None
        if neighbour and transfer:
            neighbour.handed[transfer.tasks[0][1].k - 1] -= len(transfer.tasks)
            neighbour.input_queue -= len(transfer.tasks)
        return neighbour, transfer
