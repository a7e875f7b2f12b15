"""How much throughput for how much accuracy? The paper's figure, simulated, beside the best that is possible.

On the paper's five topologies (workers like a Jetson Nano, links of 20 Mbit/s) and for each network of which there is
a trace:

(a) thresholds held, 0.5 to 0.95 and no exits at all: the rate that is found. The accuracy is then the thresholds'
    alone; that on the trace stands for it, from which a run differs by which images it happened to draw;
(b) rate held, at multiples of what is possible without exits: the accuracy that is reached. A datum that is shed or
    not answered counts as wrong.

Three sets of rules: the paper's as listed, the same with repaired offloading, and dual back-pressure, the product's
default. The bound is the fluid one;
in (b) with its most accurate common threshold. The reference accuracy, at which rates are summed up, is one point
below the accuracy without exits: the lowest common threshold that keeps it on the trace is run as well.

Readings are those of the test images that a network's trace holds (1,000 of CIFAR-10 for the shipped one).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import simulated
from harness import Options, Spread, conclude, main, options, side_by_side, spread, table

from mdi_exit.analysis import plots
from mdi_exit.analysis.fixed_rate import RateError, accuracy, best_common
from mdi_exit.analysis.optimum import optimum
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.policies import presets
from mdi_exit.report import settled
from mdi_exit.trace import ExitTrace

TOPOLOGIES = ("local", "2-node", "3-node-mesh", "3-node-circular", "5-node-mesh")
QUICK_TOPOLOGIES = ("local", "5-node-mesh")
NETWORKS = (simulated.SHIPPED, "resnet50", "resnet50_autoencoder")
THRESHOLDS, QUICK_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0), (0.6, 0.8, 1.0)
LOADS, QUICK_LOADS = (0.6, 0.9, 1.2, 1.6, 2.0, 2.5), (0.9, 2.0)
_DURATION_S, _QUICK_S = 24.0, 10.0
_START_SHARE = 0.8  # of the bound, where rules begin that look for the rate
REFERENCE_POINTS = 1.0  # of accuracy below that without exits

PAPER, REPAIRED, DUAL = "paper, as listed", "paper, offloading repaired", "dual back-pressure"
RATE_RULES: Mapping[str, Mapping[str, Any]] = {
    PAPER: presets.PAPER_RATE,
    REPAIRED: {"admission": {"rule": "rate_adaptation", "period_s": 0.5}},
    DUAL: {"offloading": "dual_backpressure", "admission": "fill_queue"},
}
FIXED_RULES: Mapping[str, Mapping[str, Any]] = {
    PAPER: presets.PAPER_THRESHOLD,
    REPAIRED: {"admission": {"rule": "threshold_adaptation", "period_s": 0.5}},
    DUAL: {"offloading": "dual_backpressure", "admission": "pi_control"},
}
_COLOURS = dict(zip(RATE_RULES, (plots.RED, plots.BLUE, plots.GREEN), strict=True))

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One simulated run: with a threshold, or with a load."""

    network: str
    topology: str
    rule: str
    threshold: float | None
    load: float | None
    duration_s: float
    seed: int


def reference(trace: ExitTrace) -> tuple[float, float]:
    """The reference accuracy of a network, and the lowest common threshold (of hundredths) that keeps it."""
    exits = trace.exits - 1
    wanted = accuracy(trace, (1.0,) * exits) - REFERENCE_POINTS / 100
    return wanted, min(t / 100 for t in range(1, 101) if accuracy(trace, (t / 100,) * exits) >= wanted)


@functools.cache
def _network(name: str) -> simulated.Network:
    net = simulated.network(name)
    assert net is not None
    return net


@functools.cache
def _bound_at(topology: str, name: str, rate_per_s: float) -> float | None:
    """The accuracy of the best common threshold at a rate; None when no threshold makes that possible."""
    net = _network(name)
    base = simulated.carrying(load_experiment("find-rate", {"topology": topology}), net, 1.0)
    try:
        return best_common(simulated.problem(base, net), net.trace, rate_per_s).accuracy
    except RateError:
        return None


