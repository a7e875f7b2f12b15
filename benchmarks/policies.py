"""How close do policies come to the best that any policy could do? Simulated, against the fluid bound.

Rate: thresholds fixed at 0.8; which rate is reached, as a share of the bound, on the paper's five topologies (workers
like a Jetson Nano, links of 20 Mbit/s) and on 50 random connected graphs (graphs.py). Fixed rate: data arrive at a
multiple of what would be possible without exits; how much accuracy is given up against the best common threshold.
Readings are the shipped network's on its 1,000 test images; a run is 20 s of virtual time, judged by its second half.

`--graph FILE.yaml` asks the same of one graph of yours: a topology, or an experiment with its devices.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphs import random_experiment
from harness import Options, conclude, main, options, side_by_side, table
from simulated import HEADER_BYTES, SHIPPED, network

from mdi_exit.analysis import plots
from mdi_exit.analysis.fixed_rate import accuracy, best_common, best_per_exit
from mdi_exit.analysis.fluid import problem_of
from mdi_exit.analysis.optimum import optimum
from mdi_exit.assembly import datum_index
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core.types import Outcome
from mdi_exit.journal import Step
from mdi_exit.policies import presets
from mdi_exit.report import build_report
from mdi_exit.simulation.run import simulate

TOPOLOGIES = ("local", "2-node", "3-node-mesh", "3-node-circular", "5-node-mesh")
HARD = TOPOLOGIES[1:]  # of the fixed-rate part
GRAPHS, QUICK_GRAPHS = 50, 4
ONE_CHANNEL = ", one channel"
LOADS = (0.9, 1.2, 1.6, 2.0, 2.5, 3.0)  # times the rate that is possible without exits
_DURATION_S, _QUICK_S = 20.0, 6.0
# Hand-overs under way per link, for every rule. With 1, a link mostly waits for its answers; on a shared channel 4 do
# too, and 8, since each also waits for its turn, of which the bound knows nothing.
LINK_WINDOW, ON_AIR_WINDOW = 4, 16
UNDER_WAY = 0.02  # of the data of a run, which may be without answer at its end: 0.4 s of 20 s
HIGHEST = 0.95  # threshold that the controllers may go up to; a round value, chosen beforehand and not on these images

Row = dict[str, Any]

RATE_RULES: Mapping[str, Mapping[str, Any]] = {
    "paper, as listed": presets.PAPER_RATE,
    "paper, repaired": presets.REPAIRED_RATE,
    "back-pressure": {"offloading": "backpressure", "admission": "fill_queue"},
    "dual back-pressure": {"offloading": "dual_backpressure", "admission": "fill_queue"},
}
FIXED_RULES: Mapping[str, Mapping[str, Any]] = {
    "paper, as listed": presets.PAPER_THRESHOLD,
    "paper, repaired": presets.REPAIRED_THRESHOLD,
    "PI, dual back-pressure": {
        "offloading": "dual_backpressure",
        "admission": {"rule": "pi_control", "threshold_max": HIGHEST},
    },
    "drift plus penalty": {
        "offloading": "dual_backpressure",
        "admission": "always",
        "exit": "drift_plus_penalty",
        "thresholds": HIGHEST,
    },
}
PAPER, BEST, BEST_FIXED = "paper, as listed", "dual back-pressure", "PI, dual back-pressure"


@dataclass(frozen=True, slots=True)
class Case:
    """One simulated run."""

    graph: str  # a topology's name or file, or the number of a random graph
    kind: str  # of graphs: "paper's", "random all, own links", ...
    rule: str
    load: float | None  # of the fixed-rate mode; None: the rate is to be found
    duration_s: float
    seed: int


def experiment_of(case: Case) -> Experiment:
    """The experiment of a case, on its graph."""
    rules = RATE_RULES if case.load is None else FIXED_RULES
    settings: dict[str, Any] = {"thresholds": 0.8, "duration_s": case.duration_s, "seed": case.seed}
    window = ON_AIR_WINDOW if case.kind.endswith(ONE_CHANNEL) else LINK_WINDOW
    settings |= {"worker": {"link_window": window}, **rules[case.rule]}
    if case.load is not None:
        settings["arrivals"] = {"rule": "poisson", "rate_per_s": 1.0}  # the rate comes with the bound
    if case.graph.isdecimal():
        return random_experiment(load_experiment("find-rate", settings), int(case.graph))
    return load_experiment("find-rate", {**settings, "topology": case.graph})


def measure(case: Case) -> Row:
    """One run beside its bound, as a row of results.json."""
    experiment = experiment_of(case)
    net = network(SHIPPED)
    assert net is not None
    card, trace = net.card, net.trace
    problem = problem_of(experiment, card, trace, header_bytes=HEADER_BYTES)
    row: Row = {**dataclasses.asdict(case), "workers": len(experiment.topology.workers)}
    if case.load is not None:
        whole = optimum(dataclasses.replace(problem, continuation=(1.0,) * (problem.exits - 1))).rate_per_s
        rate = case.load * whole
        arrivals = dataclasses.replace(experiment.arrivals, rate_per_s=rate)  # type: ignore[type-var]
        experiment = dataclasses.replace(experiment, arrivals=arrivals)
    else:
        row["bound_per_s"] = optimum(problem).rate_per_s
    answered: list[tuple[float, int]] = []  # when, and which datum

    def see(step: Step) -> None:
        ends = (effect for effect in step.effects if isinstance(effect, fx.Complete))
        answered.extend((step.now, end.data_id) for end in ends if end.outcome is Outcome.COMPLETED)

    record = simulate(experiment, card, trace, observe=see)
    report = build_report(experiment, card, record.tallies, record.facts, "", "simulation")
    settled = report["steady"] or report
    came_per_s = report["offered"] / report["duration_s"]
    if case.load is not None:
        # What comes in so short a run differs by a few per cent from the rate that was meant, and is easier or harder
        # by a point than the trace: the bound is that of the rate that came, its accuracy that on what came.
        row["bound_per_s"] = came_per_s
        late = [which for when_s, which in answered if settled["from_s"] <= when_s < settled["until_s"]]
        late = late or list(range(report["offered"]))  # of a rule under which nothing is answered
        for name, best in (("", best_common), ("_per_exit", best_per_exit)):
            thresholds = best(problem, trace, came_per_s).thresholds
            for suffix, data in (("", late), ("_offered", list(range(report["offered"])))):
                came = trace.rows([datum_index(experiment, which, len(trace)) for which in data])
                row[f"bound_accuracy{name}{suffix}"] = accuracy(came, thresholds)
    row |= {
        "answered_share": report["throughput_per_s"] / came_per_s,  # before the run's end
        "rate_per_s": settled["throughput_per_s"],
        "ratio": settled["throughput_per_s"] / row["bound_per_s"],
        "accuracy": settled["accuracy"],
        "accuracy_offered": report["accuracy_offered"],
        "shed_share": report["shed"] / max(report["offered"], 1),
        "lost": report["lost"],
        **{f"latency_{name}_s": value for name, value in report["latency_s"].items()},
        "events": record.events,
    }
    return row


def cases_of(chosen: Options) -> list[Case]:
    """Every run of the benchmark."""
    duration_s = _QUICK_S if chosen.quick else _DURATION_S
    if chosen.graph is not None:
        graphs = {str(chosen.graph): "yours"}
    else:
        graphs = dict.fromkeys(TOPOLOGIES, "the paper's five")
        for number in range(QUICK_GRAPHS if chosen.quick else GRAPHS):
            slices = "some host a slice" if number % 2 else "all host everything"
            graphs[str(number)] = f"random, {slices}{ONE_CHANNEL if number % 4 == 3 else ''}"
    hard = [chosen.graph] if chosen.graph is not None else list(HARD)[-1:] if chosen.quick else HARD
    found = [(graph, kind, rule, None) for graph, kind in graphs.items() for rule in RATE_RULES]
    given = [(str(graph), "fixed rate", rule, load) for graph in hard for load in LOADS for rule in FIXED_RULES]
    seeds = range(chosen.seed, chosen.seed + chosen.repetitions)
    return [Case(*one, duration_s, seed) for one in [*found, *given] for seed in seeds]


# ---- what it amounts to


def _values(rows: Sequence[Row], key: str, **which: Any) -> list[float]:
    chosen = [row for row in rows if all(row[name] == value for name, value in which.items())]
    return [row[key] for row in chosen if row[key] is not None]


def _accuracy_gaps(rows: Sequence[Row], rule: str, **which: Any) -> list[float]:
    """Points below the best common threshold; a shed datum counts as wrong, and so does a lost one."""
    chosen = [
        r for r in rows if r["load"] is not None and r["rule"] == rule and all(r[k] == v for k, v in which.items())
    ]
    return [100 * (r["bound_accuracy"] - _earned(r)) for r in chosen]


def _earned(row: Row) -> float:
    """The settled accuracy, less what was shed or had no answer by the run's end; 2 % may still be under way then."""
    return float((row["accuracy"] or 0.0) * min(1.0, row["answered_share"] / (1 - UNDER_WAY)))


