"""A run in virtual time that leaves what a real one does: steps, tallies and a report."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdi_exit import assembly
from mdi_exit.config import Experiment, load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import ExitReading
from mdi_exit.journal import CoreName, Step
from mdi_exit.jsonfile import rounded
from mdi_exit.models.card import Card
from mdi_exit.report import Report, WorkerFacts, build_report
from mdi_exit.simulation.world import World, shapers
from mdi_exit.tally import NodeTally

FEATURE_BYTES = (3_072, 24_576, 8_192, 16_384, 6_144, 0)
CLASSES = 10


def label_of(data_id: int) -> int:
    return data_id % CLASSES


def reading(data_id: int, k: int) -> ExitReading:
    """What exit k says of datum d: later exits are surer and more often right."""
    rng = random.Random(f"{data_id} {k}")
    right = rng.random() < 0.5 + 0.09 * k
    return ExitReading(rng.random() ** (1 / k), label_of(data_id) if right else CLASSES, 1.0)


@dataclass
class Recorded:
    """A run that is over."""

    experiment: Experiment
    card: Card
    steps: list[Step] = field(default_factory=list)
    tallies: dict[str, NodeTally] = field(default_factory=dict)
    until_s: float = 0.0

    def report(self, facts: Mapping[str, WorkerFacts] | None = None) -> Report:
        known = facts or {name: WorkerFacts(1_000_000, 200 << 20, 0.0) for name in self.experiment.topology.workers}
        report = build_report(self.experiment, self.card, self.tallies.values(), known, "mdi-exit run", "simulation")
        return dict(rounded(report))


def record(name: str, until_s: float = 8.0, close: bool = True, drain_s: float = 60.0, **changes: Any) -> Recorded:
    """Run a shipped example in virtual time; with `close` False it is cut off at `until_s`, as if it were killed.

    A change's key is written with __ for a dot: arrivals__rate_per_s=20.
    """
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    experiment = load_experiment(name, overrides)
    card = assembly.load_card(experiment)
    run = Recorded(experiment, card)
    workers = {worker: assembly.worker_core(experiment, card, worker) for worker in experiment.topology.workers}
    links = shapers(experiment.topology, experiment.seed)
    run.tallies = {
        worker: NodeTally(worker, experiment.exits, label_of if worker == experiment.topology.source else None)
        for worker in workers
    }

    def observe(now: float, node: str, event: ev.Event, effects: list[fx.Effect]) -> None:
        core: CoreName = "controller" if node == "controller" else "worker"
        worker = experiment.topology.source if core == "controller" else node
        run.steps.append(Step(now, worker, 0, core, event, tuple(effects)))
        run.tallies[worker].add(run.steps[-1])
        if core == "worker":
            queues = world.workers[worker].observe()
            run.tallies[worker].observe(now, queues.input_queue, queues.output_queue)

    def compute_s(worker: str, k: int) -> float:
        profile = experiment.devices[worker]
        assert profile is not None
        return profile.seconds(card.model.architecture, card.model.image_size)[k - 1]

    controller = assembly.controller_core(experiment, card)
    rng = random.Random(0)
    source = experiment.topology.source
    world = World(workers, source, controller, links, compute_s, reading, FEATURE_BYTES, rng, observe)
    for worker, routes in assembly.routes_for(experiment, experiment.topology.workers, version=0).items():
        world.schedule(0.0, worker, ev.RoutesChanged(routes))
    world.schedule(0.0, "controller", ev.AdmissionOpened())
    if close:
        world.schedule(until_s, "controller", ev.AdmissionClosed())
        world.schedule(until_s + drain_s, "controller", ev.DrainExpired())
    world.run(until_s + drain_s if close else until_s)
    for tally in run.tallies.values():
        tally.close(world.now)
    run.until_s = world.now
    return run
