"""Where a worker's tasks went lately, segment by segment."""

from __future__ import annotations

import math

_LATELY_S = 1.0  # a task that long ago counts 1/e: long beside a round trip, short beside a change of prices


class Dealt:
    """Tasks that were disposed of: handed to a neighbour, computed, or (to "") in all. Old ones count less."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], tuple[float, float]] = {}  # by neighbour and segment: count, as it was when

    def note(self, k: int, tasks: int, to: str, now: float) -> None:
        """So many tasks for segment k are being handed to a neighbour, or, to this worker itself, computed."""
        for where in (to, ""):
            self._counts[where, k] = (self.lately(where, k, now) + tasks, now)

    def lately(self, to: str, k: int, now: float) -> float:
        """How many went to a neighbour, or, to "", were disposed of in all."""
        count, since_s = self._counts.get((to, k), (0.0, now))
        return count * math.exp((since_s - now) / _LATELY_S)
