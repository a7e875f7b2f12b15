"""Prices of a running network: what they are made of, when they are made anew, and that they reach everybody."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from mdi_exit.analysis.fluid import FluidProblem, problem_of
from mdi_exit.analysis.optimum import PRICE_MAX, optimum
from mdi_exit.analysis.prices import price_solver
from mdi_exit.assembly import load_card
from mdi_exit.config import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.prices import PriceDesk
from mdi_exit.core.types import Measurement, Prices
from mdi_exit.journal import Step
from mdi_exit.report import build_report
from mdi_exit.simulation.run import Churn, simulate
from mdi_exit.simulation.world import Faults

from .recorded import TRACE
from .test_optimum import graphs

EXITS = 5
NOTHING = (0.0,) * EXITS


def measured(worker: str, compute_s: tuple[float, ...] = NOTHING, sequence: int = 1, epoch: int = 0) -> Measurement:
    return Measurement(worker, epoch, sequence, compute_s, (), NOTHING, NOTHING)


# ---- costs to go


@settings(max_examples=30)
@given(graphs())
def test_no_way_of_computing_or_sending_a_task_is_cheaper_than_its_price(problem: FluidProblem) -> None:
    """Weak duality, at every worker: what a datum is worth is at most what any way through the network pays."""
    found = optimum(problem)
    charge = {
        bottleneck.name: bottleneck.price_per_s / found.rate_per_s * found.rate_per_s
        for bottleneck in found.bottlenecks
    }
    reach = [*problem.continuation, 0.0]
    for n, worker in enumerate(problem.workers):
        for k in np.flatnonzero(np.isfinite(problem.compute_s[n])):
            after = reach[k] * (found.pi[n, k + 1] if k + 1 < problem.exits else 0.0)
            pays = problem.compute_s[n, k] * charge.get(f"worker {worker}", 0.0) + after
            assert found.pi[n, k] <= pays + 1e-6
    assert found.pi[problem.workers.index(problem.source), 0] == pytest.approx(1)
    assert found.pi.max() <= PRICE_MAX


# ---- solving


def test_before_anything_is_measured_profiles_and_the_topology_stand_in() -> None:
    experiment = load_experiment("heterogeneous")
    card = load_card(experiment)
    made = price_solver(experiment, card, TRACE.payload_bytes)(fx.SolvePrices((), ()))
    shares = (0.7,) * (EXITS - 1)
    exact = optimum(dataclasses.replace(problem_of(experiment, card, TRACE), continuation=shares))
    assert made.workers == experiment.topology.workers
    assert np.array(made.pi) == pytest.approx(exact.pi, abs=1e-6)


def test_a_worker_measured_to_be_slow_becomes_dear_and_a_lost_one_is_left_out() -> None:
    experiment = load_experiment("find-rate", {"topology": "3-node-mesh"})
    solve = price_solver(experiment, load_card(experiment), TRACE.payload_bytes)
    before = dict(zip(experiment.topology.workers, solve(fx.SolvePrices((), ())).pi, strict=True))
    slow = solve(fx.SolvePrices((measured("n2", (0.5,) * EXITS),), ()))
    after = dict(zip(slow.workers, slow.pi, strict=True))
    assert after["n2"][0] > before["n2"][0] or after["n2"][0] == pytest.approx(after["n1"][0], rel=0.3)
    gone = solve(fx.SolvePrices((), ("n2", "n3")))
    assert gone.pi[0][0] == pytest.approx(1)
    alone = load_experiment("find-rate", {"topology": "local"})
    expected = price_solver(alone, load_card(alone), TRACE.payload_bytes)(fx.SolvePrices((), ()))
    assert gone.pi[0] == pytest.approx(expected.pi[0])


def test_where_nothing_is_known_there_are_no_prices_until_something_is() -> None:
    experiment = load_experiment(None, {"topology": "2-node"})
    solve = price_solver(experiment, load_card(experiment), TRACE.payload_bytes)
    assert solve(fx.SolvePrices((), ())).workers == ()
    assert solve(fx.SolvePrices((measured("n2", (0.01,) * EXITS),), ())).pi[0][0] == pytest.approx(1)


# ---- when prices are made


def prices(*worths: float) -> ev.PricesSolved:
    return ev.PricesSolved(Prices(0, ("a",), (worths,), ()))


def test_prices_are_made_at_once_then_on_changes_and_every_now_and_then() -> None:
    desk = PriceDesk()
    assert [type(effect) for effect in desk.open()] == [fx.SolvePrices, fx.SetTimer]
    assert [type(effect) for effect in desk.tick()] == [fx.SetTimer], "never two questions at once"
    assert [effect.prices.version for effect in desk.handle(prices(1.0)) if isinstance(effect, fx.SetPrices)] == [1]
    desk.handle(ev.MeasurementsArrived((measured("a", (0.1,) * EXITS),)))
    assert any(isinstance(effect, fx.SolvePrices) for effect in desk.tick()), "the first news"
    assert desk.handle(prices(1.01)) == [], "nobody would decide otherwise"
    desk.handle(ev.MeasurementsArrived((measured("a", (0.11,) * EXITS, sequence=2),)))
    assert not any(isinstance(effect, fx.SolvePrices) for effect in desk.tick()), "little has changed"
    desk.handle(ev.MeasurementsArrived((measured("a", (0.2,) * EXITS, sequence=3),)))
    desk.handle(ev.MeasurementsArrived((measured("a", (0.1,) * EXITS, sequence=1),)))  # overtaken on the way
    asked = next(effect for effect in desk.tick() if isinstance(effect, fx.SolvePrices))
    assert asked.measurements[0].compute_s[0] == 0.2
    desk.handle(prices(0.5))
    desk.handle(ev.WorkerLost("b"))
    asked = next(effect for effect in desk.tick() if isinstance(effect, fx.SolvePrices))
    assert asked.lost == ("b",)
    desk.handle(prices(0.7))
    assert sum(isinstance(effect, fx.SolvePrices) for _ in range(5) for effect in desk.tick()) == 1


# ---- that they reach everybody


def test_prices_reach_everybody_also_over_lossy_links_and_after_a_crash() -> None:
    settings_ = {
        "topology": "5-node-mesh", "offloading": "dual_backpressure", "admission": "fill_queue", "duration_s": 8.0,
        "drain_s": 60.0,
    }  # fmt: skip
    experiment = load_experiment("find-rate", settings_)
    card = load_card(experiment)
    known: dict[tuple[str, int], int] = {}

    def see(step: Step) -> None:
        for effect in step.effects:
            if isinstance(effect, fx.SendReport | fx.Acknowledge):
                known[step.node, step.epoch] = effect.report.prices_version

    churn = [Churn(2.0, "n3", "crash"), Churn(4.0, "n3", "restart")]
    run = simulate(experiment, card, TRACE, faults=Faults(loss=0.1, jitter_s=0.005), churn=churn, observe=see)
    report = build_report(experiment, card, run.tallies, run.facts, "", "simulation")
    assert report["lost"] == 0 and report["completed"] == report["offered"] > 500
    last = max(known.values())
    assert last >= 2 and all(known[name, name == "n3"] == last for name in experiment.topology.workers)
    assert known["n3", 1] == last, "who came back was told"
