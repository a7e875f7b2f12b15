"""Results on their way to the source: delivered there, passed on elsewhere, kept while no way is open."""

from __future__ import annotations

from collections import deque

from mdi_exit.core import effects as fx
from mdi_exit.core.neighbour import Neighbourhood
from mdi_exit.core.types import Result


class ResultRelay:
    """The results that a worker made or was passed."""

    def __init__(self, neighbours: Neighbourhood, is_source: bool, results_max: int) -> None:
        self._neighbours, self._is_source = neighbours, is_source
        self.waiting: deque[Result] = deque(maxlen=results_max)

    def route(self, results: list[Result]) -> list[fx.WorkerEffect]:
        """Say where these results go; without an open way they wait."""
        if not results:
            return []
        if self._is_source:
            return [fx.DeliverResults(tuple(results))]
        if (name := self._neighbours.toward_source()) is not None:
            return [fx.SendResults(name, tuple(results))]
        self.waiting.extend(results)
        return []

    def retry(self) -> list[fx.WorkerEffect]:
        """Try again with what waits: a way may have opened."""
        waiting = list(self.waiting)
        self.waiting.clear()
        return self.route(waiting)
