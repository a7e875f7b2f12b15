"""What back-pressure weighs: a task against the place where it may wait next. For `backpressure`, whose rules ask at
every event; a file of its own as it is worth compiling, which those rules, being settings, are not."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

from mdi_exit.core.types import Way
from mdi_exit.core.views import NeighbourT, NeighbourView, WorkerView

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
_PATIENCE_MAX = 400  # of such tasks, before part of a group runs before whole ones
_SHORTEST_S = 1e-4  # a hand-over that was never measured, or took next to no time, counts as long as this


def worth_sending(
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
        else:  # half of what is on its way will be done as it comes; on the air `backpressure` bounds it
            weight -= neighbour.handed[i] / 2
        if k in view.hosted:  # what cannot be computed here must go
            ahead = here[i] - there[i] - neighbour.handed[i]  # half of it evens out the queues
            if ahead < 2 * (group := view.group(k)) - 1 and 1 < group <= neighbour.input_queue:
                continue  # part of a group is not worth a message to who has as many tasks as a group to compute
            weight -= theta
            if weight > 0 and kappa is not None and view.beside_s:
                weight -= _computed_meanwhile(view, most_relieving(view, price_scale, kappa)[0], k)
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


def runnable(view: WorkerView) -> list[int]:
    """Hosted segments that wait for the processor, ascending."""
    waiting, either = view.input.counts, view.either.counts
    return [k for k in view.hosted if waiting[k - 1] or either[k - 1]]


def most_relieving(view: WorkerView, price_scale: float, kappa: float) -> tuple[float, int | None]:
    """The largest (H[n][k] - c[k] H[n][k+1] + kappa k) / Gamma[n][k] of the runnable segments, and the segment.

    0 and None where each does more harm than good: what it makes waits already, in the end for links, as what ends data
    here never does harm. A whole group comes before a part of one, until a group's patience is over, as each costs the
    same beside computing. Worked out once for as long as the queues stay as they are: every free link asks.
    """
    if (known := view.memo.get("most relieving")) is not None:
        return known
    best, best_weight, best_turn = None, 0.0, (False, 0.0)
    waiting, either = view.input.counts, view.either.counts
    backlogs, pays = view.backlogs, view.prices(view.name)
    for k in runnable(view):
        following = backlogs[k] + price_scale * pays[k] if k < view.exits else 0.0
        relief = backlogs[k - 1] + price_scale * pays[k - 1] - view.continuation(k) * following + kappa * k
        if relief < 0 and backlogs[k]:
            continue
        if relief > 0 and _beyond_share(view, k):
            relief = max(0.0, relief - kappa * k - _AGAINST)
        delay_s = max(view.segment_delay_s(k), _SHORTEST_S)
        group, later = view.group(k), view.since_oldest(k)
        whole = (waiting[k - 1] or either[k - 1]) >= group or later > min(_PATIENCE * group, _PATIENCE_MAX)
        turn = whole, (relief + max(0, later - _PATIENCE)) / delay_s
        if best is None or turn > best_turn:
            best, best_weight, best_turn = k, relief / delay_s, turn
    view.memo["most relieving"] = best_weight, best
    return best_weight, best


def by_turns(free: Sequence[NeighbourT]) -> list[NeighbourT]:
    """Whoever has least is asked first; equals in the order they are listed."""
    return sorted(free, key=operator.attrgetter("input_queue"))
