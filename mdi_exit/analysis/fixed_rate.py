"""At a given rate: the thresholds with which it is possible, and the accuracy they give on a trace.

While results travel free, the bound never rises when more data go on, hence not when a threshold is raised: what is
possible with a common threshold is an interval, and so is what is possible with one exit's while the others stay.
Accuracy may well peak inside of it. (When results take room on links, a datum that leaves late may leave nearer to
the source; the searches then still return what is possible, if not surely the highest.)

With a threshold per exit (reconstructed from nothing): Lagrangian optimal
stopping on the trace, exit by exit, where the bound's prices say what a segment costs, over a range of weights of
cost against accuracy; then coordinate ascent; then one exit for another, since the prices hold only nearby. It starts
from the best common threshold and keeps what is better and possible, so it is never worse; it does not claim to be
the best there is. Thresholds that are the best of one trace flatter themselves on it, the more the shorter it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np

from mdi_exit.analysis.fluid import Array, FluidProblem, OptimumError, continuation, leaving
from mdi_exit.analysis.optimum import Optimum, optimum
from mdi_exit.trace import ExitTrace

LOWEST = 0.01  # an experiment's thresholds are above 0; that low, all that is said exceeds them
_GRID = 500  # common thresholds whose accuracy is looked at, twice: over the whole interval, then around the best
_WEIGHTS = 12  # halvings of the interval of a cost's weight
_WEIGHT_RANGE = (1e-3, 10.0)  # accuracy given up for the whole capacity one datum may take
_EXCHANGES = 8  # thresholds of one exit that are tried, while another exit makes good for it
_ROUNDS = 3  # times that prices are taken anew, and that all exits are gone through
_TOLERANCE = 1e-9  # relative, of rates: a bound that was computed is possible
_RARE = 0.02  # a segment that fewer data reach has no price of its own; it is priced as if so many reached it

Thresholds = tuple[float, ...]


class RateError(OptimumError):
    """A rate that no threshold makes possible; it says what binds, and how far above the bound the rate is."""


@dataclass(frozen=True, slots=True)
class FixedRate:
    """Thresholds with which `rate_per_s` is possible."""

    rate_per_s: float
    thresholds: Thresholds  # T_e^k, k = 1..K-1
    accuracy: float  # on the trace
    optimum: Optimum  # the bound with these thresholds: at least the rate


def accuracy(trace: ExitTrace, thresholds: Thresholds) -> float:
    """Share of the trace's data that are answered rightly; raises OptimumError when there are not K-1 thresholds."""
    said = trace.prediction[np.arange(len(trace)), leaving(trace, thresholds)]
    return float(np.mean(said == trace.label))


def highest_common(problem: FluidProblem, trace: ExitTrace, rate_per_s: float, lowest: float = LOWEST) -> FixedRate:
    """The highest threshold, the same for every exit and at least `lowest`, with which the rate is possible.

    Raises RateError when there is none. `problem.continuation` does not matter: the thresholds give it anew.
    """
    search = _Search(problem, trace, rate_per_s, lowest)
    candidates = search.candidates()
    return search.found((candidates[search.last_possible(candidates)],) * (trace.exits - 1))


def best_common(problem: FluidProblem, trace: ExitTrace, rate_per_s: float, lowest: float = LOWEST) -> FixedRate:
    """The most accurate threshold up to `highest_common`, of a grid that is refined. Raises RateError."""
    search = _Search(problem, trace, rate_per_s, lowest)
    return search.found(search.best_common())


def best_per_exit(problem: FluidProblem, trace: ExitTrace, rate_per_s: float, lowest: float = LOWEST) -> FixedRate:
    """Thresholds, one per exit, at least as accurate as `best_common`'s. Raises RateError."""
    search = _Search(problem, trace, rate_per_s, lowest)
    best = search.best_common()
    for _ in range(_ROUNDS):
        better = search.exchanged(search.climbed(search.weighed(best)))
        if accuracy(trace, better) <= accuracy(trace, best):
            break
        best = better
    return search.found(best)


