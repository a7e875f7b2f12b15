"""Prices of a running network: what they are made of, when they are made anew, and that they reach everybody."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from mdi_exit.analysis.fluid import FluidProblem, network_of, problem_of
from mdi_exit.analysis.optimum import PRICE_MAX, optimum
from mdi_exit.analysis.prices import price_solver
from mdi_exit.assembly import load_card
from mdi_exit.config import Churn
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.prices import PriceDesk
from mdi_exit.core.types import ANY_SHARE, Measurement, Prices, Way
from mdi_exit.journal import Step
from mdi_exit.report import build_report
from mdi_exit.simulation.links import Faults
from mdi_exit.simulation.run import simulate
from mdi_exit.topology import Link, Topology
from mdi_exit.wire import decode, encode

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
    assert gone.workers == ("n1",), "who returns must not find itself called a dead end"
    assert gone.pi[0][0] == pytest.approx(1)
    alone = load_experiment("find-rate", {"topology": "local"})
    expected = price_solver(alone, load_card(alone), TRACE.payload_bytes)(fx.SolvePrices((), ()))
    assert gone.pi[0] == pytest.approx(expected.pi[0])


def test_ways_of_a_channel_have_their_part_of_the_optimum_and_only_where_tasks_are_expected() -> None:
    links = {"bandwidth": "2 Mbit/s", "channel": "air"}
    experiment = load_experiment("find-rate", {"topology": "3-node-mesh", "links": links, "placement.n3": "4-5"})
    card = load_card(experiment)
    made = price_solver(experiment, card, TRACE.payload_bytes)(fx.SolvePrices((), ()))
    shares = (0.7,) * (EXITS - 1)
    exact = optimum(dataclasses.replace(problem_of(experiment, card, TRACE), continuation=shares))
    ways = {(way.sender, way.receiver): way.share for way in made.ways}
    names = experiment.topology.workers
    problem = problem_of(experiment, card, TRACE)
    assert ways.keys() == set(problem.links), "of a channel that limits, all of its ways are told"
    for link, (sender, receiver) in enumerate(problem.links):
        for k in range(EXITS):
            row = names.index(sender)
            away = sum(exact.sent_per_s[i, k] for i, (a, _) in enumerate(problem.links) if a == sender)
            in_all = exact.processed_per_s[row, k] + away
            expected = exact.sent_per_s[link, k] / in_all if in_all > 0.01 else ANY_SHARE
            assert ways[sender, receiver][k] == pytest.approx(expected, abs=1e-4)
    assert any(0 < part < 1 for share in ways.values() for part in share)
    fast = {**links, "bandwidth": "1 Gbit/s"}
    idle = load_experiment("find-rate", {"topology": "3-node-mesh", "links": fast, "placement.n3": "4-5"})
    ways_ = price_solver(idle, card, TRACE.payload_bytes)(fx.SolvePrices((), ())).ways
    assert ways_ and not any(way.channel for way in ways_), "there is air for all"
    told, _ = next(decode(encode(fx.SendPrices("n2", made))))
    assert told == fx.SendPrices("n2", made), "the source goes by the same prices as those that it tells"
    floats = [*itertools.chain(*made.pi), *(number for way in made.ways for number in (way.nu, *way.air_s, *way.share))]
    wide = sum(number not in (0.0, 1.0) for number in floats)
    assert len(encode(fx.SendPrices("n2", made))[0]) < 5 * wide + (len(floats) - wide) + 20 * (len(made.ways) + 5)


def test_hand_overs_cost_in_the_prices_what_they_cost_in_the_rule() -> None:
    def prices_of(theta: float) -> list[float]:
        rule = {"rule": "dual_backpressure", "theta": theta}
        experiment = load_experiment("find-rate", {"topology": "2-node", "offloading": rule})
        made = price_solver(experiment, load_card(experiment), TRACE.payload_bytes)(fx.SolvePrices((), ()))
        return [pi[0] for pi in made.pi]

    assert prices_of(0.0) == pytest.approx([1, 1], abs=1e-6), "equal workers, a link that limits nothing"
    assert prices_of(3.0) == pytest.approx([1, 1 - 3 / 30], abs=1e-6)


def test_a_channel_that_leads_nowhere_any_more_has_no_part_in_prices() -> None:
    """Also not one to a worker that is lost: when it is back, nothing holds tasks back from it."""
    links = {"bandwidth": "0.5 Mbit/s", "channel": "air"}
    for topology, lost in (("2-node", ("n2",)), ("3-node-mesh", ("n2", "n3")), ("3-node-mesh", ("n3",))):
        experiment = load_experiment("find-rate", {"topology": topology, "links": links})
        made = price_solver(experiment, load_card(experiment), TRACE.payload_bytes)(fx.SolvePrices((), lost))
        assert made.pi[0][0] == pytest.approx(1)
        ends = {(way.sender, way.receiver) for way in made.ways}
        assert ends == ({("n1", "n2"), ("n2", "n1")} if lost == ("n3",) else set())


def test_a_run_goes_on_when_the_last_neighbour_on_a_channel_dies() -> None:
    settings_ = {"topology": "2-node", "links": {"bandwidth": "2 Mbit/s", "channel": "air"}, "duration_s": 4.0}
    settings_ |= {"offloading": "dual_backpressure", "admission": "fill_queue"}
    churn = (Churn(1.0, "n2", "crash"), Churn(2.5, "n2", "join"))
    experiment = dataclasses.replace(load_experiment("find-rate", settings_), churn=churn)
    run = simulate(experiment, load_card(experiment), TRACE)
    report = build_report(experiment, run.card, run.tallies, run.facts, "", "simulation")
    assert report["lost"] == 0 and report["completed"] == report["offered"] > 100
    assert report["workers"]["n2"]["processed"] > 0


def test_what_the_runtime_takes_counts_once_whether_computing_was_measured_or_not(tmp_path: Path) -> None:
    """What a worker measures is computing alone; per datum, task and hand-over its profile's times come on top."""
    text = "memory_bytes: 10000000\nsegment_s: {mobilenet_v2@32: [0.01, 0.01, 0.01, 0.01, 0.01]}\n"
    (tmp_path / "dear.yaml").write_text(f"{text}runtime_s: {{datum: 0.004, task: 0.002, hop: 0.02}}\n", "utf-8")
    experiment = load_experiment("find-rate", {"topology": "3-node-mesh", "devices": str(tmp_path / "dear.yaml")})
    card = load_card(experiment)
    known = network_of(experiment, card, TRACE.payload_bytes)
    assert known.compute_s == pytest.approx(np.full((3, EXITS), 0.012))
    assert (known.hop_s, known.datum_s) == ((0.02,) * 3, 0.004)
    steps: list[Step] = []
    simulate(dataclasses.replace(experiment, duration_s=2.0), card, TRACE, observe=steps.append)
    done = [step.event for step in steps if isinstance(step.event, ev.SegmentDone)]
    assert [event.duration_s / len(event.tasks) for event in done] == pytest.approx([0.01] * len(done))
    solve = price_solver(experiment, card, TRACE.payload_bytes)
    alike = tuple(measured(name, (0.01,) * EXITS) for name in experiment.topology.workers)
    assert solve(fx.SolvePrices(alike, ())).pi == solve(fx.SolvePrices((), ())).pi
    slower = tuple(measured(name, (0.012,) * EXITS) for name in experiment.topology.workers)
    assert solve(fx.SolvePrices(slower, ())).pi != solve(fx.SolvePrices((), ())).pi


