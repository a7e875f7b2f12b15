"""Offloading by back-pressure: tasks flow to where fewer of their kind wait. (docs/papers.md; Tassiulas and Ephremides
1992 for the principle; the form with prices is ours.)

Every task waits for whichever is free first, the processor or a link. Q[n][k] tasks wait at worker n for segment k; a
free link n -> m takes the segment with the largest Q[n][k] - Q[m][k] - theta per second of sending, if above 0. Half of
what is on its way to m counts with Q[m][k], as the other half will be done by then; and a hand-over must relieve the
queues by more than computing would while the processors of both ends handle it (measured; ours).
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from mdi_exit.core.types import Arrival, Side, Task, Way
from mdi_exit.core.views import NeighbourT, NeighbourView, WorkerView

# Of one radio channel, what one worker has under way before it adds no more, or a round trip if that is longer, which
# keeps the channel busy; more would only wait for each other, and take turns with what is worth more.
_ON_AIR_MAX_S = 0.02
# What a way, or the processor, was given lately may exceed its part of the optimum by so many tasks.
_BEYOND = 4.0
# Tasks that count for a way within its part, and against a processor beyond its own: prices say what each way is worth,
# not how often to take which of equals, and queues short enough for short delays are too noisy to tell.
_FOR_A_WAY, _AGAINST = 2.0, 5.0
# On a channel all senders wait for each other: a way that is seldom used would have its turn only when so many wait for
# it that the processor has long taken them. What it is short of its part counts for it, so many tasks at most.
_OWED_MAX = 5.0
_SHORT_OF = 0.01  # a share that small is the solver's noise
# For its turn a queue counts one more for each task beyond so many that came after its first: few wait for late
# segments, for long.
_PATIENCE = 24
_HOP_PRICE_MAX = 0.1  # of a datum; were it dearer than what is gained, nothing would be sent, or even admitted
_KAPPA, _KAPPA_TARGET = 5.0, 9  # for short delays, at no rate's cost at this target; taken where there is none
_SHORTEST_S = 1e-4  # a hand-over that was never measured, or took next to no time, counts as long as this


@dataclass(frozen=True, slots=True)
class BackPressure:
    """Queue lengths alone. For workers that all host everything, on fast links; needs no measurement beyond them.

    - `theta`: how much longer the queue here must be, so that tasks are not sent to and fro.
    - `service`: what an idle worker runs: the deepest segment, which ends data soon, or the one with the largest
      Q[n][k] - c[k] Q[n][k+1] per second ("max_weight"), which starves no worker that hosts late segments only.
    """

    uses_prices: ClassVar[bool] = False
    takes_back: ClassVar[bool] = True
    retry_s: ClassVar[float] = 0.0  # considered anew at every event

    theta: float = 1.0
    service: Literal["deepest", "max_weight"] = "deepest"

    def __post_init__(self) -> None:
        if self.theta < 0:
            raise ValueError("theta must not be negative")

    @property
    def may_rest(self) -> bool:
        return self.service == "max_weight"

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        return Side.EITHER

    def next_to_run(self, view: WorkerView) -> int | None:
        if self.service == "deepest":
            return max(_runnable(view), default=None)
        return _most_relieving(view, 0.0, 0.0)[1]

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        return _worth_sending(view, neighbour, self.theta, 0.0, None, 0.0)[1]

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return _by_turns(free)


@dataclass(frozen=True, slots=True)
class DualBackPressure:
    """Back-pressure on H[n][k] = Q[n][k] + price_scale pi[n][k], with prices pi (and nu of radio channels) that the
    source solves the fluid problem for, with what the workers measured (ours; no paper's).

    Prices tell where tasks are worth having long before queues do, so queues, and with them delays, stay short; the
    queues correct prices that are off. An idle worker runs the segment with the largest
    (H[n][k] - c[k] H[n][k+1] + kappa k) / Gamma[n][k], or none where that would only lengthen a queue for links; a free
    link takes the one with the largest (H[n][k] - H[m][k] - theta) / D, if above 0 (what cannot be computed here:
    without theta). A hand-over costs theta in the fluid problem too, so that its prices fall by as much along the ways
    it uses, and queues need not. Ways that have had no more than about their part of the optimum's flow are favoured,
    and what was long overtaken; a segment of which the processor has had more than its part loses kappa k, and some.
    Half of what is on its way to m counts with Q[m][k], and handling the hand-over at both ends has to be worth its
    time, as in BackPressure. On a radio channel that limits the rate, it is
    (H[n][k] - H[m][k] - theta - price_scale nu D) / D with D the time on the air; what a way is short of its part
    counts for it, what it is beyond against it, and soon it gets no more: who shares a channel cannot see what else
    waits for it. Before the first prices H is Q.
    """

    uses_prices: ClassVar[bool] = True
    may_rest: ClassVar[bool] = True
    takes_back: ClassVar[bool] = True
    retry_s: ClassVar[float] = 0.0

    theta: float = 1.0
    # The larger, the sooner data end; too large, and slices of late or early segments starve. Where none is given, an
    # experiment's grows with the admission's queue_target, as queues everywhere do with the one at the source.
    kappa: float | None = None
    price_scale: float = 30.0  # tasks that a price of 1 counts for; the larger, the less queues correct prices

    def __post_init__(self) -> None:
        if min(self.theta, self.kappa or 0.0, self.price_scale) < 0:
            raise ValueError("theta, kappa and price_scale must not be negative")

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        return Side.EITHER

    @property
    def hop_price(self) -> float:
        """What a hand-over costs in the fluid problem, in the worth of a fresh datum."""
        return min(self.theta / self.price_scale, _HOP_PRICE_MAX) if self.price_scale else 0.0

    def at(self, queue_target: int) -> DualBackPressure:
        """The same for a queue so long at the source; 0: none is aimed at."""
        return replace(
            self, kappa=_KAPPA * (queue_target or _KAPPA_TARGET) / _KAPPA_TARGET if self.kappa is None else self.kappa
        )

    @property
    def _reward(self) -> float:
        return _KAPPA if self.kappa is None else self.kappa

    def next_to_run(self, view: WorkerView) -> int | None:
        return _most_relieving(view, self.price_scale, self._reward)[1]

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        way = view.way(neighbour.name)
        k = _worth_sending(view, neighbour, self.theta, self.price_scale, way, self._reward)[1]
        if way and way.channel and k:
            busy_s, round_trip_s = view.air_use(way.channel)
            return k if busy_s < max(_ON_AIR_MAX_S, round_trip_s) else None
        return k

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        """On a radio channel the best use of the air comes first."""
        if not any((way := view.way(neighbour.name)) and way.channel for neighbour in free):
            return _by_turns(free)

        def worth(neighbour: NeighbourT) -> float:
            return _worth_sending(view, neighbour, self.theta, self.price_scale, view.way(neighbour.name))[0]

        return sorted(free, key=worth, reverse=True)


def _worth_sending(
    view: WorkerView,
    neighbour: NeighbourView,
    theta: float,
    price_scale: float,
    way: Way | None,
    kappa: float | None = None,
) -> tuple[float, int | None]:
    """The largest weight of the segments that wait for this link, and the segment; 0 and None where none is above 0.

    With `kappa`, for what could be computed here handling the hand-over must be worth its time, too.
    """
    best, best_weight = None, 0.0
    output, either = view.output.counts, view.either.counts
    here, there = view.backlogs, neighbour.backlogs
    pays, paid = (view.prices(view.name), view.prices(neighbour.name)) if price_scale else ((), ())
    air = way if way and way.channel else None
    for k in neighbour.accepts:
        i = k - 1
        if not (output[i] or either[i]):
            continue
        weight = here[i] - there[i] + (price_scale * (pays[i] - paid[i]) if price_scale else 0.0)
        owed = 0.0
        if air:
            owed = _owed(view, neighbour, air, k)
            weight += min(_OWED_MAX, owed)
        elif way and way.share[i] and _owed(view, neighbour, way, k) >= -_BEYOND:
            weight += _FOR_A_WAY
        if weight <= 0:  # what follows only lowers it
            continue
        if air:
            weight -= price_scale * air.nu * air.air_s[i]
        else:  # half of what is on its way will be done as it comes; on the air _ON_AIR_MAX_S bounds it
            weight -= neighbour.under_way(k) / 2
        if k in view.hosted:  # what cannot be computed here must go
            weight -= theta
            if weight > 0 and kappa is not None and view.beside_s:
                weight -= _computed_meanwhile(view, _most_relieving(view, price_scale, kappa)[0], k)
        if weight <= 0:
            continue
        weight /= max(air.air_s[i] if air else neighbour.segment_delay_s(k), _SHORTEST_S)
        if weight > best_weight and (air is None or owed >= -_BEYOND):
            best, best_weight = k, weight
    return best_weight, best


def _owed(view: WorkerView, neighbour: NeighbourView, way: Way, k: int) -> float:
    """Tasks for segment k that this way is short of its part of what is disposed of here; below 0: beyond it. 0 where
    no part is known, or nobody is left whom the optimum sends anything.

    A group counts when it has left; what it was too large by, later ones wait for.
    """
    share, usable = way.share[k - 1], 1.0
    for other in view.neighbours_toward(k):
        if other.quarantined and (lost := view.way(other.name)) and lost.share[k - 1] <= 1:
            usable -= lost.share[k - 1]  # the others take over its part
    if share > 1 or usable < _SHORT_OF:
        return 0.0
    if not share:
        return -math.inf
    handed, in_all = view.dealt(neighbour.name, k)
    return share / usable * (in_all + 1) - handed - 1


def _beyond_share(view: WorkerView, k: int) -> bool:
    """Whether computing one more task for segment k exceeds the optimum's part of what is disposed of here."""
    ways = [way for m in view.neighbours_toward(k) if not m.quarantined and (way := view.way(m.name))]
    away = sum(way.share[k - 1] for way in ways if way.share[k - 1] <= 1)
    computed, in_all = view.dealt(view.name, k)
    return away > 0 and computed + 1 > (1 - away) * (in_all + 1) + _BEYOND


def _computed_meanwhile(view: WorkerView, relief: float, k: int) -> float:
    """What computing would relieve the queues by while both ends handle the hand-over of a task for segment k; twice
    that for one that was handed here, and so on, so that tasks settle. (Relays that had no choice count, too.)"""
    if relief <= 0:
        return 0.0
    hops = view.output.hops(k) if view.output.counts[k - 1] else view.either.hops(k)
    return 2 * view.beside_s * relief * (1 + hops)


def _runnable(view: WorkerView) -> list[int]:
    """Hosted segments that wait for the processor, ascending."""
    waiting, either = view.input.counts, view.either.counts
    return [k for k in view.hosted if waiting[k - 1] or either[k - 1]]


def _most_relieving(view: WorkerView, price_scale: float, kappa: float) -> tuple[float, int | None]:
    """The largest (H[n][k] - c[k] H[n][k+1] + kappa k) / Gamma[n][k] of the runnable segments, and the segment.

    0 and None where each does more harm than good: what it makes waits already, in the end for links, as what ends data
    here never does harm. Worked out once for as long as the queues stay as they are: every free link asks.
    """
    if (known := view.memo.get("most relieving")) is not None:
        return known
    best, best_weight, best_turn = None, 0.0, 0.0
    backlogs, pays = view.backlogs, view.prices(view.name)
    for k in _runnable(view):
        following = backlogs[k] + price_scale * pays[k] if k < view.exits else 0.0
        relief = backlogs[k - 1] + price_scale * pays[k - 1] - view.continuation(k) * following + kappa * k
        if relief < 0 and backlogs[k]:
            continue
        if relief > 0 and _beyond_share(view, k):
            relief = max(0.0, relief - kappa * k - _AGAINST)
        delay_s = max(view.segment_delay_s(k), _SHORTEST_S)
        turn = (relief + max(0, view.since_oldest(k) - _PATIENCE)) / delay_s
        if best is None or turn > best_turn:
            best, best_weight, best_turn = k, relief / delay_s, turn
    view.memo["most relieving"] = best_weight, best
    return best_weight, best


def _by_turns(free: Sequence[NeighbourT]) -> list[NeighbourT]:
    """Whoever has least is asked first; equals in the order they are listed."""
    return sorted(free, key=operator.attrgetter("input_queue"))
