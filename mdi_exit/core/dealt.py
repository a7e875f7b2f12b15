"""Where a worker's tasks went lately, segment by segment."""

from __future__ import annotations

import math

_LATELY_S = 1.0  # a task that long ago counts 1/e: long beside a round trip, short beside a change of prices


class Dealt:
    """Tasks for segment k that were disposed of: handed to a neighbour, or computed here. Old ones count less."""

    def __init__(self, exits: int) -> None:
        self._in_all = [(0.0, 0.0)] * exits  # (count, when it was so)
        self._handed: dict[tuple[str, int], tuple[float, float]] = {}  # by neighbour and segment

    def note(self, k: int, tasks: int, to: str | None, now: float) -> None:
        """So many tasks for segment k are being handed to a neighbour, or, `to` None, computed."""
        self._in_all[k - 1] = (_faded(self._in_all[k - 1], now) + tasks, now)
        if to is not None:
            self._handed[to, k] = (_faded(self._handed.get((to, k), (0.0, now)), now) + tasks, now)

    def lately(self, to: str, k: int, now: float) -> tuple[float, float]:
        """How many went to a neighbour, and how many were disposed of in all."""
        return _faded(self._handed.get((to, k), (0.0, now)), now), _faded(self._in_all[k - 1], now)


def _faded(known: tuple[float, float], now: float) -> float:
    count, since_s = known
    return count * math.exp((since_s - now) / _LATELY_S) if count else 0.0
