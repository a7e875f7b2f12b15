"""The fluid bound against closed forms, its own duality, and simulations that must not beat it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdi_exit.analysis.fixed_rate import RateError, accuracy, best_common, best_per_exit, highest_common
from mdi_exit.analysis.fluid import FluidProblem, OptimumError, continuation
from mdi_exit.analysis.optimum import PRICE_MAX, Optimum, optimum
from mdi_exit.errors import UserError
from mdi_exit.trace import ExitTrace

INF = float("inf")
BOTH = (("a", "b"), ("b", "a"))


def problem(compute_s: Any, send_s: Any = (), links: Any = BOTH, c: tuple[float, ...] = (0.5,), **more: Any) -> Any:
    """Workers a, b, ... with their times per segment, and the times of links: (from, to) row by row."""
    compute = np.array(compute_s, dtype=np.float64)
    sends = np.array(send_s, dtype=np.float64).reshape(-1, len(c) + 1)
    arrays = {key: np.array(value, dtype=np.float64) if key.endswith("_s") else value for key, value in more.items()}
    return FluidProblem(tuple("abcdefgh"[: len(compute)]), "a", compute, links[: len(sends)], sends, c, **arrays)  # type: ignore[arg-type]


def binding(found: Optimum) -> list[str]:
    return [bottleneck.name for bottleneck in found.bottlenecks]


# ---- closed forms


def test_one_worker_does_one_datum_in_the_expected_time_of_its_segments() -> None:
    found = optimum(problem([[0.01, 0.02, 0.04]], c=(0.5, 0.25)))
    expected_s = 0.01 + 0.5 * (0.02 + 0.25 * 0.04)
    assert found.rate_per_s == pytest.approx(1 / expected_s)
    assert binding(found) == ["worker a"] and found.load["worker a"] == pytest.approx(1)
    assert found.pi[0] == pytest.approx(np.array([expected_s, 0.02 + 0.25 * 0.04, 0.04]) / expected_s)
    assert found.segment_cost == pytest.approx(np.array([0.01, 0.02, 0.04]) / expected_s)
    assert found.processed_per_s[0] * expected_s == pytest.approx([1, 0.5, 0.125])


def test_what_the_runtime_takes_is_no_time_for_segments() -> None:
    alone = problem([[0.01, 0.03]])
    found = optimum(dataclasses.replace(alone, datum_s=0.005))
    assert found.rate_per_s == pytest.approx(1 / (0.01 + 0.5 * 0.03 + 0.005))
    # a line: a computes the first segment and hands half of its data to b, which computes the second
    line = problem([[0.01, INF], [INF, 0.01]], [[INF, 1e-6]], links=BOTH[:1])
    found = optimum(dataclasses.replace(line, hop_s=(0.01, 0.03)))
    assert found.rate_per_s == pytest.approx(1 / (0.5 * (0.03 + 0.01))) and binding(found) == ["worker b"]
    assert found.load["worker a"] == pytest.approx((0.01 + 0.5 * 0.01) * found.rate_per_s)
    with pytest.raises(OptimumError, match="hop_s must have 2 entries"):
        dataclasses.replace(line, hop_s=(0.01,))


def test_equal_workers_with_fast_links_add_up() -> None:
    assert optimum(problem([[0.01, 0.03]] * 2, [[0, 0]] * 2)).rate_per_s == pytest.approx(2 / 0.025)
    assert optimum(problem([[0.01, 0.03]] * 2, [[1e-4, 1e-4]] * 2)).rate_per_s == pytest.approx(2 / 0.025)


@pytest.mark.parametrize(
    ("compute_s", "transfer_s", "rate", "name"),
    [((0.1, 0.01), 0.01, 10, "worker a"), ((0.01, 0.1), 0.01, 20, "worker b"), ((0.01, 0.01), 0.1, 20, "link a->b")],
)
def test_a_line_of_slices_is_as_fast_as_its_slowest_part(
    compute_s: tuple[float, float], transfer_s: float, rate: float, name: str
) -> None:
    line = problem([[compute_s[0], INF], [INF, compute_s[1]]], [[INF, transfer_s], [transfer_s, INF]])
    found = optimum(line)
    assert found.rate_per_s == pytest.approx(rate) and binding(found) == [name]
    assert found.binding() == f"{name} (100%)"
    assert found.bottlenecks[0].price_per_s == pytest.approx(rate)  # all of it, or nothing
    assert found.sent_per_s[0, 1] == pytest.approx(rate / 2) and found.sent_per_s[1].sum() == 0


def test_a_slow_link_passes_on_what_it_can() -> None:
    helped = optimum(problem([[1.0], [0.001]], [[0.1]] * 2, c=()))
    assert helped.rate_per_s == pytest.approx(1 + 10)
    assert {b.name: b.price_per_s for b in helped.bottlenecks} == pytest.approx({"worker a": 1, "link a->b": 10})
    assert helped.pi[:, 0] == pytest.approx([1, 0])


def test_a_hand_over_that_has_a_price_is_in_those_of_tasks_and_must_be_worth_it() -> None:
    """a sends to b over a link that limits nothing; b limits, once it is helped by c behind it."""
    chain = problem([[1.0], [0.1], [0.1]], [[0.001], [0.001]], (("a", "b"), ("b", "c")), c=())
    free, paid = optimum(chain), optimum(chain, hop_price=0.1)
    assert paid.rate_per_s == pytest.approx(free.rate_per_s) == pytest.approx(1 + 10 + 10)
    assert free.pi[:, 0] == pytest.approx([1, 1, 1])
    assert paid.pi[:, 0] == pytest.approx([1, 0.9, 0.8])
    near = optimum(chain, hop_price=0.6)  # two of them cost more than a datum is worth
    assert near.rate_per_s == pytest.approx(1 + 10) and near.sent_per_s[:, 0] == pytest.approx([10, 0])
    assert optimum(chain, hop_price=1.1).rate_per_s == pytest.approx(1)


def test_links_of_one_channel_share_it() -> None:
    links = (("a", "b"), ("a", "c"))
    alone = problem([[1.0], [0.001], [0.001]], [[0.1], [0.1]], links, c=())
    found = optimum(dataclasses.replace(alone, channels=("air",) * len(alone.links)))
    assert optimum(alone).rate_per_s == pytest.approx(1 + 10 + 10)
    assert found.rate_per_s == pytest.approx(1 + 10) and "channel air" in binding(found)
    assert found.nu == pytest.approx({"air": 10})  # what a task is worth, over the 0.1 s of the channel it takes
    assert optimum(alone).nu == {}
    apart = optimum(dataclasses.replace(alone, channels=("air", "sea")))
    assert apart.rate_per_s == pytest.approx(1 + 10 + 10) and apart.nu == pytest.approx({"air": 10, "sea": 10})
    mixed = optimum(dataclasses.replace(alone, channels=("air", None)))
    assert mixed.nu == pytest.approx({"air": 10}) and {"channel air", "link a->c"} <= {*mixed.load}
    with pytest.raises(OptimumError, match="channels must have 2 entries"):
        dataclasses.replace(alone, channels=("air",))


def test_a_window_limits_what_the_medium_does_not() -> None:
    free = problem([[1.0], [0.001]], [[0.01]] * 2, c=())
    windowed = dataclasses.replace(free, wait_s=np.array([[0.2]] * 2))
    assert optimum(free).rate_per_s == pytest.approx(1 + 100)
    assert optimum(windowed).rate_per_s == pytest.approx(1 + 5)
    assert set(binding(optimum(windowed))) == {"worker a", "window a->b"}
    assert not any(name.startswith("link") for name in optimum(windowed).load)  # implied by the window
    wide = dataclasses.replace(free, wait_s=np.array([[0.002]] * 2))
    assert optimum(wide).rate_per_s == pytest.approx(1 + 100) and "window a->b" not in optimum(wide).load


def test_results_may_need_the_links_too() -> None:
    line = problem([[0.01, INF], [INF, 0.01]], [[INF, 0.01], [INF, INF]])
    assert optimum(line).rate_per_s == pytest.approx(100)
    found = optimum(dataclasses.replace(line, result_s=np.array([0.5, 0.25])))
    assert found.rate_per_s == pytest.approx(1 / (0.5 * 0.25)) and binding(found) == ["link b->a"]
    with pytest.raises(OptimumError, match="and back for results"):
        optimum(dataclasses.replace(line, result_s=np.array([0.5, INF])))


def test_no_segment_is_needed_that_no_datum_reaches() -> None:
    assert optimum(problem([[0.01, INF]], c=(0.0,))).rate_per_s == pytest.approx(100)
    with pytest.raises(OptimumError, match="no datum from a can be finished; allowed: a way from the source"):
        optimum(problem([[0.01, INF]], c=(0.1,)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": "z"}, "the source and the ends of links"),
        ({"links": (("a", "b"), ("b", "z"))}, "the source and the ends of links"),
        ({"workers": ("a", "a")}, "each worker once|ends of links"),
        ({"compute_s": np.ones((2, 3))}, "compute_s must be workers x 2"),
        ({"compute_s": np.zeros((2, 2))}, "compute_s must be above 0"),
        ({"compute_s": np.full((2, 2), INF)}, "finite somewhere"),
        ({"compute_s": np.full((2, 2), np.nan)}, "compute_s must be above 0"),
        ({"send_s": np.ones((1, 2))}, "send_s must have 2 x 2 entries"),
        ({"send_s": -np.ones((2, 2))}, "none negative"),
        ({"wait_s": np.ones((2, 1))}, "wait_s must have 2 x 2"),
        ({"result_s": np.ones(3)}, "result_s must have 2 entries"),
        ({"continuation": (1.5,)}, "within 0..1"),
    ],
)
def test_a_problem_that_contradicts_itself_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        dataclasses.replace(problem([[1.0, 1.0]] * 2, [[1.0, 1.0]] * 2), **change)


# ---- duality


@st.composite
def graphs(draw: st.DrawFn, most: int = 6) -> FluidProblem:
    """Connected graphs of workers that host all or a part, with links that limit."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_graph(rng, draw(st.integers(1, most)), draw(st.booleans()))


