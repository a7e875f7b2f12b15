"""The tasks a worker answers for: its queues I_n and O_n, what is computing, what is being sent.

A task enters custody once and leaves it once: computed here, or acknowledged by a neighbour.
"""

from __future__ import annotations

from collections import OrderedDict

from mdi_exit.core.neighbour import Transfer
from mdi_exit.core.queues import TaskQueue
from mdi_exit.core.types import Side, Task, TaskKey


class Custody:
    """Tasks by where they wait, and the keys that make every hand-over and computation count once."""

    def __init__(self, exits: int, finished_max: int) -> None:
        self.backlogs = [0] * exits  # tasks that wait on whichever side, per segment 1..K
        self.input, self.output, self.either = (TaskQueue(exits, self.backlogs) for _ in Side)
        self.computing: tuple[Task, ...] = ()
        self._held: dict[TaskKey, Transfer | None] = {}  # every task in custody; its transfer while being sent
        # Computed here; the oldest is forgotten first. Of a plain dict, finding the oldest means to pass by all places
        # of those forgotten before.
        self._finished: OrderedDict[TaskKey, None] = OrderedDict()
        self._finished_max = finished_max
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: TaskKey) -> bool:
        return key in self._held

    def finished(self, key: TaskKey) -> bool:
        """Say whether this task was computed here already."""
        return key in self._finished

    def next_order(self) -> int:
        """Return the place in line of a task that comes now."""
        self._arrivals += 1
        return self._arrivals

    def since_oldest(self, k: int) -> int:
        """Return how many tasks came since the oldest that the processor could take for segment k; 0 without one."""
        return max(0, self._arrivals - min(self.input.first(k), self.either.first(k)))

    def wait(self, side: Side, order: int, task: Task) -> None:
        """Let a task wait on a side, at its place in line."""
        self._held[task.key] = None
        self._queue(side).push(order, task)

    def came_back(self, task: Task) -> None:
        """Note that a task we hold arrived once more.

        If we are just sending it, our own hand-over came round before its acknowledgement: it is ours again then.
        """
        if (transfer := self._held[task.key]) is not None:
            transfer.returned[task.key] = task

    def start_computing(self, side: Side, k: int, limit: int) -> tuple[Task, ...]:
        """Take the oldest tasks for segment k off a side to be computed."""
        self.computing = tuple(task for _, task in self._queue(side).take(k, limit))
        assert self.computing, "the policy picked a segment nobody waits for"
        return self.computing

    def stop_computing(self, tasks: tuple[Task, ...]) -> None:
        """Let go of what was computed."""
        assert tasks == self.computing, "a completion of something that was not started"
        self.computing = ()
        for key in [task.key for task in tasks]:
            del self._held[key]
            self._finished[key] = None
        while len(self._finished) > self._finished_max:
            self._finished.popitem(last=False)

    def start_sending(self, k: int, limit: int) -> Transfer:
        """Take the oldest tasks for segment k off the output (or the either) side to be sent."""
        transfer = Transfer((self.output if self.output.counts[k - 1] else self.either).take(k, limit))
        assert transfer.tasks, "the policy picked a segment nobody waits for"
        for _, task in transfer.tasks:
            self._held[task.key] = transfer
        return transfer

    def delivered(self, transfer: Transfer) -> list[TaskKey]:
        """Let go of what a neighbour took, except what has come back meanwhile. Return the keys let go of."""
        gone = [key for _, task in transfer.tasks if (key := task.key) not in transfer.returned]
        for key in gone:
            del self._held[key]
        return gone

    def _queue(self, side: Side) -> TaskQueue:
        return self.input if side is Side.INPUT else self.output if side is Side.OUTPUT else self.either