class _Search:
    """One rate, one trace."""

    def __init__(self, problem: FluidProblem, trace: ExitTrace, rate_per_s: float, lowest: float) -> None:
        if not rate_per_s > 0 or not 0 <= lowest <= 1:
            raise OptimumError(f"rate {rate_per_s}, lowest threshold {lowest}; allowed: above 0, and within 0..1")
        if trace.exits != problem.exits:
            raise OptimumError(f"the trace has {trace.exits} exits; allowed: {problem.exits}, as the problem has")
        self._problem, self._trace, self._rate, self._lowest = problem, trace, rate_per_s, lowest
        self._confidence = trace.confidence.astype(np.float64)
        self._right = (trace.prediction == trace.label[:, None]).astype(np.float64)
        self._yes: list[Array] = []  # shares of data that reach each exit with which the rate is, and is not, possible
        self._no: list[Array] = []
        bound = self._bound((lowest,) * (trace.exits - 1))
        if bound.rate_per_s < rate_per_s * (1 - _TOLERANCE):
            raise RateError(
                f"{rate_per_s:g} per s is {rate_per_s / bound.rate_per_s - 1:.1%} above the highest possible rate, "
                f"{bound.rate_per_s:g} per s at threshold {lowest:g}; what binds, and its share: {bound.binding()}"
            )

    def found(self, thresholds: Thresholds) -> FixedRate:
        return FixedRate(self._rate, thresholds, accuracy(self._trace, thresholds), self._bound(thresholds))

    def candidates(self, k: int | None = None) -> list[float]:
        """Every threshold that makes a difference (at exit k, counted from 0), ascending, from the lowest to 1."""
        said = self._confidence[:, :-1] if k is None else self._confidence[:, k]
        return [self._lowest, *(value for value in np.unique(said).tolist() if self._lowest < value < 1), 1.0]

    def last_possible(self, candidates: list[float], others: Thresholds | None = None, k: int = 0) -> int:
        """The place of the highest candidate that is possible, in common or at exit k of `others`; the first is."""
        low, high = 0, len(candidates) - 1
        while low < high:
            middle = (low + high + 1) // 2
            value = candidates[middle]
            trial = (value,) * (self._trace.exits - 1) if others is None else _with(others, k, value)
            low, high = (middle, high) if self._possible(trial) else (low, middle - 1)
        return low

    def best_common(self) -> Thresholds:
        candidates = self.candidates()
        first, last = 0, self.last_possible(candidates)
        best = last
        for _ in range(2):
            places = np.unique([*np.linspace(first, last, _GRID).round().astype(int), best]).tolist()
            scores = [accuracy(self._trace, (candidates[i],) * (self._trace.exits - 1)) for i in places]
            at = int(np.argmax(scores))
            best, first, last = places[at], places[max(at - 1, 0)], places[min(at + 1, len(places) - 1)]
        return (candidates[best],) * (self._trace.exits - 1)

    def weighed(self, start: Thresholds) -> Thresholds:
        """Optimal stopping with the prices at `start`: the best of several weights that is possible, or `start`."""
        cost, best = self._segment_cost(start), start
        low, high = _WEIGHT_RANGE
        weight = 0.0
        for _ in range(_WEIGHTS):
            tried = self._stopping(start, weight * cost)
            if self._possible(tried):
                best = self._better(best, tried)
                high = weight
            else:
                low = max(low, weight)
            if high <= low:
                break
            weight = math.sqrt(low * high)
        return best

    def climbed(self, start: Thresholds) -> Thresholds:
        """Coordinate ascent: each exit in turn takes its most accurate possible threshold, until nothing moves."""
        best, free = start, np.zeros(self._trace.exits)
        for _ in range(_ROUNDS):
            before = best
            for k in range(len(best)):
                candidates = self.candidates(k)
                limit = candidates[self.last_possible(candidates, best, k)]
                best = self._better(best, _with(best, k, self._best_at(k, best, free, limit)))
            if best == before:
                break
        return best

    def exchanged(self, start: Thresholds) -> Thresholds:
        """One exit takes another threshold, and a second exit its most accurate possible one to that."""
        best, free = start, np.zeros(self._trace.exits)
        for j, k in itertools.permutations(range(len(start)), 2):
            values, others = self.candidates(j), self.candidates(k)
            for place in np.linspace(0, len(values) - 1, _EXCHANGES).round().astype(int).tolist():
                moved = _with(best, j, values[place])
                wished = _with(moved, k, self._best_at(k, moved, free, 1.0))
                if self._better(best, wished) == best or not self._possible(_with(moved, k, self._lowest)):
                    continue
                limit = others[self.last_possible(others, moved, k)]
                best = self._better(best, _with(moved, k, self._best_at(k, moved, free, limit)))
        return best

    def _stopping(self, start: Thresholds, cost: Array) -> Thresholds:
        """From the last exit to the first, each takes the threshold that gains most, until none changes."""
        thresholds = start
        for _ in range(4 * len(start)):
            before = thresholds
            for k in reversed(range(len(thresholds))):
                thresholds = _with(thresholds, k, self._best_at(k, thresholds, cost, 1.0))
            if thresholds == before:
                break
        return thresholds

    def _best_at(self, k: int, others: Thresholds, cost: Array, limit: float) -> float:
        """The threshold of exit k, up to `limit`, with the most right answers less costs; the lowest such."""
        reach = leaving(self._trace, (*others[:k], *(1.0 for _ in others[k:]))) >= k
        later = leaving(self._trace, (*(1.0 for _ in others[: k + 1]), *others[k + 1 :]))[reach]
        confidence, right = self._confidence[reach, k], self._right[reach]
        paid = np.cumsum(cost)
        gain = right[np.arange(len(right)), later] - (paid[later] - paid[k]) - right[:, k]  # of going on
        order = np.argsort(confidence, kind="stable")
        confidence, total = confidence[order], np.concatenate([[0.0], np.cumsum(gain[order])])  # of the first i
        values = np.array([value for value in self.candidates(k) if value <= limit])
        return float(values[np.argmax(total[np.searchsorted(confidence, values, side="right")])])

    def _better(self, one: Thresholds, other: Thresholds) -> Thresholds:
        return other if accuracy(self._trace, other) > accuracy(self._trace, one) else one

    def _segment_cost(self, thresholds: Thresholds) -> Array:
        shares = tuple(max(share, _RARE) for share in continuation(self._trace, thresholds))
        try:
            return optimum(dataclasses.replace(self._problem, continuation=shares)).segment_cost
        except OptimumError:  # rare, because nobody can compute it
            return self._bound(thresholds).segment_cost

    def _bound(self, thresholds: Thresholds) -> Optimum:
        shares = continuation(self._trace, thresholds)
        return optimum(dataclasses.replace(self._problem, continuation=shares))

    def _possible(self, thresholds: Thresholds) -> bool:
        """Whether the rate is possible; solved only when no setting with more or fewer data at each exit tells."""
        reach: Array = np.cumprod(np.array(continuation(self._trace, thresholds)))
        if self._problem.result_s is None:
            if any(np.all(reach <= known) for known in self._yes):
                return True
            if any(np.all(reach >= known) for known in self._no):
                return False
        try:
            possible = self._bound(thresholds).rate_per_s >= self._rate * (1 - _TOLERANCE)
        except OptimumError:  # data would come to a segment that none can compute
            possible = False
        (self._yes if possible else self._no).append(reach)
        return possible


def _with(thresholds: Thresholds, k: int, value: float) -> Thresholds:
    return (*thresholds[:k], value, *thresholds[k + 1 :])
