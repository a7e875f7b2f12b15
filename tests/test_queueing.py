"""Queueing theory in virtual time: laws that hold whatever the policy, and formulas for a single worker."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest

from mdi_exit import assembly
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.devices import DeviceProfile
from mdi_exit.journal import Step
from mdi_exit.report import Report, build_report
from mdi_exit.simulation.run import simulate

from .recorded import TRACE

BEGUN_S = 5.0  # what is before is left out: the queue fills up


def run(experiment: Experiment) -> tuple[Report, list[Step]]:
    card, steps = assembly.load_card(experiment), list[Step]()
    record = simulate(experiment, card, TRACE, observe=steps.append)
    return build_report(experiment, card, record.tallies, record.facts, "simulate", "simulation"), steps


def one_server(load: float, spread: float, duration_s: float, seed: int = 0) -> tuple[Report, list[Step], float]:
    """One worker that does one segment for each datum, fed by a Poisson process; the third value is its mean time.

    Every datum leaves at the first exit (the last one is the only one that always lets go, so the thresholds are as
    low as they get), which makes it an M/G/1 queue.
    """
    seconds = 0.01
    changes: dict[str, Any] = {
        "topology": "local", "thresholds": 1e-6, "seed": seed, "duration_s": duration_s,
        "admission": {"rule": "always", "queue_max": 100_000},
        "arrivals": {"rule": "poisson", "rate_per_s": load / seconds},
        "limits": {"deadline_s": 10_000, "in_flight_max": 1_000_000}, "drain_s": 1_000,
    }  # fmt: skip
    experiment = load_experiment("poisson", changes)
    profile = DeviceProfile("server", 1 << 40, {"mobilenet_v2@32": (seconds,) * 5}, spread)
    experiment = dataclasses.replace(experiment, devices={"n1": profile})
    report, steps = run(experiment)
    assert report["exits"][0] == report["completed"] == report["offered"]
    return report, steps, seconds


def latencies(steps: list[Step]) -> Iterator[tuple[float, float]]:
    """When each datum was answered, and how long that took."""
    for step in steps:
        for effect in step.effects:
            if isinstance(effect, fx.Complete):
                yield step.now, effect.latency_s


@pytest.mark.parametrize(
    ("load", "spread", "duration_s"), [(0.5, 0.0, 150.0), (0.8, 0.0, 300.0), (0.5, 1.0, 240.0), (0.7, 0.5, 240.0)]
)
def test_mean_time_in_an_mg1_queue_is_that_of_pollaczek_and_khinchine(
    load: float, spread: float, duration_s: float
) -> None:
    """Waiting on average rho s (1 + spread^2) / (2 (1 - rho)) before being served for s; spread 1 is M/M/1."""
    means = []
    for seed in range(3):
        report, steps, service_s = one_server(load, spread, duration_s / 3, seed)
        assert report["workers"]["n1"]["utilization"] == pytest.approx(load, rel=0.05)
        found = [latency_s for now, latency_s in latencies(steps) if now > BEGUN_S]
        means.append(sum(found) / len(found))
    expected_s = service_s + load * service_s * (1 + spread**2) / (2 * (1 - load))
    assert sum(means) / 3 == pytest.approx(expected_s, rel=0.07)


def test_the_number_in_an_mm1_queue_is_geometric() -> None:
    """P(n in the system) = (1 - rho) rho^n, looked at over time."""
    load = 0.6
    _, steps, _ = one_server(load, 1.0, 200.0)
    share, inside, last_s = dict.fromkeys(range(200), 0.0), 0, BEGUN_S
    for step in steps:
        if step.now > BEGUN_S:
            share[inside] += step.now - last_s
            last_s = step.now
        inside += sum(isinstance(effect, fx.Admit) - isinstance(effect, fx.Complete) for effect in step.effects)
    whole_s = sum(share.values())
    for n in range(5):
        assert share[n] / whole_s == pytest.approx((1 - load) * load**n, rel=0.12)


@pytest.mark.parametrize("offloading", ["mdi_exit", "least_expected_delay", "random_neighbour"])
@pytest.mark.parametrize("topology", ["3-node-mesh", "3-node-circular", "line"])
def test_littles_law_holds_of_whole_networks(offloading: str, topology: str) -> None:
    """L = lambda W: data in flight on average = data per second x mean latency, counted in two ways."""
    changes = {"topology": topology, "offloading": offloading, "duration_s": 30.0, "arrivals.rate_per_s": 60}
    report, steps = run(load_experiment("poisson", {**changes, "devices": "jetson-nano"}))
    inside, area, last_s = 0, 0.0, 0.0
    for step in steps:
        area += inside * (step.now - last_s)
        last_s = step.now
        inside += sum(isinstance(effect, fx.Admit) - isinstance(effect, fx.Complete) for effect in step.effects)
    assert report["lost"] == report["shed"] == inside == 0
    times = [latency_s for _, latency_s in latencies(steps)]
    assert area == pytest.approx(sum(times), rel=1e-9) and len(times) > 1_000


def test_work_is_conserved() -> None:
    """Busy seconds of all workers = what the data needed, since nothing is computed twice when nothing goes wrong."""
    report, steps = run(load_experiment("find-rate", {"duration_s": 10.0, "topology": "5-node-mesh"}))
    busy_s = sum(step.event.duration_s for step in steps if isinstance(step.event, ev.SegmentDone))
    told_s = sum(row["compute_delay_s"] * row["processed"] for row in report["workers"].values())
    assert told_s == pytest.approx(busy_s, rel=1e-9)
    segments = sum((k + 1) * left for k, left in enumerate(report["exits"]))
    assert segments == sum(row["processed"] for row in report["workers"].values())
    assert math.isclose(busy_s / segments, 0.0078, rel_tol=0.05)