def random_graph(rng: np.random.Generator, count: int, shared: bool = False, exits: int = 3) -> FluidProblem:
    pairs = [(i, int(rng.integers(i))) for i in range(1, count)]
    pairs += [(i, j) for i, j in rng.integers(count, size=(count, 2)).tolist() if i != j]
    ways = sorted({*pairs, *((j, i) for i, j in pairs)})
    names = tuple(f"n{i}" for i in range(count))
    compute_s = rng.uniform(0.005, 0.04, (count, exits))
    compute_s[1:][rng.random((count - 1, exits)) < 0.2] = INF  # the source hosts all
    send_s = rng.uniform(0.001, 0.05, (len(ways), exits))
    links, c = tuple((names[i], names[j]) for i, j in ways), tuple(rng.uniform(0.2, 1, exits - 1).tolist())
    wait_s = send_s + rng.uniform(-0.01, 0.01, (len(ways), 1)) * (send_s > 0.01)
    return FluidProblem(
        names, "n0", compute_s, links, send_s, c, wait_s, channels=("air",) * len(links) if shared else ()
    )


@settings(max_examples=40)
@given(graphs())
def test_the_rate_is_possible_and_its_prices_prove_that_no_other_is_higher(given_graph: FluidProblem) -> None:
    found = optimum(given_graph)
    index = {name: n for n, name in enumerate(given_graph.workers)}
    left = np.zeros_like(found.processed_per_s)  # what comes minus what goes
    left[0, 0] = found.rate_per_s
    left -= found.processed_per_s
    left[:, 1:] += found.processed_per_s[:, :-1] * given_graph.continuation
    for (a, b), rates in zip(given_graph.links, found.sent_per_s, strict=True):
        left[index[a]] -= rates
        left[index[b]] += rates
    assert left == pytest.approx(np.zeros_like(left), abs=1e-5 * found.rate_per_s)
    assert max(found.load.values()) <= 1 + 1e-6
    busy = np.where(np.isfinite(given_graph.compute_s), given_graph.compute_s, 0.0) * found.processed_per_s
    assert busy.sum(axis=1) == pytest.approx([found.load[f"worker {name}"] for name in given_graph.workers], abs=1e-6)
    # strong duality: what all capacities are worth together is the rate
    assert sum(b.price_per_s for b in found.bottlenecks) == pytest.approx(found.rate_per_s, rel=1e-4)
    assert all(found.load[name] == pytest.approx(1, abs=1e-5) for name in binding(found))
    reach = np.cumprod([1.0, *given_graph.continuation])
    assert found.segment_cost @ reach == pytest.approx(1, rel=1e-4)
    assert found.pi[0, 0] == pytest.approx(1) and found.pi.min() >= 0 and found.pi.max() <= PRICE_MAX


