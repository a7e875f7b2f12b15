"""An experiment in virtual time: the cores, policies, links and compute times of a real run, readings from a trace."""

from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdi_exit import assembly
from mdi_exit.analysis.prices import price_solver
from mdi_exit.config import Churn, Experiment
from mdi_exit.core import events as ev
from mdi_exit.core.types import ExitReading
from mdi_exit.journal import CoreName, Step
from mdi_exit.models.card import Card
from mdi_exit.quick import few_collections
from mdi_exit.report_nodes import WorkerFacts
from mdi_exit.shaping import OwnMedium, Shaper
from mdi_exit.simulation.links import NO_FAULTS, Faults, shapers
from mdi_exit.simulation.times import SimulationError, Times
from mdi_exit.simulation.world import CONTROLLER, Network, World
from mdi_exit.tallies import NodeTally, tally_of
from mdi_exit.trace import ExitTrace

_LEAVING_LOOK_S = 0.05  # between looks whether a worker that leaves has nothing left
DETECTED_S = 0.2  # from a worker's death to the others' hearing of it; Ray takes about as long for a process
_LOOKS = 200  # times that progress is told of


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
    observe: Callable[[Step], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> SimulationRecord:
    """Run an experiment in virtual time, from the opening of admission to the last outcome.

    `measured_s` holds workers' seconds per segment 1..K, in the stead of their device profiles'. `observe` is given
    every step, `progress` the virtual time now and then. The same arguments give the same steps. Raises
    SimulationError for a worker whose times are not known, a trace of another number of exits, and impossible churn.
    """
    simulation = Simulation(experiment, card, trace, measured_s or {}, faults, observe)
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
        self._times = times = Times(experiment, card, measured_s)
        prices = price_solver(experiment, card, trace.payload_bytes)
        self._media = {channel: OwnMedium() for channel in experiment.topology.channels()}
        names, source = experiment.topology.workers, experiment.topology.source
        self.world = World(
            {name: assembly.worker_core(experiment, card, name) for name in names},
            source,
            assembly.controller_core(experiment, card),
            self._links(0),
            Network(self._readings(), times.draw_s, trace.payload_bytes, times.loop_s, prices),
            random.Random(f"{experiment.seed}/faults"),
            self._see,
        )
        self.world.faults = faults
        self._alive = dict.fromkeys(names)
        self._leaving: dict[str, int] = {}  # since which version of the routes
        self._due: list[tuple[float, int, Callable[[], None]]] = []  # a heap of what the outside does
        for name in names:
            self._begin(name)
        acts = {"crash": self._crash, "leave": self._leave, "join": self._join}
        for change in experiment.churn:
            self._later(change.at_s, functools.partial(acts[change.kind], change))
        self._tell_routes(names)
        self.world.schedule(0.0, CONTROLLER, ev.AdmissionOpened())
        self.world.schedule(experiment.duration_s, CONTROLLER, ev.AdmissionClosed())
        self.world.schedule(experiment.duration_s + experiment.drain_s, CONTROLLER, ev.DrainExpired())

    def advance(self, until_s: float, beyond_finish: bool = False) -> None:
        """Let happen what happens up to `until_s`, or until every datum has its outcome unless `beyond_finish`."""
        with few_collections():
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

    def _links(self, epoch: int) -> dict[tuple[str, str], Shaper]:
        return shapers(self.experiment.topology, self.experiment.seed, self._media, epoch)

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
            tally.observe(now, worker.input.length + worker.either.length, worker.output.length)
        if self._observe:
            self._observe(Step(now, node, self.world.epochs[node], core, event, tuple(effects)))

    # ---- who comes and goes

    def _begin(self, name: str) -> None:
        """A life begins."""
        epoch = self.world.epochs[name]
        label_of = self.label if name == self.world.source else None
        self.tallies[name, epoch] = self._current[name] = tally_of(self.experiment, name, label_of, epoch)
        self._times.begin(name, epoch)
        self._alive[name] = None

    def _tell_routes(self, names: Sequence[str]) -> None:
        """Let these workers know who is there, as the runtime's crew does."""
        routes = assembly.routes_for(self.experiment, list(self._alive), self._version, self._leaving)
        for name in names:
            self.world.schedule(0.0, name, ev.RoutesChanged(routes[name]))

    def _later(self, at_s: float, act: Callable[[], None]) -> None:
        self._planned += 1
        heapq.heappush(self._due, (at_s, self._planned, act))

    def _crash(self, change: Churn) -> None:
        name = self._up(change)
        self._current[name].close(self.world.now)
        self.world.crash(name)
        self._leaving.pop(name, None)
        epoch = self.world.epochs[name]
        self.notes.append(f"{name} was lost {change.at_s:.2f} s into the run")
        self._later(change.at_s + DETECTED_S, lambda: self._lose(name) if self._down(name, epoch) else None)

    def _up(self, change: Churn) -> str:
        if change.worker not in self.world.workers:
            raise SimulationError(f"{change.worker}, {change.kind} at {change.at_s:g} s: it is down already")
        return change.worker

    def _down(self, name: str, epoch: int) -> bool:
        return name in self._alive and self.world.epochs[name] == epoch and name not in self.world.workers

    def _lose(self, name: str) -> None:
        """The others hear of a death."""
        del self._alive[name]
        self._version += 1
        self._tell_routes(list(self._alive))
        self.world.schedule(0.0, CONTROLLER, ev.WorkerLost(name))

    def _leave(self, change: Churn) -> None:
        """From now on nobody gives it tasks; it goes when it has none."""
        name = self._up(change)
        self._version += 1
        self._leaving[name] = self._version
        self._tell_routes(list(self._alive))
        self.world.schedule(0.0, CONTROLLER, ev.WorkerLeft(name))
        self._later(change.at_s + _LEAVING_LOOK_S, functools.partial(self._look_whether_gone, name, self._version))

    def _look_whether_gone(self, name: str, since: int) -> None:
        world = self.world
        if self._leaving.get(name) != since:
            return
        if world.expects_tasks(name):
            self._later(world.now + _LEAVING_LOOK_S, functools.partial(self._look_whether_gone, name, since))
            return
        self._current[name].close(world.now)
        world.leave(name)
        del self._leaving[name], self._alive[name]
        self._version += 1
        self._tell_routes(list(self._alive))
        self.notes.append(f"{name} left {world.now:.2f} s into the run")

    def _join(self, change: Churn) -> None:
        """A next life: it learns of the others before they do of it, so that it lets them in."""
        name = change.worker
        if name in self.world.workers and name not in self._leaving:
            raise SimulationError(f"{change.worker}, {change.kind} at {change.at_s:g} s: it is up already")
        if self._leaving.pop(name, None) is not None:
            self._version += 1
            self._tell_routes(list(self._alive))
            self.world.schedule(0.0, CONTROLLER, ev.WorkerJoined(name))
            self.notes.append(f"{name} stayed {change.at_s:.2f} s into the run")
            return
        if name in self._alive:
            self._lose(name)
        epoch = self.world.epochs[name]
        self.world.restart(name, assembly.worker_core(self.experiment, self.card, name, epoch), self._links(epoch))
        self._begin(name)
        self._version += 1
        self._tell_routes([name, *(other for other in self._alive if other != name)])
        self.world.schedule(0.0, CONTROLLER, ev.WorkerJoined(name))
        self.notes.append(f"{name} was back {change.at_s:.2f} s into the run")
