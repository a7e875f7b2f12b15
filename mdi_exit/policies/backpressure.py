"""Offloading by back-pressure: tasks flow to where fewer of their kind wait. (docs/papers.md; Tassiulas and Ephremides
1992 for the principle; the form with prices is ours.)

Every task waits for whichever is free first, the processor or a link. Q[n][k] tasks wait at worker n for segment k; a
free link n -> m takes the segment with the largest Q[n][k] - Q[m][k] - theta per second of sending, if above 0. Half of
what is on its way to m counts with Q[m][k], as the other half will be done by then; and a hand-over must relieve the
queues by more than computing would while the processors of both ends handle it (measured; ours).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from mdi_exit.core.types import Arrival, Side, Task
from mdi_exit.core.views import NeighbourT, NeighbourView, WorkerView
from mdi_exit.policies.weighing import by_turns, most_relieving, runnable, worth_sending

# Of one radio channel, what one worker has under way before it adds no more, or a round trip if that is longer, which
# keeps the channel busy; more would only wait for each other, and take turns with what is worth more.
_ON_AIR_MAX_S = 0.02
_HOP_PRICE_MAX = 0.1  # of a datum; were it dearer than what is gained, nothing would be sent, or even admitted
_KAPPA, _KAPPA_TARGET = 5.0, 9  # for short delays, at no rate's cost at this target; taken where there is none


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
            return max(runnable(view), default=None)
        return most_relieving(view, 0.0, 0.0)[1]

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        return worth_sending(view, neighbour, self.theta, 0.0, None, 0.0)[1]

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return by_turns(free)


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
        return most_relieving(view, self.price_scale, self._reward)[1]

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        way = view.way(neighbour.name)
        k = worth_sending(view, neighbour, self.theta, self.price_scale, way, self._reward)[1]
        if way and way.channel and k:
            busy_s, round_trip_s = view.air_use(way.channel)
            return k if busy_s < max(_ON_AIR_MAX_S, round_trip_s) else None
        return k

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        """On a radio channel the best use of the air comes first."""
        if not any((way := view.way(neighbour.name)) and way.channel for neighbour in free):
            return by_turns(free)

        def worth(neighbour: NeighbourT) -> float:
            return worth_sending(view, neighbour, self.theta, self.price_scale, view.way(neighbour.name))[0]

        return sorted(free, key=worth, reverse=True)
