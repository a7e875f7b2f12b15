"""Bounded memories of unbounded runs: latencies for percentiles, and what happened when, for a report's series."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from mdi_exit.compiled import remade, restored
from mdi_exit.core.effects import RecordControl

LATENCIES_MAX = 1_000_000  # 8 MB; up to here percentiles are exact, beyond they are of an even sample
POINTS_MAX = 1_000  # of a series: as many as a figure can show
_WIDTH_S = 0.5  # of a point at first; doubles whenever a run outgrows its points


class Latencies:
    """Every latency while they are few, a uniform sample of them (Vitter's algorithm R) when they are many."""

    def __init__(self, limit: int = LATENCIES_MAX) -> None:
        self.count = 0
        self.sum_s = 0.0
        self.limit = limit
        self.values = array("d")
        self._rng = random.Random(0)  # a measurement's own: it must not disturb the run's seeds

    def __reduce__(self) -> tuple[object, ...]:
        state = {"count": self.count, "sum_s": self.sum_s, "values": self.values, "_rng": self._rng}
        return restored, (Latencies, (self.limit,), state)

    def add(self, latency_s: float) -> None:
        self.count += 1
        self.sum_s += latency_s
        if len(self.values) < self.limit:
            self.values.append(latency_s)
        elif (place := self._rng.randrange(self.count)) < self.limit:
            self.values[place] = latency_s

    def percentiles(self, shares: Sequence[float]) -> list[float | None]:
        """The values below which these shares of all lie, interpolated between neighbours; None without any."""
        ordered = sorted(self.values)
        if not ordered:
            return [None for _ in shares]
        found: list[float | None] = []
        for share in shares:
            place = share * (len(ordered) - 1)
            below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
            found.append(below + (above - below) * (place - math.floor(place)))
        return found


@dataclass(slots=True)
class Point:
    """What happened within one stretch of time."""

    offered: int = 0
    completed: int = 0
    correct: int = 0
    latency_sum_s: float = 0.0  # of the completed
    control: RecordControl | None = None  # the last one

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return remade(self)


class Timeline:
    """A run cut into at most POINTS_MAX equal stretches, from its second 0 on."""

    def __init__(self, width_s: float = _WIDTH_S, points_max: int = POINTS_MAX) -> None:
        self.width_s = width_s
        self.points: list[Point] = []
        self._points_max = points_max

    def __reduce__(self) -> tuple[object, ...]:
        return restored, (Timeline, (self.width_s, self._points_max), {"points": self.points})

    def offer(self, now: float, count: int = 1) -> None:
        """Note so many data that came from outside or were drawn, admitted or not."""
        self._point(now).offered += count

    def count(self, now: float, correct: bool, latency_s: float) -> None:
        """Note a completed datum."""
        point = self._point(now)
        point.completed += 1
        point.correct += correct
        point.latency_sum_s += latency_s

    def control(self, now: float, record: RecordControl) -> None:
        """Note what the controller decided."""
        self._point(now).control = record

    def throughput_per_s(self, now: float, over_s: float = 3.0) -> float:
        """Completions per second over the last seconds, or since the start when that is less."""
        first = max(0, int((now - over_s) / self.width_s))
        elapsed_s = now - first * self.width_s
        return sum(point.completed for point in self.points[first:]) / elapsed_s if elapsed_s > 0 else 0.0

    def _point(self, now: float) -> Point:
        while now >= self.width_s * self._points_max:
            self._halve()
        number = int(now / self.width_s)
        while len(self.points) <= number:
            self.points.append(Point())
        return self.points[number]

    def _halve(self) -> None:
        self.points = [_joined(self.points[i : i + 2]) for i in range(0, len(self.points), 2)]
        self.width_s *= 2


def _joined(pair: Sequence[Point]) -> Point:
    offered, completed, correct = (sum(getattr(p, name) for p in pair) for name in ("offered", "completed", "correct"))
    latency_sum_s = sum(p.latency_sum_s for p in pair)
    return Point(offered, completed, correct, latency_sum_s, pair[-1].control or pair[0].control)