def test_the_price_of_a_resource_is_what_more_of_it_brings() -> None:
    graph = random_graph(np.random.default_rng(3), 5)
    found, step = optimum(graph), 1e-4
    kinds = set()
    for bottleneck in found.bottlenecks:
        kind, _, name = bottleneck.name.partition(" ")
        more = {"worker": "compute_s", "link": "send_s", "window": "wait_s"}[kind]
        row = graph.workers.index(name) if kind == "worker" else graph.links.index(tuple(name.split("->")))
        times = getattr(graph, more).copy()
        times[row] /= 1 + step
        gained = optimum(dataclasses.replace(graph, **{more: times})).rate_per_s - found.rate_per_s
        assert gained / step == pytest.approx(bottleneck.price_per_s, rel=0.02, abs=0.01)
        kinds.add(kind)
    assert len(kinds) > 1


def test_two_hundred_workers_are_no_matter() -> None:
    found = optimum(random_graph(np.random.default_rng(1), 200, exits=5))
    assert found.rate_per_s > 0 and found.pi.shape == (200, 5)
    assert len(found.bottlenecks) <= 6 or found.binding().endswith(" more")


# ---- thresholds


def made_up(count: int = 400, exits: int = 3, seed: int = 0) -> ExitTrace:
    """A trace whose first exit is surer of itself than it is right, as uncalibrated first exits are."""
    rng = np.random.default_rng(seed)
    ease = rng.random((count, 1))
    skill = np.linspace(0.4, 0.9, exits)
    confidence = np.clip(skill + 0.5 * (ease - 0.5) + rng.normal(0, 0.1, (count, exits)), 0.1, 1).round(3)
    right = rng.random((count, exits)) < confidence - np.linspace(0.3, 0, exits)
    none = np.zeros((count, exits), dtype=np.float32)
    sizes, classes = (3000, *range(8000, 8000 + exits - 1), 0), ("right", "wrong")
    return ExitTrace(
        confidence.astype(np.float32), np.where(right, 0, 1).astype(np.int16), none, none[:, 0].astype(np.int16),
        sizes, classes, "made up",
    )  # fmt: skip


