"""What the source makes known to everybody, passed on along a tree of links: thresholds and prices."""

from __future__ import annotations

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.neighbour import Neighbourhood
from mdi_exit.core.types import NO_PRICES, Way, WorkerReport

_OVERDUE_S = 1.0  # prices are large, and slow links slow: until then they may be on their way


class Flood:
    """The newest news of either kind. What is lost on the way is told again when a report shows an older version."""

    def __init__(self, name: str, neighbours: Neighbourhood, thresholds: tuple[float, ...]) -> None:
        self._name, self._neighbours = name, neighbours
        self.thresholds = ev.ThresholdsReceived(0, thresholds, None)
        self.prices = ev.PricesReceived(NO_PRICES, None)
        self._pi: dict[str, tuple[float, ...]] = {}
        self._behind_s: dict[str, float] = {}  # by neighbour without the newest prices: since when, or told again when
        self._own = (0.0,) * (len(thresholds) + 1)  # of this worker
        self.ways: dict[str, Way] = {}  # of this worker, by receiver

    def take(self, event: ev.ThresholdsReceived | ev.PricesReceived) -> list[fx.WorkerEffect]:
        """Take news in and pass them on, unless they are old."""
        if isinstance(event, ev.ThresholdsReceived):
            if event.version <= self.thresholds.version:
                return []
            self.thresholds = event
        else:
            if event.prices.version <= self.prices.prices.version:
                return []
            self.prices = event
            self._pi = dict(zip(event.prices.workers, event.prices.pi, strict=True))
            self._own = self._pi.get(self._name, (0.0,) * len(self._own))
            self.ways = {way.receiver: way for way in event.prices.ways if way.sender == self._name}
        return [self._tell(event, name) for name in self._neighbours.routes.news_to if name != event.sender]

    def catch_up(self, report: WorkerReport, now: float) -> list[fx.WorkerEffect]:
        """Tell a neighbour what its report shows it not to know."""
        behind: list[fx.WorkerEffect] = []
        if report.thresholds_version < self.thresholds.version:
            behind.append(self._tell(self.thresholds, report.worker))
        if report.prices_version >= self.prices.prices.version:
            self._behind_s.pop(report.worker, None)
        elif now > self._behind_s.setdefault(report.worker, now) + _OVERDUE_S:
            self._behind_s[report.worker] = now
            behind.append(self._tell(self.prices, report.worker))
        return behind

    def way_to(self, name: str) -> Way | None:
        """What prices say of the link to a neighbour."""
        return self.ways.get(name)

    def prices_of(self, name: str) -> tuple[float, ...]:
        """pi[name][k]; its own for a worker that was not there when prices were made, so that they cancel."""
        return self._pi.get(name, self._own)

    def _tell(self, news: ev.ThresholdsReceived | ev.PricesReceived, to: str) -> fx.WorkerEffect:
        if isinstance(news, ev.ThresholdsReceived):
            return fx.SendThresholds(to, news.version, news.thresholds)
        return fx.SendPrices(to, news.prices)