def _over(ours: float | None, theirs: float | None) -> float:
    """The ratio of two latencies; who answers nothing has an endless one."""
    if ours is None:
        return math.inf
    return 0.0 if theirs is None else ours / theirs


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    ratios = {rule: _values(rows, "ratio", rule=rule, load=None) for rule in RATE_RULES}
    tails = {
        rule: {
            (row["graph"], row["seed"]): row["latency_p99_s"] for row in rows if row["rule"] == rule and not row["load"]
        }
        for rule in (BEST, PAPER)
    }
    pairs = [(ours, tails[PAPER][which]) for which, ours in tails[BEST].items()]
    offered = [
        100 * (row["bound_accuracy_offered"] - row["accuracy_offered"])
        for row in rows
        if row["load"] and row["rule"] == BEST_FIXED
    ]
    return {
        "median_ratio": statistics.median(ratios[BEST]),
        "worst_ratio": min(ratios[BEST]),
        "paper_median_ratio": statistics.median(ratios[PAPER]),
        "paper_worst_ratio": min(ratios[PAPER]),
        "repaired_median_ratio": statistics.median(ratios["paper, repaired"]),
        "repaired_worst_ratio": min(ratios["paper, repaired"]),
        "p99_latency_ratio": statistics.median(_over(ours, theirs) for ours, theirs in pairs),
        "accuracy_gap_points": statistics.median(_accuracy_gaps(rows, BEST_FIXED)),
        "accuracy_offered_gap_points": statistics.median(offered),
        "paper_accuracy_gap_points": statistics.median(_accuracy_gaps(rows, PAPER)),
        "highest_ratio": max(value for values in ratios.values() for value in values),
    }