def measure(case: Case) -> Row:
    """One run beside its bound, as a row of results.json."""
    net, settings = (
        _network(case.network),
        {"duration_s": case.duration_s, "seed": case.seed, "topology": case.topology},
    )
    rules = RATE_RULES if case.load is None else FIXED_RULES
    rule: dict[str, Any] = {"offloading": "mdi_exit", **rules[case.rule]}
    row: Row = dataclasses.asdict(case)
    if case.threshold is not None:
        base = simulated.carrying(load_experiment("find-rate", settings), net, case.threshold)
        bound_per_s = optimum(simulated.problem(base, net)).rate_per_s
        experiment = _starting(load_experiment("find-rate", {**settings, **rule}), _START_SHARE * bound_per_s)
        experiment = simulated.carrying(experiment, net, case.threshold)
        bound_accuracy: float | None = accuracy(net.trace, base.thresholds)
    else:
        assert case.load is not None
        base = simulated.carrying(load_experiment("find-rate", settings), net, 1.0)
        bound_per_s = case.load * optimum(simulated.problem(base, net)).rate_per_s
        bound_accuracy = _bound_at(case.topology, case.network, bound_per_s)
        settings |= {"arrivals": {"rule": "poisson", "rate_per_s": bound_per_s}, **rule}
        experiment = simulated.carrying(load_experiment("find-rate", settings), net, 0.9)
    report = simulated.report_of(experiment, net)
    reached = settled(report)
    return row | {
        "rate_per_s": reached["throughput_per_s"],
        "accuracy": reached["accuracy"] or 0.0,
        "accuracy_offered": report["accuracy_offered"] or 0.0,
        "threshold_mean": report["threshold"]["mean"],
        "bound_per_s": bound_per_s,
        "bound_accuracy": bound_accuracy,
        "latency_p50_s": report["latency_s"]["p50"],
        "latency_p99_s": report["latency_s"]["p99"],
        "shed_share": report["shed"] / max(report["offered"], 1),
        "lost": report["lost"],
    }


def _starting(experiment: Experiment, rate_per_s: float) -> Experiment:
    """Rules that look for the rate begin there; others need no beginning."""
    if not hasattr(experiment.admission, "interarrival_min_s"):
        return experiment
    admission = dataclasses.replace(experiment.admission, first_interarrival_s=1 / rate_per_s)  # type: ignore[type-var]
    return dataclasses.replace(experiment, admission=admission)


def cases_of(chosen: Options, available: list[str]) -> list[Case]:
    """Every run of the benchmark."""
    duration_s = _QUICK_S if chosen.quick else _DURATION_S
    cases = []
    for name in available:
        thresholds = sorted({*(QUICK_THRESHOLDS if chosen.quick else THRESHOLDS), reference(_network(name).trace)[1]})
        for topology in QUICK_TOPOLOGIES if chosen.quick else TOPOLOGIES:
            for rule in RATE_RULES:
                given: list[tuple[float | None, float | None]] = [(threshold, None) for threshold in thresholds]
                given += [(None, load) for load in (QUICK_LOADS if chosen.quick else LOADS)]
                seeds = range(chosen.seed, chosen.seed + chosen.repetitions)
                cases += [Case(name, topology, rule, *one, duration_s, seed) for one in given for seed in seeds]
    return cases


# ---- what it amounts to


def _distinct(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows if row[key] is not None))


def _of(rows: list[Row], key: str, **which: Any) -> Spread:
    return spread([row[key] for row in simulated.chosen_rows(rows, **which)])


def _key(topology: str, name: str) -> str:
    return f"{topology.replace('-', '_')}_{name}"


