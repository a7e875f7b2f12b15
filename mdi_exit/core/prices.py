"""When the source has its prices made anew: with the first news, on a change, and every now and then."""

from __future__ import annotations

from dataclasses import replace

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import NO_PRICES, Measurement, Prices

_LOOK_S = 1.0  # between looks at what came
_LOOKS = 5  # after so many looks prices are made anew although nothing changed by much
_CHANGE = 0.2  # relative, of a worker's speed: prices move little with less
_ALIKE = 0.1  # of the worth of a fresh datum; of a dearer price, of that price


class PriceDesk:
    """What the workers measured last, and what was made of it. For the ControllerCore."""

    def __init__(self) -> None:
        self._known: dict[str, Measurement] = {}  # one per worker; drivers let in those of the topology only
        self._used: dict[str, Measurement] = {}  # for the prices in force
        self._lost: dict[str, None] = {}
        self._stale, self._solving = True, False
        self._looks, self._wait = 0, 1  # since the last question; so many before a change is worth another
        self._prices = NO_PRICES  # in force

    def open(self) -> list[fx.ControllerEffect]:
        """The run begins: the first prices come of what is assumed."""
        return [*self._solve(), fx.SetTimer("prices", _LOOK_S)]

    def tick(self) -> list[fx.ControllerEffect]:
        """Look at what came."""
        self._looks += 1
        wanted = self._stale or self._looks >= _LOOKS or (self._looks >= self._wait and self._changed())
        return [*(self._solve() if wanted and not self._solving else []), fx.SetTimer("prices", _LOOK_S)]

    def handle(self, event: ev.ControllerEvent) -> list[fx.ControllerEffect]:
        """Take in measurements, prices, deaths and arrivals of workers."""
        if isinstance(event, ev.MeasurementsArrived):
            for new in event.measurements:
                known = self._known.get(new.worker)
                if known is None or (new.epoch, new.sequence) > (known.epoch, known.sequence):
                    self._known[new.worker] = new
        elif isinstance(event, ev.WorkerLost | ev.WorkerLeft):
            self._lost[event.worker] = None
            self._known.pop(event.worker, None)
            return self._solve_soon()
        elif isinstance(event, ev.WorkerJoined):
            self._lost.pop(event.worker, None)
            return self._solve_soon()
        elif isinstance(event, ev.PricesSolved):
            self._solving = False
            if _alike(self._prices, event.prices):  # what changed was noise, which costs a small source dear
                self._wait = min(_LOOKS, 2 * self._wait)
                return []
            self._wait = 1
            self._prices = replace(event.prices, version=self._prices.version + 1)
            return [fx.SetPrices(self._prices)]
        return []

    def _solve_soon(self) -> list[fx.ControllerEffect]:
        self._stale = True  # while an answer is under way, until the next look
        return [] if self._solving else self._solve()

    def _solve(self) -> list[fx.ControllerEffect]:
        self._stale, self._solving, self._looks = False, True, 0
        self._used = dict(self._known)
        return [fx.SolvePrices(tuple(self._known.values()), tuple(self._lost))]

    def _changed(self) -> bool:
        if self._used.keys() != self._known.keys():
            return True
        pairs = [zip(self._used[name].compute_s, known.compute_s, strict=True) for name, known in self._known.items()]
        return any(abs(new - old) > _CHANGE * old for pair in pairs for old, new in pair)


def _alike(one: Prices, other: Prices) -> bool:
    """Whether nobody would decide otherwise: telling everybody anew would cost their links more than it brings."""
    ends = [[(way.sender, way.receiver) for way in prices.ways if way.channel] for prices in (one, other)]
    if one.workers != other.workers or ends[0] != ends[1]:
        return False
    pairs = zip(_numbers(one), _numbers(other), strict=True)
    return all(abs(old - new) <= _ALIKE * max(1.0, old) for old, new in pairs)


def _numbers(prices: Prices) -> list[float]:
    """What decides, in the worth of a fresh datum; half of the tasks count for as much. Shares of other links are one
    of many solutions as good, and the solver's choice changes with every noise."""
    ways = [(w.nu * max(w.air_s), *(2 * part for part in w.share)) for w in prices.ways if w.channel]
    return [number for row in (*prices.pi, *ways) for number in row]
