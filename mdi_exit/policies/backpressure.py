"""Offloading by back-pressure: tasks flow to where fewer of their kind wait. (docs/papers.md; Tassiulas and Ephremides
1992 for the principle; the form with prices is ours.)

Every task waits for whichever is free first, the processor or a link. Q[n][k] tasks wait at worker n for segment k; a
free link n -> m takes the segment with the largest Q[n][k] - Q[m][k] - theta per second of sending, if above 0.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from mdi_exit.core.types import Arrival, OnAir, Side, Task
from mdi_exit.core.views import NeighbourT, NeighbourView, WorkerView

# Hand-overs of one worker on one radio channel: enough to keep it busy; more would only wait for each other, and take
# turns with what is worth more.
_ON_AIR_MAX = 4
_SHORTEST_S = 1e-4  # a hand-over that was never measured, or took next to no time, counts as long as this


@dataclass(frozen=True, slots=True)
class BackPressure:
    """Queue lengths alone. For workers that all host everything, on fast links; needs no measurement beyond them.

    - `theta`: how much longer the queue here must be, so that tasks are not sent to and fro.
    - `service`: what an idle worker runs: the deepest segment, which ends data soon, or the one with the largest
      Q[n][k] - c[k] Q[n][k+1] per second ("max_weight"), which starves no worker that hosts late segments only.
    """

    uses_prices: ClassVar[bool] = False
    retry_s: ClassVar[float] = 0.0  # considered anew at every event

    theta: float = 1.0
    service: Literal["deepest", "max_weight"] = "deepest"

    def __post_init__(self) -> None:
        if self.theta < 0:
            raise ValueError("theta must not be negative")

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        return Side.EITHER

    def next_to_run(self, view: WorkerView) -> int | None:
        if self.service == "deepest":
            return max(_runnable(view), default=None)
        return _most_relieving(view, lambda k: float(view.backlog(k)), 0.0)

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        return _worth_sending(view, neighbour, self.theta)[1]

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return _by_turns(free)


@dataclass(frozen=True, slots=True)
class DualBackPressure:
    """Back-pressure on H[n][k] = Q[n][k] + price_scale pi[n][k], with prices pi (and nu of radio channels) that the
    source solves the fluid problem for, with what the workers measured (ours; no paper's).

    Prices tell where tasks are worth having long before queues do, so queues, and with them delays, stay short; the
    queues correct prices that are off. An idle worker runs the segment with the largest
    (H[n][k] - c[k] H[n][k+1] + kappa k) / Gamma[n][k], or none where that would only lengthen a queue for links; a free
    link takes the one with the largest (H[n][k] - H[m][k] - theta - price_scale nu D) / D, if above 0. On a radio
    channel that limits the rate, D is the time on the air; elsewhere nu is 0. Before the first prices H is Q.
    """

    uses_prices: ClassVar[bool] = True
    retry_s: ClassVar[float] = 0.0

    theta: float = 1.0
    kappa: float = 6.0  # the larger, the sooner data end; too large, and slices of late or early segments starve
    price_scale: float = 30.0  # tasks that a price of 1 counts for; 10 to 100 differ little

    def __post_init__(self) -> None:
        if min(self.theta, self.kappa, self.price_scale) < 0:
            raise ValueError("theta, kappa and price_scale must not be negative")

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        return Side.EITHER

    def next_to_run(self, view: WorkerView) -> int | None:
        def height(k: int) -> float:
            return view.backlog(k) + self.price_scale * view.price(view.name, k)

        return _most_relieving(view, height, self.kappa)

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        way = view.on_air(neighbour.name)
        if way and view.sending_on(way.channel) >= _ON_AIR_MAX:
            return None
        return _worth_sending(view, neighbour, self.theta, self.price_scale, way)[1]

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        """On a radio channel the best use of the air comes first."""
        if not any(view.on_air(neighbour.name) for neighbour in free):
            return _by_turns(free)

        def worth(neighbour: NeighbourT) -> float:
            return _worth_sending(view, neighbour, self.theta, self.price_scale, view.on_air(neighbour.name))[0]

        return sorted(free, key=worth, reverse=True)


def _worth_sending(
    view: WorkerView, neighbour: NeighbourView, theta: float, price_scale: float = 0.0, way: OnAir | None = None
) -> tuple[float, int | None]:
    """The largest weight of the segments that wait for this link, and the segment; 0 and None where none is above 0."""
    best, best_weight = None, 0.0
    for k in neighbour.accepts:
        if not (view.output.count(k) or view.either.count(k)):
            continue
        weight = float(view.backlog(k) - neighbour.backlog(k))
        if k in view.hosted:  # what cannot be computed here has no reason to stay
            weight -= theta
        if price_scale:
            weight += price_scale * (view.price(view.name, k) - view.price(neighbour.name, k))
            if way:
                weight -= price_scale * way.nu * way.air_s[k - 1]
        weight /= max(way.air_s[k - 1] if way else neighbour.segment_delay_s(k), _SHORTEST_S)
        if weight > best_weight:
            best, best_weight = k, weight
    return best_weight, best


def _runnable(view: WorkerView) -> list[int]:
    """Hosted segments that wait for the processor, ascending."""
    return [k for k in view.hosted if view.input.count(k) or view.either.count(k)]


def _most_relieving(view: WorkerView, height: Callable[[int], float], kappa: float) -> int | None:
    """The runnable segment with the largest (H[n][k] - c[k] H[n][k+1] + kappa k) / Gamma[n][k].

    None where each would do more harm than good: what it makes cannot be computed here, and waits for links already.
    """
    best, best_weight = None, 0.0
    for k in _runnable(view):
        following = height(k + 1) if k < view.exits else 0.0
        relief = height(k) - view.continuation(k) * following + kappa * k
        if relief < 0 and k + 1 not in view.hosted and view.backlog(k + 1):
            continue
        weight = relief / max(view.segment_delay_s(k), _SHORTEST_S)
        if best is None or weight > best_weight:
            best, best_weight = k, weight
    return best


def _by_turns(free: Sequence[NeighbourT]) -> list[NeighbourT]:
    """Whoever has least is asked first; equals in the order they are listed."""
    return sorted(free, key=lambda neighbour: neighbour.input_queue)
