"""An experiment in virtual time: the cores, policies, links and compute times of a real run, readings from a trace."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mdi_exit import assembly
from mdi_exit.analysis.prices import price_solver
from mdi_exit.config import Experiment
from mdi_exit.core import events as ev
from mdi_exit.core.types import ExitReading
from mdi_exit.devices import drawn_s
from mdi_exit.errors import UserError
from mdi_exit.journal import CoreName, Step
from mdi_exit.models.card import Card
from mdi_exit.report import WorkerFacts
from mdi_exit.simulation.world import CONTROLLER, NO_FAULTS, Faults, Network, World, shapers
from mdi_exit.tally import NodeTally
from mdi_exit.trace import ExitTrace

DETECTED_S = 0.2  # from a worker's death to the others' hearing of it; Ray takes about as long for a process
_LOOKS = 200  # times that progress is told of


class SimulationError(UserError):
    """An experiment that cannot be simulated as it was asked for."""


@dataclass(frozen=True, slots=True)
class Churn:
    """A worker dies, with all it holds, or is there again. A core knows no farewell: leaving is a crash too."""

    at_s: float
    worker: str
    kind: Literal["crash", "restart"]


@dataclass(frozen=True, slots=True)
class SimulationRecord:
    """What a simulation leaves behind; `report.build_report` makes the report of it."""

    card: Card
    tallies: tuple[NodeTally, ...]  # one per life of a worker
    facts: Mapping[str, WorkerFacts]
    notes: tuple[str, ...]  # who died and who came back, in order
    virtual_s: float
    events: int  # handled by the cores


def simulate(
    experiment: Experiment,
    card: Card,
    trace: ExitTrace,
    *,
    measured_s: Mapping[str, Sequence[float]] | None = None,
    faults: Faults = NO_FAULTS,
    churn: Sequence[Churn] = (),
    observe: Callable[[Step], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> SimulationRecord:
    """Run an experiment in virtual time, from the opening of admission to the last outcome.

    `measured_s` holds workers' seconds per segment 1..K, in the stead of their device profiles'. `observe` is given
    every step, `progress` the virtual time now and then. The same arguments give the same steps. Raises
    SimulationError for a worker whose times are not known, a trace of another number of exits, and impossible churn.
    """
    simulation = Simulation(experiment, card, trace, measured_s or {}, faults, churn, observe)
    whole_s = experiment.duration_s + experiment.drain_s
    looks = _LOOKS if progress else 1
    for look in range(1, looks + 1):
        simulation.advance(whole_s * look / looks)
        if progress:
            progress(simulation.world.now)
        if simulation.world.finished:
            break
    return simulation.record()


class Simulation:
    """A simulation in steps: `advance` it, look at its `world` and `tallies`, and `record` it."""

    def __init__(
        self,
        experiment: Experiment,
        card: Card,
        trace: ExitTrace,
        measured_s: Mapping[str, Sequence[float]],
        faults: Faults = NO_FAULTS,
        churn: Sequence[Churn] = (),
        observe: Callable[[Step], None] | None = None,
    ) -> None:
        if trace.exits != experiment.exits:
            raise SimulationError(
                f"the trace has {trace.exits} exits; allowed: {experiment.exits}, as many as the model"
            )
        self.experiment, self.card, self.trace = experiment, card, trace
        self.tallies: dict[tuple[str, int], NodeTally] = {}  # by life
        self._current: dict[str, NodeTally] = {}  # of the last life
        self.notes: list[str] = []
        self._observe, self._version, self._planned = observe, 0, 0
        self._times = _Times(experiment, card, measured_s)
        names, source = experiment.topology.workers, experiment.topology.source
        self.world = World(
            {name: assembly.worker_core(experiment, card, name) for name in names},
            source,
            assembly.controller_core(experiment, card),
            shapers(experiment.topology, experiment.seed),
            self._network(),
            random.Random(f"{experiment.seed}/faults"),
            self._see,
        )
        self.world.faults = faults
        self._alive = dict.fromkeys(names)
        self._due: list[tuple[float, int, Callable[[], None]]] = []  # a heap of what the outside does
        for name in names:
            self._begin(name)
        for change in churn:
            self._plan(change)
        self._tell_routes(names)
        self.world.schedule(0.0, CONTROLLER, ev.AdmissionOpened())
        self.world.schedule(experiment.duration_s, CONTROLLER, ev.AdmissionClosed())
        self.world.schedule(experiment.duration_s + experiment.drain_s, CONTROLLER, ev.DrainExpired())

    def advance(self, until_s: float, beyond_finish: bool = False) -> None:
        """Let happen what happens up to `until_s`, or until every datum has its outcome unless `beyond_finish`."""
        while self._due and self._due[0][0] <= until_s:
            self.world.run(self._due[0][0], not beyond_finish)
            if self.world.finished and not beyond_finish:
                return
            heapq.heappop(self._due)[-1]()
        self.world.run(until_s, not beyond_finish)

    def label(self, data_id: int) -> int:
        """The true class of datum d."""
        return int(self.trace.label[assembly.datum_index(self.experiment, data_id, len(self.trace))])

    def record(self) -> SimulationRecord:
        """What is known of it so far."""
        world = self.world
        for name in world.workers:
            self._current[name].close(world.now)
        facts = {
            name: WorkerFacts(bytes_sent=world.bytes_sent[name], restarts=world.epochs[name])
            for name in self.experiment.topology.workers
        }
        return SimulationRecord(
            self.card, tuple(self.tallies.values()), facts, tuple(self.notes), world.now, world.handled
        )

    # ---- what a world asks and tells

    def _network(self) -> Network:
        experiment, payload_bytes = self.experiment, self.trace.payload_bytes
        answered = (self._readings(), self._times.draw_s, payload_bytes)
        if not experiment.offloading.uses_prices:
            return Network(*answered)
        return Network(*answered, price_solver(experiment, self.card, payload_bytes))

    def _readings(self) -> Callable[[int, int], ExitReading]:
        trace, experiment, rows = self.trace, self.experiment, len(self.trace)
        columns = (trace.confidence.tolist(), trace.prediction.tolist(), trace.entropy.tolist())
        said = [[ExitReading(*one) for one in zip(*row, strict=True)] for row in zip(*columns, strict=True)]

        def reading(data_id: int, k: int) -> ExitReading:
            return said[assembly.datum_index(experiment, data_id, rows)][k - 1]

        return reading

    def _see(self, now: float, node: str, event: ev.Event, effects: list[Any]) -> None:
        core: CoreName = "controller"
        if node == CONTROLLER:
            node = self.world.source
            self._current[node].take(now, core, event, effects)
        else:
            core, tally, worker = "worker", self._current[node], self.world.workers[node]
            tally.take(now, core, event, effects)
            tally.observe(now, len(worker.input) + len(worker.either), len(worker.output))
        if self._observe:
            self._observe(Step(now, node, self.world.epochs[node], core, event, tuple(effects)))

    # ---- who comes and goes

    def _begin(self, name: str) -> None:
        """A life begins."""
        epoch = self.world.epochs[name]
        label_of = self.label if name == self.world.source else None
        self.tallies[name, epoch] = self._current[name] = NodeTally(name, self.experiment.exits, label_of, epoch)
        self._times.begin(name, epoch)
        self._alive[name] = None

    def _tell_routes(self, names: Sequence[str]) -> None:
        """Let these workers know who is there, as the runtime's crew does."""
        routes = assembly.routes_for(self.experiment, list(self._alive), self._version)
        for name in names:
            self.world.schedule(0.0, name, ev.RoutesChanged(routes[name]))

    def _plan(self, change: Churn) -> None:
        workers, source = self.experiment.topology.workers, self.world.source
        if change.worker not in workers or change.worker == source or not 0 <= change.at_s < math.inf:
            others = ", ".join(name for name in workers if name != source) or "nobody"
            raise SimulationError(f"{change}: allowed: {others} (not the source), from second 0 on")
        self._later(change.at_s, lambda: self._crash(change) if change.kind == "crash" else self._restart(change))

    def _later(self, at_s: float, act: Callable[[], None]) -> None:
        self._planned += 1
        heapq.heappush(self._due, (at_s, self._planned, act))

    def _crash(self, change: Churn) -> None:
        name = change.worker
        if name not in self.world.workers:
            raise SimulationError(f"{change}: it is down already")
        self._current[name].close(self.world.now)
        self.world.crash(name)
        epoch = self.world.epochs[name]
        self.notes.append(f"{name} was lost {change.at_s:.2f} s into the run")
        self._later(change.at_s + DETECTED_S, lambda: self._lose(name) if self._down(name, epoch) else None)

    def _down(self, name: str, epoch: int) -> bool:
        return name in self._alive and self.world.epochs[name] == epoch and name not in self.world.workers

    def _lose(self, name: str) -> None:
        """The others hear of a death."""
        del self._alive[name]
        self._version += 1
        self._tell_routes(list(self._alive))
        self.world.schedule(0.0, CONTROLLER, ev.WorkerLost(name))

    def _restart(self, change: Churn) -> None:
        """A next life: it learns of the others before they do of it, so that it lets them in."""
        name = change.worker
        if name in self.world.workers:
            raise SimulationError(f"{change}: it is up already")
        if name in self._alive:
            self._lose(name)
        epoch = self.world.epochs[name]
        self.world.restart(name, assembly.worker_core(self.experiment, self.card, name, epoch))
        self._begin(name)
        self._version += 1
        self._tell_routes([name, *(other for other in self._alive if other != name)])
        self.world.schedule(0.0, CONTROLLER, ev.WorkerJoined(name))
        self.notes.append(f"{name} was back {change.at_s:.2f} s into the run")