def show(rows: Sequence[Row], summary: Mapping[str, float]) -> None:
    """Print both tables, and what they mean."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows if row["load"] is None))
    lines = []
    for rule in RATE_RULES:
        cells = [rule]
        for kind in kinds:
            ratios = _values(rows, "ratio", rule=rule, kind=kind, load=None)
            cells.append(f"{statistics.median(ratios):.3f} / {min(ratios):.3f}")
        p50, p99 = (_values(rows, f"latency_{name}_s", rule=rule, load=None) for name in ("p50", "p99"))
        cells.append(f"{1000 * statistics.median(p50):.0f} / {1000 * statistics.median(p99):.0f} ms")
        lines.append(cells)
    print("Rate reached as a share of the bound, median / worst of the graphs:")
    table(["rule", *kinds, "latency p50 / p99"], lines)
    loads = list(dict.fromkeys(row["load"] for row in rows if row["load"] is not None))
    lines = []
    for rule in FIXED_RULES:
        gaps = [_accuracy_gaps(rows, rule, load=load) for load in loads]
        tails = [row["latency_p99_s"] for row in rows if row["rule"] == rule and row["load"] is not None]
        worst = max(gap for each in gaps for gap in each)
        lines.append([rule, *(f"{statistics.median(gap):.1f}" for gap in gaps), f"{worst:.1f}",
                      f"{1000 * statistics.median(tails):.0f} ms"])  # fmt: skip
    print("\nFixed rate, as a multiple of what is possible without exits: points of accuracy below the best common")
    print("threshold, median over topologies (a datum that is not answered in time counts as wrong):")
    table(["rule", *(f"x{load:g}" for load in loads), "worst", "latency p99"], lines)
    print(f"\nNo run may beat the bound beyond chance; the highest is {summary['highest_ratio']:.3f} of it.")


def draw(rows: Sequence[Row]) -> Any:
    """Ratios of every graph, rule by rule, and the accuracy given up over the load."""
    with plots.style():
        figure = plots.new_figure(11, 4.6)
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        for place, rule in enumerate(RATE_RULES):
            ratios = sorted(_values(rows, "ratio", rule=rule, load=None))
            spread = [place + 0.5 * (i / max(len(ratios) - 1, 1) - 0.5) for i in range(len(ratios))]
            left.plot(spread, ratios, "o", markersize=4, alpha=0.6, color=plots.RUN_COLOURS[place])
            left.plot([place - 0.3, place + 0.3], [statistics.median(ratios)] * 2, color=plots.BLACK)
        left.axhline(1, color="#777777", linestyle="--")
        left.set_xticks(range(len(RATE_RULES)), [rule.replace(" ", "\n", 1) for rule in RATE_RULES], fontsize=8)
        left.set(ylabel="rate reached / bound", ylim=(0, 1.08))
        left.set_title("Every dot a graph, sorted; lines: medians", loc="left")
        loads = sorted({row["load"] for row in rows if row["load"] is not None})
        for rule, colour in zip(FIXED_RULES, plots.RUN_COLOURS, strict=False):
            gaps = [statistics.median(_accuracy_gaps(rows, rule, load=load)) for load in loads]
            right.plot(loads, gaps, "o-", color=colour, label=rule)
        right.set(xlabel="rate / what is possible without exits", ylabel="points below the best common threshold")
        right.axhline(0, color="#777777", linestyle="--")
        right.set_title("Accuracy given up at a fixed rate", loc="left")
        right.legend()
    return figure


def benchmark() -> None:
    """Measure every case, print, write."""
    assert __doc__ is not None
    chosen = options("policies", __doc__.partition("\n")[0], repetitions=1, graph=True)
    rows = side_by_side(measure, cases_of(chosen), "simulating")
    summary = summarise(rows)
    show(rows, summary)
    conclude(chosen, summary, rows, [(draw(rows), "policies")])


if __name__ == "__main__":
    main(benchmark)
