"""The ways to do it that baselines.py compares: what they are, and what they are measured on."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import simulated

from mdi_exit.analysis.fixed_rate import LOWEST, accuracy
from mdi_exit.analysis.optimum import optimum
from mdi_exit.config.load import load_experiment
from mdi_exit.core.types import Arrival, Side, Task
from mdi_exit.core.views import WorkerView
from mdi_exit.policies.offloading import LeastExpectedDelay
from mdi_exit.trace import ExitTrace

MIXED = "5-node-mesh, unequal"
SPEEDS = {"n1": 1.0, "n2": 2.0, "n3": 1.0, "n4": 0.5, "n5": 0.25}
HELD = 0.8  # the threshold of the baselines that have exits

OURS, OPTIMUM = "ours", "optimum"
DUAL = "dual_backpressure"


@dataclass(frozen=True, slots=True)
class WholeNetwork(LeastExpectedDelay):
    """Data-parallel: a datum is computed to its end where its first segment was. Only raw images are offloaded."""

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side:
        if arrival is Arrival.CONTINUED:
            return Side.INPUT
        return LeastExpectedDelay.place(self, view, task, arrival, rng)


@dataclass(frozen=True, slots=True)
class Method:
    """A way to do it. `leave`: thresholds per exit, or "all" of them at one value, or "never"."""

    title: str
    offloading: str
    leave: str | tuple[float, ...]
    alone: bool = False  # one device
    slices: str | None = None  # "balanced" or "even"; None: everyone hosts everything


def _only(k: int, exits: int = 5) -> tuple[float, ...]:
    """Thresholds with which all data leave at exit k."""
    return tuple(LOWEST if number == k else 1.0 for number in range(1, exits))


METHODS: Mapping[str, Method] = {
    OURS: Method("ours: exits, split, dual back-pressure", DUAL, "all"),
    "one_device_full": Method("one device, no exits", "never", "never", alone=True),
    "one_device_exits": Method("one device, exits", "never", "all", alone=True),
    "data_parallel_full": Method("data-parallel, no exits", "whole_network", "never"),
    "data_parallel_exits": Method("data-parallel, exits", "whole_network", "all"),
    "pipeline_full": Method("pipeline, balanced, no exits", "never", "never", slices="balanced"),
    "even_split": Method("even split, exits", "never", "all", slices="even"),
    "smaller_2": Method("smaller network (2 of 5)", "whole_network", _only(2)),
    "smaller_3": Method("smaller network (3 of 5)", "whole_network", _only(3)),
}
OPEN = "no_admission_control"  # of the second question alone: ours, but the threshold is held and what is too much shed
TITLES = {**{name: method.title for name, method in METHODS.items()},
          OPEN: "fixed threshold, open arrivals", OPTIMUM: "the optimum"}  # fmt: skip


@functools.cache
def network() -> simulated.Network:
    """The shipped network."""
    net = simulated.network(simulated.SHIPPED)
    assert net is not None
    return net


def thresholds_of(method: Method, common: float) -> tuple[float, ...]:
    """A method's thresholds, `common` where its exits are in use."""
    if isinstance(method.leave, tuple):
        return method.leave
    return (1.0 if method.leave == "never" else common,) * (network().trace.exits - 1)


def settings_of(graph: str, method: Method) -> dict[str, Any]:
    """The part of an experiment that the method and the graph decide."""
    topology = "local" if method.alone else graph.partition(",")[0]
    settings: dict[str, Any] = {"topology": topology}
    if graph == MIXED:
        names = ["n1"] if method.alone else list(SPEEDS)
        settings["devices"] = {name: {"profile": "jetson-nano", "speed": SPEEDS[name]} for name in names}
    if method.slices == "even":
        settings["placement"] = _even(load_experiment("find-rate", settings).topology.workers)
    elif method.slices == "balanced":
        settings["placement"] = "auto"
    return settings


def _even(workers: tuple[str, ...]) -> dict[str, list[int]]:
    """Contiguous slices of as equal numbers of segments as can be, in the workers' order."""
    exits, n = network().trace.exits, len(workers)
    ends = [round(exits * i / n) for i in range(n + 1)]
    return {worker: list(range(ends[i] + 1, ends[i + 1] + 1)) for i, worker in enumerate(workers)}


def possible_without_exits(graph: str) -> float:
    """The highest rate that any policy could reach there if every datum went all the way."""
    base = load_experiment("find-rate", {**settings_of(graph, METHODS[OURS]), "thresholds": 1.0})
    return optimum(simulated.problem(base, network())).rate_per_s


def equal_threshold(trace: ExitTrace, wanted: float) -> float:
    """The lowest common threshold, of hundredths, at which the trace is at least so accurate."""
    return min(t / 100 for t in range(1, 101) if accuracy(trace, (t / 100,) * (trace.exits - 1)) >= wanted - 1e-9)


def threshold_of_ours(name: str) -> float:
    """The threshold at which ours is no less accurate than a baseline."""
    method = METHODS[name]
    if method.leave == "all":
        return HELD
    trace = network().trace
    return equal_threshold(trace, accuracy(trace, thresholds_of(method, HELD)))
