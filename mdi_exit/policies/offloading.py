"""Offloading policies: where a task waits, what runs next, what a free link takes.

`MdiExitOffloading` is Algorithms 1 (the split) and 2 of MDI-Exit. The paper's listing could not be read; each line
that is uncertain is a named option, and its default is the reading that works best (see the class). The others are
baselines.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from mdi_exit.core.types import Arrival, Side, Task
from mdi_exit.core.views import NeighbourT, NeighbourView, WorkerView


def _oldest_to_run(view: WorkerView) -> int | None:
    return view.input.oldest(view.hosted)


def _shuffled(free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
    order = list(free)
    rng.shuffle(order)
    return order


@dataclass(frozen=True, slots=True)
class MdiExitOffloading:
    """Algorithms 1 and 2: keep a task when idle or congested, else offer it; send with a probability.

    A neighbour m takes the head of O_n when O_n > I_m, and then with probability
    min(1, I_n Gamma_n / (D_nm + I_m Gamma_m)) (papers.md 1.5). Options, all reconstructed:

    - `output_limit` (T_O): 50 is recalled of the paper; with 50 the input queue stays near empty and hardly anything is
      offloaded, so the default is 5.
    - `split`: keep a task when I_n is empty or O_n > T_O ("idle_or_congested"), or only when I_n is empty ("idle").
    - `first_task`: the listing puts a fresh datum into I_s ("input"), which caps the rate at what the source alone can
      do of segment 1; "split" treats it like any other task.
    - `received_task`: "input" as listed; "split" lets it move on.
    - `gate`: O_n > I_m ("backpressure"), or O_n > 0 ("none").
    - `count_itself`: count the task itself at m, (I_m + 1) Gamma_m.
    - `retry_s`: how soon a declined neighbour is drawn again; without it a probability means nothing.
    - `neighbours`: the order in which several free neighbours are tried.
    """

    uses_prices: ClassVar[bool] = False
    may_rest: ClassVar[bool] = False
    takes_back: ClassVar[bool] = True

    output_limit: int = 5
    split: Literal["idle_or_congested", "idle"] = "idle_or_congested"
    first_task: Literal["split", "input"] = "split"
    received_task: Literal["split", "input"] = "split"
    gate: Literal["backpressure", "none"] = "backpressure"
    count_itself: bool = False
    retry_s: float = 0.01
    neighbours: Literal["random", "listed"] = "random"

    def __post_init__(self) -> None:
        if self.output_limit < 0:
            raise ValueError("output_limit must not be negative")
        if not self.retry_s > 0:
            raise ValueError("retry_s must be above 0")

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        if arrival is Arrival.ADMITTED and self.first_task == "input":
            return Side.INPUT
        if arrival is Arrival.RECEIVED and self.received_task == "input":
            return Side.INPUT
        congested = self.split == "idle_or_congested" and view.output.length > self.output_limit
        return Side.INPUT if view.input.length == 0 or congested else Side.OUTPUT

    def next_to_run(self, view: WorkerView) -> int | None:
        return _oldest_to_run(view)

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        k = view.output.oldest(neighbour.accepts)
        if k is None or k not in view.hosted:
            return k  # what cannot be computed here has nothing to wait for
        there = neighbour.input_queue
        if self.gate == "backpressure" and view.output.length <= there:
            return None
        here_s = view.input.length * view.compute_delay_s
        there_s = neighbour.transfer_delay_s + (there + self.count_itself) * neighbour.compute_delay_s
        return k if here_s >= there_s or rng.random() * there_s < here_s else None

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return _shuffled(free, rng) if self.neighbours == "random" else list(free)


@dataclass(frozen=True, slots=True)
class NeverOffload:
    """Compute everything that is hosted here; hand on only what is not. A baseline."""

    uses_prices: ClassVar[bool] = False
    may_rest: ClassVar[bool] = False
    takes_back: ClassVar[bool] = True
    retry_s: ClassVar[float] = 0.0

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        return Side.INPUT

    def next_to_run(self, view: WorkerView) -> int | None:
        return _oldest_to_run(view)

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        return view.output.oldest(neighbour.accepts)

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return list(free)


@dataclass(frozen=True, slots=True)
class RandomNeighbour:
    """Compute here or at a neighbour with equal chances, blind to queues and delays. A baseline.

    A received task stays, so that tasks do not wander.
    """

    uses_prices: ClassVar[bool] = False
    may_rest: ClassVar[bool] = False
    takes_back: ClassVar[bool] = True
    retry_s: ClassVar[float] = 0.0

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        if arrival is Arrival.RECEIVED:
            return Side.INPUT
        choices = 1 + len(view.neighbours_toward(task.k))
        return Side.INPUT if rng.randrange(choices) == 0 else Side.OUTPUT

    def next_to_run(self, view: WorkerView) -> int | None:
        return _oldest_to_run(view)

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        return view.output.oldest(neighbour.accepts)

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return _shuffled(free, rng)


@dataclass(frozen=True, slots=True)
class LeastExpectedDelay:
    """Send a task where it is expected to be computed soonest: at n after (I_n + 1) Gamma_n, at m after
    D_nm + (I_m + 1) Gamma_m. Join-the-shortest-queue in units of time; a strong baseline. A received task stays.
    """

    uses_prices: ClassVar[bool] = False
    may_rest: ClassVar[bool] = False
    takes_back: ClassVar[bool] = True
    retry_s: ClassVar[float] = 0.0

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        if arrival is Arrival.RECEIVED:
            return Side.INPUT
        best_s = min(self._there_s(neighbour) for neighbour in view.neighbours_toward(task.k))
        return Side.OUTPUT if best_s < self._here_s(view) else Side.INPUT

    def next_to_run(self, view: WorkerView) -> int | None:
        return _oldest_to_run(view)

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        k = view.output.oldest(neighbour.accepts)
        if k is None or k not in view.hosted:
            return k
        best_s = min(self._there_s(other) for other in view.neighbours_toward(k))
        return k if self._there_s(neighbour) <= best_s < self._here_s(view) else None

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return list(free)

    def _here_s(self, view: WorkerView) -> float:
        return (view.input.length + view.computing + 1) * view.compute_delay_s

    def _there_s(self, neighbour: NeighbourView) -> float:
        return neighbour.transfer_delay_s + (neighbour.input_queue + 1) * neighbour.compute_delay_s


@dataclass(frozen=True, slots=True)
class OffloadByExit:
    """The exit policy says who is offloaded; all others stay where they are, as far as they are hosted there.

    What is offloaded waits until a neighbour takes it, also while this worker idles.
    """

    uses_prices: ClassVar[bool] = False
    takes_back: ClassVar[bool] = False
    may_rest: ClassVar[bool] = False
    retry_s: ClassVar[float] = 0.0

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        return Side.OUTPUT if arrival in (Arrival.OFFLOADED, Arrival.RETURNED) else Side.INPUT

    def next_to_run(self, view: WorkerView) -> int | None:
        return _oldest_to_run(view)

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        return view.output.oldest(neighbour.accepts)

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        return list(free)