def test_where_nothing_is_known_there_are_no_prices_until_something_is() -> None:
    experiment = load_experiment(None, {"topology": "2-node"})
    solve = price_solver(experiment, load_card(experiment), TRACE.payload_bytes)
    assert solve(fx.SolvePrices((), ())).workers == ()
    assert solve(fx.SolvePrices((measured("n2", (0.01,) * EXITS),), ())).pi[0][0] == pytest.approx(1)


def test_around_a_lost_relay_tasks_have_another_way_and_their_prices_say_so() -> None:
    # Two steps by n2, three by n3 and n4: only when n2 is gone do routes lead the long way.
    near, far = Link("n1", "n2"), (Link("n1", "n3"), Link("n3", "n4"))
    topology = Topology("ring", "n1", ("n1", "n2", "n3", "n4", "n5"), (near, Link("n2", "n5"), *far, Link("n4", "n5")))
    hosted = {"n1": (1,), "n2": (1,), "n3": (1,), "n4": (1,), "n5": (2, 3, 4, 5)}
    base = load_experiment("find-rate")
    everywhere = dict.fromkeys(topology.workers, base.devices[base.topology.source])
    options = dict.fromkeys(topology.workers, base.worker_options[base.topology.source])
    experiment = dataclasses.replace(base, topology=topology, hosted=hosted, devices=everywhere, worker_options=options)
    made = price_solver(experiment, load_card(experiment), TRACE.payload_bytes)(fx.SolvePrices((), ("n2",)))
    assert made.workers == ("n1", "n3", "n4", "n5") and made.pi[0][0] == pytest.approx(1)


