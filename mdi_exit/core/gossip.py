"""What a worker tells its neighbours of itself, and when."""

from __future__ import annotations

import operator

from mdi_exit.core.custody import Custody
from mdi_exit.core.types import WorkerReport

_STALE = 8  # tasks: of fewer that wait, the next period tells soon enough
_HEARTBEAT_TICKS = 20  # an unchanged report is still sent every so many gossip periods, so that lost news is repaired


class Gossip:
    """Makes a worker's reports, numbered, and says which are worth sending."""

    def __init__(self, name: str, epoch: int) -> None:
        self._name, self._epoch = name, epoch
        self._reports = self._ticks = 0
        self._told: tuple[int, ...] = ()
        self._believed = 0  # tasks that wait here, as the neighbour believes who believes in most

    def report(self, tasks: Custody, compute_delay_s: float, versions: tuple[int, int]) -> WorkerReport:
        """Describe the worker as it stands; `versions` are those of its thresholds and prices."""
        self._reports += 1
        self._believed = max(self._believed, sum(tasks.backlogs))
        waiting = tuple(map(operator.add, tasks.input.counts, tasks.either.counts))
        known = (waiting, tuple(tasks.output.counts), compute_delay_s, *versions)
        return WorkerReport(self._name, self._reports, self._epoch, *known)

    def worth_telling(self, tasks: Custody, versions: tuple[int, int]) -> bool:
        """Say, once per gossip period, whether anything changed or a heartbeat is due."""
        self._ticks += 1
        state = (tasks.input.length, tasks.output.length, tasks.either.length, *versions)
        changed, self._told = state != self._told, state
        return self._telling(changed or self._ticks % _HEARTBEAT_TICKS == 0)

    def overdue(self, tasks: Custody) -> bool:
        """Say, at any time, whether half of what neighbours believe in is gone: for the rest of a period they would
        leave a fast worker idle."""
        return self._telling(2 * sum(tasks.backlogs) <= self._believed >= _STALE)

    def _telling(self, worth: bool) -> bool:
        self._believed *= not worth  # of what is told next
        return worth