class _Times:
    """How long computations take: drawn as a paced worker draws them, each life from a generator of its own."""

    def __init__(self, experiment: Experiment, card: Card, measured_s: Mapping[str, Sequence[float]]) -> None:
        self._experiment = experiment
        self._segment_s: dict[str, tuple[float, ...]] = {}
        self._spread: dict[str, float] = {}
        self._rng: dict[str, random.Random] = {}
        for name in experiment.topology.workers:
            profile = experiment.devices[name]
            if name in measured_s:
                seconds, spread = tuple(measured_s[name]), 0.0
                if len(seconds) != experiment.exits or min(seconds) <= 0:
                    raise SimulationError(f"{name}: measured times {seconds}; allowed: {experiment.exits} above 0")
            elif profile is not None:
                seconds, spread = profile.seconds(card.model.architecture, card.model.image_size), profile.spread
            else:
                raise SimulationError(
                    f"{name}: has no device profile, so how long it computes is not known; allowed: a profile for "
                    "every worker, such as --set devices=jetson-nano"
                )
            self._segment_s[name], self._spread[name] = seconds, spread

    def begin(self, name: str, epoch: int) -> None:
        """A life begins, with draws of its own."""
        self._rng[name] = random.Random(f"{self._experiment.seed}/pace {name}/{epoch}")

    def draw_s(self, name: str, k: int, tasks: int) -> float:
        """Seconds that this worker now takes for so many tasks of segment k."""
        return drawn_s(self._segment_s[name][k - 1], tasks, self._spread[name], self._rng[name])