def summarise(rows: list[Row], references: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """The numbers that are the benchmark's answer; `references` holds each network's reference accuracy, threshold."""
    summary: dict[str, float] = {}
    for name in _distinct(rows, "network"):
        wanted, threshold = references[name]
        summary |= {f"accuracy_reference_{name}": wanted, f"threshold_reference_{name}": threshold}
        for topology in _distinct(rows, "topology"):
            at = {"network": name, "topology": topology}
            found = {rule: _of(rows, "rate_per_s", **at, rule=rule, threshold=threshold).median for rule in RATE_RULES}
            full = _of(rows, "rate_per_s", **at, rule=REPAIRED, threshold=1.0).median
            key = _key(topology, name)
            summary[f"rate_{key}_per_s"] = found[REPAIRED]
            summary[f"rate_paper_{key}_per_s"] = found[PAPER]
            summary[f"rate_dual_{key}_per_s"] = found[DUAL]
            summary[f"bound_{key}_per_s"] = _of(rows, "bound_per_s", **at, threshold=threshold).median
            summary[f"gain_of_exits_{key}"] = found[REPAIRED] / max(full, 1e-9)
    summary["lost"] = float(sum(row["lost"] for row in rows))
    return summary


def show(rows: list[Row], summary: Mapping[str, float], missing: list[str]) -> None:
    """Print the tables, and what they mean."""
    for name in _distinct(rows, "network"):
        wanted, reached = summary[f"accuracy_reference_{name}"], summary[f"threshold_reference_{name}"]
        for topology in _distinct(rows, "topology"):
            mine = simulated.chosen_rows(rows, network=name, topology=topology)
            lines = []
            for threshold in sorted(_distinct(mine, "threshold")):
                at = simulated.chosen_rows(mine, threshold=threshold)
                label = f"{threshold:.2f}{' (reference)' if threshold == reached else ' (no exits)' * (threshold == 1)}"
                cells = [label, f"{100 * at[0]['bound_accuracy']:.1f} %", f"{at[0]['bound_per_s']:.0f}"]
                cells += [str(_of(at, "rate_per_s", rule=rule)) for rule in RATE_RULES]
                lines.append(cells)
            print(f"\n{name}, {topology}, (a) thresholds held: images per second")
            table(["threshold", "accuracy", "bound", *RATE_RULES], lines)
            lines = []
            for load in sorted(_distinct(mine, "load")):
                at = simulated.chosen_rows(mine, load=load)
                best = at[0]["bound_accuracy"]
                cells = [
                    f"x{load:g}",
                    f"{at[0]['bound_per_s']:.0f}",
                    "not possible" if best is None else f"{100 * best:.1f}",
                ]
                for rule in RATE_RULES:
                    found = _of(at, "accuracy_offered", rule=rule)
                    cells.append(f"{100 * found.median:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})")
                lines.append(cells)
            print(f"{name}, {topology}, (b) rate held: accuracy in %, of all that was offered")
            table(["load", "images/s", "bound", *RATE_RULES], lines)
        print(f"\nReference accuracy of {name}: {100 * wanted:.1f} %, {REFERENCE_POINTS:g} point below no exits, ")
        print(f"kept by a threshold of {reached:.2f}.")
    for name in missing:
        print(f"{name}: not measured, there is no trace of it in benchmarks/data.")


def draw(rows: list[Row]) -> Any:
    """Accuracy over rate, a row of panels per network and mode, a panel per topology; dashed: the bound."""
    names, topologies = _distinct(rows, "network"), _distinct(rows, "topology")
    with plots.style():
        figure = plots.new_figure(3.1 * len(topologies), 5.6 * len(names))
        grid = figure.subplots(2 * len(names), len(topologies), squeeze=False)
        for number, name in enumerate(names):
            for column, topology in enumerate(topologies):
                mine = simulated.chosen_rows(rows, network=name, topology=topology)
                _panel(grid[2 * number][column], [row for row in mine if row["load"] is None], "threshold")
                _panel(grid[2 * number + 1][column], [row for row in mine if row["load"] is not None], "load")
                grid[2 * number][column].set_title(f"{topology}\n{name}, thresholds held", fontsize=9, loc="left")
                grid[2 * number + 1][column].set_title("rate held, of all offered", fontsize=9, loc="left")
                grid[2 * number + 1][column].set_xlabel("images per second")
            for line in (2 * number, 2 * number + 1):
                grid[line][0].set_ylabel("accuracy (%)")
        grid[0][0].legend(fontsize=7, loc="lower left")
    return figure


def _panel(axes: Any, rows: list[Row], key: str) -> None:
    """Thresholds decide the accuracy, rules the rate; or, at a load, the other way round."""
    points = sorted(_distinct(rows, key))
    best = [simulated.chosen_rows(rows, **{key: point})[0] for point in points]
    possible = [row for row in best if row["bound_accuracy"] is not None]
    bound = [[row["bound_per_s"] for row in possible], [100 * row["bound_accuracy"] for row in possible]]
    axes.plot(*bound, "--", color="#777777", label="bound")
    across, up, whisker = ("rate_per_s", "bound_accuracy", "xerr") if key == "threshold" else (
        "bound_per_s", "accuracy_offered", "yerr")  # fmt: skip
    for rule, colour in _COLOURS.items():
        at = [{"rule": rule, key: point} for point in points]
        rates = [_of(rows, across, **one) for one in at]
        heights = [_of(rows, up, **one) for one in at]
        scale, found = (1, rates) if key == "threshold" else (100, heights)
        ends = [[scale * (one.median - one.low) for one in found], [scale * (one.high - one.median) for one in found]]
        points_at = [one.median for one in rates], [100 * one.median for one in heights]
        axes.errorbar(*points_at, fmt="o-", markersize=3, color=colour, linewidth=1, label=rule, **{whisker: ends})
    axes.set_xlim(left=0)


def benchmark() -> None:
    """Measure every case, print, write."""
    assert __doc__ is not None
    chosen = options("throughput_vs_accuracy", __doc__.partition("\n")[0], repetitions=2)
    available = [name for name in NETWORKS if simulated.network(name) is not None]
    rows = side_by_side(measure, cases_of(chosen, available), "simulating")
    summary = summarise(rows, {name: reference(_network(name).trace) for name in available})
    show(rows, summary, [name for name in NETWORKS if name not in available])
    conclude(chosen, summary, rows, [(draw(rows), "throughput-vs-accuracy")])


if __name__ == "__main__":
    main(benchmark)
