"""How a worker stands: its tasks, its neighbours, what it measured and was told; and what of that may be looked at."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from mdi_exit.core import events as ev
from mdi_exit.core.custody import Custody
from mdi_exit.core.dealt import Dealt
from mdi_exit.core.delays import Delays
from mdi_exit.core.flood import Flood
from mdi_exit.core.neighbour import Neighbourhood
from mdi_exit.core.relay import ResultRelay
from mdi_exit.core.types import Limits, WorkerOptions
from mdi_exit.core.views import QueueView


class Standing:
    """The state of worker n, as its policies, the controller and tests see it. Only the WorkerCore changes it."""

    def __init__(
        self,
        name: str,
        exits: int,
        hosted: tuple[int, ...],
        thresholds: tuple[float, ...],
        options: WorkerOptions,
        limits: Limits,
        is_source: bool,
    ) -> None:
        assert len(thresholds) == exits - 1 and all(1 <= k <= exits for k in hosted)
        self.name, self.exits, self.hosted, self.is_source = name, exits, tuple(sorted(hosted)), is_source
        self._tasks = Custody(exits, limits.finished_max)
        self.input: QueueView = self._tasks.input  # I_n
        self.output: QueueView = self._tasks.output  # O_n
        self.either: QueueView = self._tasks.either
        self.backlogs: Sequence[int] = self._tasks.backlogs  # Q[n][k]
        self.since_oldest = self._tasks.since_oldest  # tasks that came since the oldest that the processor may take
        self._neighbours = Neighbourhood(exits)
        self._results = ResultRelay(self._neighbours, is_source, limits.results_max)
        self._flood = Flood(name, self._neighbours, thresholds)
        self._delays = Delays(exits, options.delay_weight, options.compute_delay_s)
        self._dealt, self._options = Dealt(), options
        self._now = 0.0
        self.prices = self._flood.prices_of  # pi[worker][k]
        self.way = self._flood.way_to  # what prices say of the link to a neighbour
        self.memo: dict[str, tuple[float, int | None]] = {}
        self.segment_delay_s = self._delays.segment_s  # Gamma[n][k]
        self.continuation = self._delays.continuation  # c[k] as seen here
        self.neighbours_toward = self._neighbours.toward  # to which a task for segment k may be handed
        self.admitted = 0  # tasks that the controller gave, ever

    @property
    def computing(self) -> int:
        return len(self._tasks.computing)

    @property
    def compute_delay_s(self) -> float:
        return self._delays.compute_delay_s

    @property
    def beside_s(self) -> float:
        return self._delays.beside_s

    def group(self, k: int) -> int:
        """Return how many tasks for segment k are computed together: nobody who comes meanwhile waits long for them."""
        return max(1, min(self._options.group_max, int(self._options.group_s / max(self.segment_delay_s(k), 1e-9))))

    def threshold(self, k: int) -> float:
        """Return T_e^k, k = 1..K-1."""
        return self._flood.thresholds.thresholds[k - 1]

    def air_use(self, channel: str) -> tuple[float, float]:
        """Return how long this worker's hand-overs under way keep a radio channel busy, and the longest of the round
        trips to neighbours that it is used for."""
        there = [(m, way) for m in self._neighbours if (way := self.way(m.name)) and way.channel == channel]
        busy_s = sum(sum(map(operator.mul, m.handed, way.air_s)) for m, way in there)
        # Who is never sent anything has nothing to wait for, and may have been slow once, before prices.
        used = (m.round_trip_s for m, way in there if m.transfers or any(way.share))
        return busy_s, max(used, default=0.0)

    def dealt(self, worker: str, k: int) -> tuple[float, float]:
        """Return how many tasks for segment k went to a neighbour lately, or were computed here; and all in all."""
        return self._dealt.lately(worker, k, self._now), self._dealt.lately("", k, self._now)

    def observe(self) -> ev.SourceObserved:
        """Return the queue lengths the controller judges by."""
        return ev.SourceObserved(self.input.length + self.either.length, self.output.length, self.backlogs[0])

    @property
    def idle(self) -> bool:
        """Nothing is held: no task waiting, computing or being sent, no result waiting for a route."""
        return not (len(self._tasks) or self._results.waiting)
