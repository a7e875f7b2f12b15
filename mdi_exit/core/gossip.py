"""What a worker tells its neighbours of itself, when, and to whom."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from mdi_exit.core.custody import Custody
from mdi_exit.core.types import WorkerReport

_HEARTBEAT = 20  # an unchanged report is still sent every so many gossip periods, so that lost news is repaired
_STALE = 8  # tasks: who believes in fewer hears soon enough with the next period


class Gossip:
    """Makes a worker's reports, numbered, and says which are worth sending."""

    def __init__(self, name: str, epoch: int) -> None:
        self._name, self._epoch = name, epoch
        self._made = self._ticks = 0
        self._told: tuple[int, ...] = ()
        self._believed: dict[str, int] = {}  # by neighbour: how many tasks wait here, as it was told last
        self._highest = 0  # of these, or more

    def report(self, tasks: Custody, delay_s: float, versions: tuple[int, int], to: Sequence[str]) -> WorkerReport:
        """Describe the worker as it stands, which takes `delay_s` for a task; `versions` are those of its thresholds
        and prices."""
        self._made += 1
        self._believed.update(dict.fromkeys(to, sum(tasks.backlogs)))
        self._highest = max(self._highest, sum(tasks.backlogs))
        waiting = tuple(map(operator.add, tasks.input.counts, tasks.either.counts))
        known = (waiting, tuple(tasks.output.counts), delay_s, *versions)
        return WorkerReport(self._name, self._made, self._epoch, *known)

    def worth_telling(self, tasks: Custody, versions: tuple[int, int]) -> bool:
        """Say, once per gossip period, whether anything changed, somebody may take an idle worker for a busy one, or a
        heartbeat is due."""
        self._ticks += 1
        state = (tasks.input.length, tasks.output.length, tasks.either.length, *versions)
        if telling := state != self._told or self._highest > 0 == sum(tasks.backlogs) or self._ticks % _HEARTBEAT == 0:
            self._told, self._highest = state, 0
        return telling

    def misled(self, tasks: Custody, neighbours: Sequence[str]) -> list[str]:
        """Say, at any time, who believes in twice what waits here, or more: until the next period they would leave a
        fast worker idle. At most once for each hand-over and halving."""
        twice = max(_STALE, 2 * sum(tasks.backlogs))
        misled = [m for m in neighbours if self._believed.get(m, 0) >= twice] if self._highest >= twice else []
        self._highest = min(self._highest, twice - 1)
        return misled
