"""A run in virtual time that leaves what a real one does: steps, tallies and a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mdi_exit
from mdi_exit import assembly
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.journal import Step
from mdi_exit.jsonfile import rounded
from mdi_exit.models.card import Card
from mdi_exit.report import Report, build_report
from mdi_exit.report_nodes import WorkerFacts
from mdi_exit.simulation.run import Simulation
from mdi_exit.tally import NodeTally
from mdi_exit.trace import ExitTrace

TRACE = ExitTrace.load(Path(mdi_exit.__file__).parent / "assets" / "mobilenetv2-cifar10-sample.trace.npz")


@dataclass
class Recorded:
    """A run that is over."""

    experiment: Experiment
    card: Card
    steps: list[Step] = field(default_factory=list)
    tallies: dict[str, NodeTally] = field(default_factory=dict)
    until_s: float = 0.0

    def label_of(self, data_id: int) -> int:
        return int(TRACE.label[assembly.datum_index(self.experiment, data_id, len(TRACE))])

    def report(self, facts: Mapping[str, WorkerFacts] | None = None) -> Report:
        known = facts or {name: WorkerFacts(1_000_000, 200 << 20, 0.0) for name in self.experiment.topology.workers}
        report = build_report(self.experiment, self.card, self.tallies.values(), known, "mdi-exit run", "simulation")
        return dict(rounded(report))


def record(name: str, until_s: float = 8.0, close: bool = True, drain_s: float = 60.0, **changes: Any) -> Recorded:
    """Run a shipped example in virtual time; with `close` False it is cut off at `until_s`, as if it were killed.

    A change's key is written with __ for a dot: arrivals__rate_per_s=20.
    """
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    window = {"duration_s": until_s if close else until_s + 1, "drain_s": drain_s}
    experiment = load_experiment(name, {**overrides, **window})
    run = Recorded(experiment, assembly.load_card(experiment))
    simulation = Simulation(experiment, run.card, TRACE, {}, observe=run.steps.append)
    # Idle at the end, as nodes are until they are ended.
    simulation.advance(until_s + drain_s if close else until_s, beyond_finish=True)
    run.tallies = {tally.node: tally for tally in simulation.record().tallies}
    run.until_s = simulation.world.now
    return run