def test_continuation_counts_who_goes_on() -> None:
    said = np.array([[0.9, 0.1, 1], [0.8, 0.8, 1], [0.3, 0.9, 1], [0.2, 0.2, 1]], dtype=np.float32)
    answers = np.array([[0, 1, 1], [1, 0, 1], [1, 0, 1], [1, 1, 0]], dtype=np.int16)
    trace = ExitTrace(said, answers, said, np.zeros(4, dtype=np.int16), (1, 1, 1, 0), ("right", "wrong"), "")
    assert continuation(trace, (0.5, 0.5)) == (0.5, 0.5)
    assert continuation(trace, (1.0, 1.0)) == (1, 1)
    assert continuation(trace, (0.1, 0.5)) == (0, 0)
    assert continuation(trace, (float(said[1, 0]), 0.85)) == (3 / 4, 2 / 3)  # strictly above
    assert accuracy(trace, (0.5, 0.5)) == 0.75
    with pytest.raises(OptimumError, match="3 thresholds for a trace of 3 exits"):
        continuation(trace, (0.5, 0.5, 0.5))


@settings(max_examples=25)
@given(graphs(4), st.lists(st.floats(0.1, 1), min_size=4, max_size=4), st.integers(0, 3))
def test_a_higher_threshold_never_raises_the_bound(graph: FluidProblem, drawn: list[float], seed: int) -> None:
    trace, low = made_up(60, seed=seed), np.minimum(drawn[:2], drawn[2:]).tolist()
    for high in ((drawn[2], low[1]), (low[0], drawn[3]), (1.0, 1.0)):
        above = tuple(max(pair) for pair in zip(low, high, strict=True))
        rates = [
            optimum(dataclasses.replace(graph, continuation=continuation(trace, thresholds))).rate_per_s
            for thresholds in (low, above)
        ]
        assert rates[1] <= rates[0] * (1 + 1e-6)


