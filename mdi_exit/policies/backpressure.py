"""Offloading by back-pressure: tasks flow to where fewer of their kind wait. (docs/papers.md; Tassiulas and Ephremides
1992 for the principle; the form with prices is ours.)

Every task waits for whichever is free first, the processor or a link. Q[n][k] tasks wait at worker n for segment k; a
free link n -> m takes the segment with the largest Q[n][k] - Q[m][k] - theta per second of sending, if above 0.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from mdi_exit.core.types import Arrival, Side, Task
from mdi_exit.core.views import NeighbourT, NeighbourView, WorkerView

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
        runnable = _runnable(view)
        if not runnable or self.service == "deepest":
            return runnable[-1] if runnable else None
        return max(runnable, key=lambda k: (_served(view, k, view.backlog(k), _behind(view, k)), k))

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        best, best_weight = None, 0.0
        for k in neighbour.accepts:
            here = view.output.count(k) + view.either.count(k)
            if not here:
                continue
            theta = self.theta if k in view.hosted else 0.0  # what cannot be computed here has no reason to stay
            gained = view.backlog(k) - neighbour.backlog(k) - theta
            weight = gained / max(neighbour.segment_delay_s(k), _SHORTEST_S)
            if weight > best_weight:
                best, best_weight = k, weight
        return best

    def order(self, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return _by_turns(free, rng)


@dataclass(frozen=True, slots=True)
class DualBackPressure:
    """Back-pressure on H[n][k] = Q[n][k] + price_scale pi[n][k], with prices pi (and nu of radio channels) that the
    source solves the fluid problem for, with what the workers measured (ours; no paper's).

    Prices tell where tasks are worth having long before queues do, so queues, and with them delays, stay short; the
    queues correct prices that are off. An idle worker runs the segment with the largest
    (H[n][k] - c[k] H[n][k+1] + kappa k) / Gamma[n][k]; a free link takes the one with the largest
    (H[n][k] - H[m][k] - theta - price_scale nu D) / D, if above 0; D in nu D is the time on the radio channel, the other
    one the measured time until the acknowledgement. Before the first prices H is Q.
    """

    uses_prices: ClassVar[bool] = True
    retry_s: ClassVar[float] = 0.0

    theta: float = 1.0
    kappa: float = 2.0
    price_scale: float = 30.0  # tasks that a price of 1 counts for; 10 to 100 differ little

    def __post_init__(self) -> None:
        if min(self.theta, self.kappa, self.price_scale) < 0:
            raise ValueError("theta, kappa and price_scale must not be negative")

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        return Side.EITHER

    def next_to_run(self, view: WorkerView) -> int | None:
        best, best_weight = None, 0.0
        for k in _runnable(view):
            following = self._height(view, k + 1) if k < view.exits else 0.0
            weight = _served(view, k, self._height(view, k) + self.kappa * k, following)
            if best is None or weight > best_weight:
                best, best_weight = k, weight
        return best

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        best, best_weight = None, 0.0
        for k in neighbour.accepts:
            if not (view.output.count(k) or view.either.count(k)):
                continue
            delay_s = max(neighbour.segment_delay_s(k), _SHORTEST_S)
            crossing = view.channel_price(neighbour.name, k)
            cheaper = self.price_scale * (view.price(view.name, k) - view.price(neighbour.name, k) - crossing)
            # What cannot be computed here has no reason to stay, and a channel's price keeps tasks from going to and fro.
            theta = self.theta if k in view.hosted and not crossing else 0.0
            weight = (view.backlog(k) - neighbour.backlog(k) - theta + cheaper) / delay_s
            if weight > best_weight:
                best, best_weight = k, weight
        return best

    def order(self, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return _by_turns(free, rng)

    def _height(self, view: WorkerView, k: int) -> float:
        return view.backlog(k) + self.price_scale * view.price(view.name, k)


def _runnable(view: WorkerView) -> list[int]:
    """Hosted segments that wait for the processor, ascending."""
    return [k for k in view.hosted if view.input.count(k) or view.either.count(k)]


def _behind(view: WorkerView, k: int) -> float:
    return float(view.backlog(k + 1)) if k < view.exits else 0.0


def _served(view: WorkerView, k: int, here: float, following: float) -> float:
    """What running segment k relieves, per second of it."""
    return (here - view.continuation(k) * following) / max(view.segment_delay_s(k), _SHORTEST_S)


def _by_turns(free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
    """Whoever has least is asked first; equals in the order they are listed."""
    return sorted(free, key=lambda neighbour: neighbour.input_queue)
