"""When the source has its prices made anew: with the first news, on a change, and every now and then."""

from __future__ import annotations

from dataclasses import replace

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Measurement

_LOOK_S = 1.0  # between looks at what came
_LOOKS = 5  # after so many looks prices are made anew although nothing changed by much
_CHANGE = 0.2  # relative, of a worker's speed or of what goes on: prices move little with less
_WORKERS_MAX = 100_000  # measurements kept; as many as there are workers


class PriceDesk:
    """What the workers measured last, and what was made of it. For the ControllerCore."""

    def __init__(self) -> None:
        self._known: dict[str, Measurement] = {}
        self._used: dict[str, Measurement] = {}  # for the prices in force
        self._lost: dict[str, None] = {}
        self._stale, self._solving = True, False
        self._looks = self._version = 0

    def open(self) -> list[fx.ControllerEffect]:
        """The run begins: the first prices come of what is assumed."""
        return [*self._solve(), fx.SetTimer("prices", _LOOK_S)]

    def tick(self) -> list[fx.ControllerEffect]:
        """Look at what came."""
        self._looks += 1
        wanted = self._stale or self._looks >= _LOOKS or self._changed()
        return [*(self._solve() if wanted and not self._solving else []), fx.SetTimer("prices", _LOOK_S)]

    def handle(self, event: ev.ControllerEvent) -> list[fx.ControllerEffect]:
        """Take in measurements, prices, deaths and arrivals of workers."""
        if isinstance(event, ev.MeasurementsArrived):
            for measured in event.measurements:
                self._learn(measured)
        elif isinstance(event, ev.WorkerLost):
            self._lost[event.worker] = None
            self._known.pop(event.worker, None)
            self._stale = True
        elif isinstance(event, ev.WorkerJoined):
            self._lost.pop(event.worker, None)
            self._stale = True
        elif isinstance(event, ev.PricesSolved):
            self._solving = False
            self._version += 1
            return [fx.SetPrices(replace(event.prices, version=self._version))]
        return []

    def _learn(self, measured: Measurement) -> None:
        before = self._known.get(measured.worker)
        newer = before is None or (measured.epoch, measured.sequence) > (before.epoch, before.sequence)
        if newer and (before is not None or len(self._known) < _WORKERS_MAX):
            self._known[measured.worker] = measured

    def _solve(self) -> list[fx.ControllerEffect]:
        self._stale, self._solving, self._looks = False, True, 0
        self._used = dict(self._known)
        return [fx.SolvePrices(tuple(self._known.values()), tuple(self._lost))]

    def _changed(self) -> bool:
        return any(self._differs(self._used.get(name), measured) for name, measured in self._known.items())

    def _differs(self, before: Measurement | None, after: Measurement) -> bool:
        if before is None:
            return True
        pairs = [*zip(before.compute_s, after.compute_s, strict=True)]
        known = dict(before.links)
        for name, seconds in after.links:
            pairs += zip(known.get(name, (0.0,) * len(seconds)), seconds, strict=True)
        return any(abs(new - old) > _CHANGE * old for old, new in pairs)