LINE = problem([[0.01, 0.02, INF], [INF, 0.02, 0.03]], [[0.01] * 3] * 2, c=(1.0, 1.0))


@pytest.mark.parametrize("rate", [20.0, 60.0, 90.0])
def test_the_best_common_and_the_best_thresholds_of_a_rate(rate: float) -> None:
    trace = made_up(40)
    values = [0.01, *np.unique(trace.confidence[:, :-1].astype(np.float64)).tolist(), 1.0]

    def possible(thresholds: tuple[float, ...]) -> bool:
        return optimum(dataclasses.replace(LINE, continuation=continuation(trace, thresholds))).rate_per_s >= rate

    highest, common, best = (search(LINE, trace, rate) for search in (highest_common, best_common, best_per_exit))
    alike = [(value, value) for value in values if possible((value, value))]
    assert highest.thresholds == alike[-1] and highest.accuracy == accuracy(trace, alike[-1])
    assert common.accuracy == max(accuracy(trace, pair) for pair in alike) and common.thresholds in alike
    assert common.accuracy <= best.accuracy == accuracy(trace, best.thresholds)
    assert all(found.optimum.rate_per_s >= rate for found in (highest, common, best))
    coarse = [0.01, *values[1::5], 1.0]
    every = [accuracy(trace, pair) for pair in itertools.product(coarse, repeat=2) if possible(pair)]
    assert best.accuracy >= max(every) - 0.03  # a search, not a proof; one datum is 0.025


def test_a_threshold_per_exit_gains_where_the_first_exit_flatters_itself() -> None:
    trace = made_up(400)
    assert best_per_exit(LINE, trace, 60.0).accuracy > best_common(LINE, trace, 60.0).accuracy + 0.01


def test_an_exit_after_which_nobody_computes_lets_all_leave() -> None:
    dead_end = problem([[0.01, 0.02, INF], [INF, 0.02, INF]], [[0.01] * 3] * 2, c=(1.0, 1.0))
    trace = made_up(100)
    for search in (highest_common, best_common, best_per_exit):
        assert continuation(trace, search(dead_end, trace, 30.0).thresholds)[1] == 0


def test_a_rate_that_nothing_makes_possible_is_refused_by_what_binds() -> None:
    complaint = (
        r"150 per s is 50.0% above the highest possible rate, 100 per s at threshold 0.01; .*: worker a \(100%\)"
    )
    for search in (highest_common, best_common, best_per_exit):
        with pytest.raises(RateError, match=complaint):
            search(LINE, made_up(), 150.0)
    with pytest.raises(UserError, match="allowed: above 0"):
        highest_common(LINE, made_up(), 0.0)
    with pytest.raises(UserError, match="the trace has 4 exits; allowed: 3"):
        highest_common(LINE, made_up(exits=4), 1.0)