@pytest.mark.parametrize("time_s", [1e-310, 1e-15, 1e300])
def test_times_that_no_solver_can_bear_leave_it_without_prices(time_s: float) -> None:
    experiment = load_experiment("find-rate", {"topology": "3-node-mesh"})
    solve = price_solver(experiment, load_card(experiment), TRACE.payload_bytes)
    said = solve(fx.SolvePrices((measured("n2", (time_s,) * EXITS),), ()))
    assert all(np.isfinite(row).all() for row in said.pi)


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
    assert desk.handle(ev.WorkerJoined("b")) == [], "never two questions at once"
    desk.handle(prices(0.6))
    at_once = desk.handle(ev.WorkerLost("b"))
    assert at_once == [fx.SolvePrices(asked.measurements, ("b",))]
    desk.handle(prices(0.7))
    assert sum(isinstance(effect, fx.SolvePrices) for _ in range(5) for effect in desk.tick()) == 1


def test_prices_that_differ_little_for_what_they_are_are_not_told_anew() -> None:
    desk = PriceDesk()
    desk.open()
    told = [bool(desk.handle(prices(1.0, dear))) for dear in (20.0, 21.5, 17.0)]
    assert told == [True, False, True], "a tenth of a dear price changes nobody's mind"
    assert desk.handle(prices(0.85, 17.0)), "but more than a tenth of a fresh datum's does"


def test_noise_in_what_is_measured_is_asked_about_ever_more_seldom_until_a_price_moves() -> None:
    desk, sequence = PriceDesk(), itertools.count(1)
    desk.open()
    desk.handle(prices(1.0))

    def looks_until_asked() -> int:
        for look in itertools.count(1):
            number = next(sequence)
            seconds = 0.1 * 1.5**number  # whenever it is looked at
            desk.handle(ev.MeasurementsArrived((measured("a", (seconds,) * EXITS, sequence=number),)))
            if any(isinstance(effect, fx.SolvePrices) for effect in desk.tick()):
                return look
        raise AssertionError

    waits = []
    for worth in (1.0, 1.0, 1.0, 1.0, 2.0, 2.0):
        waits.append(looks_until_asked())
        desk.handle(prices(worth))
    assert waits == [1, 2, 4, 5, 5, 1]


def test_shares_that_differ_are_told_small_ones_too() -> None:
    def solved(share: float) -> ev.PricesSolved:
        return ev.PricesSolved(Prices(0, ("a",), ((1.0,),), (Way("a", "b", "air", 0.1, (0.01,), (share,)),)))

    desk = PriceDesk()
    desk.open()
    told = [bool(desk.handle(solved(share))) for share in (0.0, 0.01, 0.06, 0.065, 0.5, 0.53, 0.4)]
    assert told == [True, False, True, False, True, False, True]


def test_noise_is_not_told_where_many_flows_are_as_good() -> None:
    """In a mesh of equal workers, the solver may split the flow anyhow."""
    experiment = load_experiment("find-rate", {"topology": "3-node-mesh", "offloading": "dual_backpressure"})
    solve = price_solver(experiment, load_card(experiment), TRACE.payload_bytes)
    noise, desk = random.Random(1), PriceDesk()
    desk.open()
    splits, told = set(), 0
    for _ in range(20):
        times_s = [tuple(0.02 * noise.uniform(0.98, 1.02) for _ in range(EXITS)) for _ in range(3)]
        found = solve(fx.SolvePrices(tuple(measured(f"n{n}", row) for n, row in enumerate(times_s, 1)), ()))
        splits.add(tuple(way.share for way in found.ways))
        told += bool(desk.handle(ev.PricesSolved(found)))
    assert len(splits) > 1 and told == 1


# ---- that they reach everybody


def test_prices_reach_everybody_also_over_lossy_links_and_after_a_crash() -> None:
    settings_ = {
        "topology": "5-node-mesh", "offloading": "dual_backpressure", "admission": "fill_queue", "duration_s": 8.0,
        "drain_s": 200.0,
    }  # fmt: skip
    churn = (Churn(2.0, "n3", "crash"), Churn(4.0, "n3", "join"))
    experiment = dataclasses.replace(load_experiment("find-rate", settings_), churn=churn)
    card = load_card(experiment)
    known: dict[tuple[str, int], int] = {}

    def see(step: Step) -> None:
        for effect in step.effects:
            if isinstance(effect, fx.SendReport | fx.Acknowledge):
                known[step.node, step.epoch] = effect.report.prices_version

    run = simulate(experiment, card, TRACE, faults=Faults(loss=0.1, jitter_s=0.005), observe=see)
    report = build_report(experiment, card, run.tallies, run.facts, "", "simulation")
    assert report["lost"] == 0 and report["completed"] == report["offered"] > 500
    last = max(known.values())
    assert last >= 2 and all(known[name, name == "n3"] == last for name in experiment.topology.workers)
    assert known["n3", 1] == last, "who came back was told"
