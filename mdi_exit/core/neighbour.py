"""What a worker keeps about each of its neighbours."""

from __future__ import annotations

from dataclasses import dataclass, field

from mdi_exit.core.types import Task, TaskKey, WorkerReport


@dataclass(slots=True)
class Transfer:
    """A hand-over under way: its tasks with their order, and those that came back before it was acknowledged."""

    tasks: list[tuple[int, Task]]
    returned: list[TaskKey] = field(default_factory=list)


@dataclass(slots=True)
class Neighbour:
    """A neighbour m (a NeighbourView): its last report, the measured D_nm, and what is under way to it."""

    name: str
    accepts: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    output_queue: int = 0  # O_m
    compute_delay_s: float = 0.0  # Gamma_m
    transfer_delay_s: float = 0.0  # D_nm
    epoch: int = -1
    sequence: int = -1
    transfers: dict[int, Transfer] = field(default_factory=dict)
    declined: bool = False  # the policy said no and its retry time has not passed
    quarantined: bool = False
    quarantine_s: float = 0.0  # the next quarantine's length; 0 while the link is good

    @property
    def input_queue(self) -> int:
        """I_m, as last reported, and what is on its way there."""
        return sum(self.waiting) + sum(len(transfer.tasks) for transfer in self.transfers.values())

    def learn(self, report: WorkerReport) -> bool:
        """Take a report in unless a newer one is known. Return whether it was news."""
        if (report.epoch, report.sequence) <= (self.epoch, self.sequence):
            return False
        self.epoch, self.sequence = report.epoch, report.sequence
        self.waiting, self.output_queue = report.waiting, report.output_queue
        self.compute_delay_s = report.compute_delay_s
        return True
