"""What benchmarks in virtual time share: networks and their traces, reports, bounds, what devices can do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdi_exit.analysis.fluid import FluidProblem, problem_of
from mdi_exit.assembly import load_card
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.core.views import OffloadingPolicy
from mdi_exit.models.card import Card
from mdi_exit.report import Report, build_report
from mdi_exit.simulation.run import simulate
from mdi_exit.trace import ExitTrace, trace_of

DATA = Path(__file__).resolve().parent / "data"  # a folder per network: trace.npz, card.json
SHIPPED = "mobilenet_v2"
HEADER_BYTES = 36  # of a frame with one task, for the bound


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """What a simulation must know of a network."""

    name: str
    card: Card
    trace: ExitTrace


def network(name: str) -> Network | None:
    """A network by name: the shipped one, or one of benchmarks/data; None when that is not there."""
    if name == SHIPPED:
        shipped = load_experiment()
        card = load_card(shipped)
        return Network(name, card, trace_of(shipped.model, card.identity, shipped.exits)[1])
    folder = DATA / name
    if not (folder / "trace.npz").is_file():
        return None
    return Network(name, Card.load(folder / "card.json"), ExitTrace.load(folder / "trace.npz"))


def carrying(experiment: Experiment, net: Network, threshold: float) -> Experiment:
    """The experiment with another network, hosted whole by every worker, and a common threshold."""
    segments = tuple(range(1, net.trace.exits + 1))
    hosted = dict.fromkeys(experiment.topology.workers, segments)
    return dataclasses.replace(experiment, hosted=hosted, thresholds=(threshold,) * (net.trace.exits - 1))


def problem(experiment: Experiment, net: Network) -> FluidProblem:
    """What limits the experiment with this network."""
    return problem_of(experiment, net.card, net.trace, header_bytes=HEADER_BYTES)


def report_of(experiment: Experiment, net: Network | None = None, offloading: OffloadingPolicy | None = None) -> Report:
    """Simulate an experiment; `offloading` stands in for its policy, for one that experiment files do not know."""
    net = net or network(SHIPPED)
    assert net is not None
    carried_out = experiment if offloading is None else dataclasses.replace(experiment, offloading=offloading)
    record = simulate(carried_out, net.card, net.trace)
    return build_report(experiment, net.card, record.tallies, record.facts, "", "simulation")


def whole_per_s(experiment: Experiment, card: Card | None = None) -> float:
    """What the devices could do together without exits, were there no links: data per second."""
    model, times = (card or load_card(experiment)).model, []
    for profile in experiment.devices.values():
        assert profile is not None, "a benchmark paces every worker"
        times.append(sum(profile.seconds(model.architecture, model.image_size)))
    return sum(1 / time_s for time_s in times)


def chosen_rows(rows: list[dict[str, Any]], **which: Any) -> list[dict[str, Any]]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in which.items())]
