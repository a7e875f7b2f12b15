"""Is it worth it? MDI-Exit against what one would try first: eight baselines, simulated.

Graphs: 3-node-mesh, 5-node-mesh, and the latter with unequal devices (x2, x1, x1, x0.5, x0.25; the source is a x1).
Devices like a Jetson Nano, links of 20 Mbit/s. "Ours" is the network with exits, hosted whole everywhere, split among
workers by dual back-pressure.

1 one device, without exits; and with exits
2 data-parallel copies: raw images are sent, each is computed by one worker from beginning to end, sent where it is
  expected to be answered soonest; without exits, and (a copy that the paper does not look at) with exits
3 pipeline: each worker hosts a contiguous slice, balanced to the devices' speeds, no exits
4 even split: the same with as equal numbers of segments as can be, whatever the devices, and with exits
5 smaller networks: the first two or the first three of the five segments as a network of its own that has one exit at
  its end, data-parallel as in 2
6 fixed thresholds without admission control: open arrivals, shed where they do not fit
7 the optimum: the fluid bound, which no policy beats

Two questions, two kinds of figures in `summary`. ours_over_NAME: the rate of ours over that of the baseline at equal
accuracy (the threshold of ours is the lowest at which the trace is no less accurate than the baseline), median over
graphs. accuracy_ours_over_NAME: accuracy over everything that was offered, a shed or late datum counting as wrong, at
equal offered load (multiples of what is possible without exits; Poisson arrivals, and bursts), median over graphs,
loads and arrivals. *_worst_*: the least over the same. Below 1 the baseline wins, and the text says where. Links carry
one group of tasks at a time, as in the paper, which slows pipelines more than others; a wider link_window would help.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import baseline_methods as ways
import simulated
from harness import Options, Spread, conclude, main, options, side_by_side, spread, table

from mdi_exit.analysis import plots
from mdi_exit.analysis.fixed_rate import LOWEST, RateError, accuracy, best_common
from mdi_exit.analysis.optimum import optimum
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.report import settled

GRAPHS, QUICK_GRAPHS = ("3-node-mesh", "5-node-mesh", ways.MIXED), (ways.MIXED,)
LOADS, QUICK_LOADS = (0.6, 1.2, 2.0), (0.6, 2.0)
ARRIVALS = ("poisson", "bursty")
QUIET, BURST = 0.6, 3.0  # times the mean rate; stays of 5 s and 1 s on average, so the mean is as it should be
_DURATION_S, _QUICK_S = 24.0, 10.0
_QUEUE_MAX = 50  # data that may wait at the source, of every method alike; then arrivals are shed
_EVEN = 0.995  # ratios nearer to 1 than half a per cent are even

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One simulated run. `load` None: which rate is reached; else how accurate what is offered at that load is."""

    graph: str
    method: str
    threshold: float  # of exits, where a method holds a common one
    load: float | None
    arrivals: str
    duration_s: float
    seed: int


def experiment_of(case: Case) -> Experiment:
    """The experiment of a case; data-parallel ones still need their policy (see `measure`)."""
    method = ways.METHODS[ways.OURS if case.method == ways.OPEN else case.method]
    settings = {**ways.settings_of(case.graph, method), "duration_s": case.duration_s, "seed": case.seed}
    settings["thresholds"] = list(ways.thresholds_of(method, case.threshold))
    settings["offloading"] = "never" if method.offloading == "whole_network" else method.offloading
    if case.load is None:
        settings["admission"] = {"rule": "fill_queue", "queue_target": 15}
        return load_experiment("find-rate", settings)
    rate_per_s = case.load * ways.possible_without_exits(case.graph)
    rule = "pi_control" if case.method == ways.OURS else "always"
    settings["admission"] = {"rule": rule, "queue_max": _QUEUE_MAX}
    settings["arrivals"] = {"rule": "poisson", "rate_per_s": rate_per_s}
    if case.arrivals == "bursty":
        settings["arrivals"] = {
            "rule": "bursty",
            "rate_per_s": QUIET * rate_per_s,
            "burst_rate_per_s": BURST * rate_per_s,
        }
    return load_experiment("find-rate", settings)


def measure(case: Case) -> Row:
    """One run, as a row of results.json."""
    experiment, net = experiment_of(case), ways.network()
    whole = ways.METHODS.get(case.method, ways.METHODS[ways.OURS]).offloading == "whole_network"
    report = simulated.report_of(experiment, net, ways.WholeNetwork() if whole else None)
    reached = settled(report)
    row: Row = {
        **dataclasses.asdict(case),
        "rate_per_s": reached["throughput_per_s"],
        "accuracy": accuracy(net.trace, experiment.thresholds) if case.load is None else report["accuracy"] or 0.0,
        "accuracy_offered": report["accuracy_offered"] or 0.0,
        "offered_per_s": report["offered"] / report["duration_s"],
        "shed_share": report["shed"] / max(report["offered"], 1),
        "latency_p50_s": report["latency_s"]["p50"],
        "latency_p99_s": report["latency_s"]["p99"],
        "lost": report["lost"],
    }
    problem = simulated.problem(experiment, net)
    if case.load is None:
        row["bound_per_s"] = optimum(problem).rate_per_s
    elif case.method == ways.OURS:
        try:
            row["bound_accuracy"] = best_common(problem, net.trace, row["offered_per_s"]).accuracy
        except RateError:  # more than any threshold makes possible: that share of the lowest one's answers
            lowest = load_experiment(
                "find-rate", {**ways.settings_of(case.graph, ways.METHODS[ways.OURS]), "thresholds": LOWEST}
            )
            most = optimum(simulated.problem(lowest, net)).rate_per_s
            row["bound_accuracy"] = accuracy(net.trace, lowest.thresholds) * most / row["offered_per_s"]
    return row


def cases_of(chosen: Options) -> list[Case]:
    """Every run of the benchmark."""
    duration_s = _QUICK_S if chosen.quick else _DURATION_S
    baselines = [name for name in ways.METHODS if name != ways.OURS]
    thresholds = sorted({ways.threshold_of_ours(name) for name in baselines})
    rates = [(name, ways.HELD) for name in baselines] + [(ways.OURS, threshold) for threshold in thresholds]
    cases = []
    for graph in QUICK_GRAPHS if chosen.quick else GRAPHS:
        for seed in range(chosen.seed, chosen.seed + chosen.repetitions):
            cases += [Case(graph, name, threshold, None, "", duration_s, seed) for name, threshold in rates]
            for load in QUICK_LOADS if chosen.quick else LOADS:
                given = [(name, arrivals) for name in (*ways.METHODS, ways.OPEN) for arrivals in ARRIVALS]
                cases += [Case(graph, name, ways.HELD, load, arrivals, duration_s, seed) for name, arrivals in given]
    return cases


# ---- what it amounts to


def rate_ratios(rows: list[Row], name: str, **which: Any) -> list[float]:
    """The rate of ours over a baseline's at equal accuracy, run by run."""
    if name == ways.OPTIMUM:
        mine = simulated.chosen_rows(rows, method=ways.OURS, load=None, **which)
        return [row["rate_per_s"] / row["bound_per_s"] for row in mine]
    theirs, threshold = simulated.chosen_rows(rows, method=name, load=None, **which), ways.threshold_of_ours(name)
    ratios = []
    for row in theirs:
        same = {"graph": row["graph"], "seed": row["seed"], "load": None}
        (ours,) = simulated.chosen_rows(rows, method=ways.OURS, threshold=threshold, **same)
        ratios.append(ours["rate_per_s"] / max(row["rate_per_s"], 1e-9))
    return ratios


def accuracy_ratios(rows: list[Row], name: str, **which: Any) -> list[float]:
    """Accuracy over all that was offered, of ours over a baseline's at equal offered load, run by run."""
    ratios = []
    for ours in simulated.chosen_rows([row for row in rows if row["load"] is not None], method=ways.OURS, **which):
        if name == ways.OPTIMUM:
            ratios.append(ours["accuracy_offered"] / ours["bound_accuracy"])
            continue
        same = {key: ours[key] for key in ("graph", "load", "arrivals", "seed")}
        (theirs,) = simulated.chosen_rows(rows, method=name, **same)
        ratios.append(ours["accuracy_offered"] / max(theirs["accuracy_offered"], 1e-9))
    return ratios


def summarise(rows: list[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    summary: dict[str, float] = {}
    for name in (*ways.METHODS, ways.OPEN, ways.OPTIMUM):
        if name not in (ways.OURS, ways.OPEN):
            ratios = rate_ratios(rows, name)
            summary |= {f"ours_over_{name}": statistics.median(ratios), f"ours_over_worst_{name}": min(ratios)}
        if name != ways.OURS:
            ratios = accuracy_ratios(rows, name)
            summary[f"accuracy_ours_over_{name}"] = statistics.median(ratios)
            summary[f"accuracy_ours_over_worst_{name}"] = min(ratios)
    summary["lost"] = float(sum(row["lost"] for row in rows))
    return summary


def _distinct(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows if row[key] not in (None, "")))


def _of(rows: list[Row], key: str, **which: Any) -> Spread:
    return spread([row[key] for row in simulated.chosen_rows(rows, **which)])


def show(rows: list[Row], summary: Mapping[str, float]) -> None:
    """Print the tables, and where a baseline wins."""
    for graph in _distinct(rows, "graph"):
        lines = []
        for name in [name for name in ways.METHODS if name != ways.OURS]:
            theirs = simulated.chosen_rows(rows, graph=graph, method=name, load=None)
            ours = {"graph": graph, "method": ways.OURS, "load": None, "threshold": ways.threshold_of_ours(name)}
            lines.append(
                [
                    ways.TITLES[name],
                    str(_of(theirs, "rate_per_s")),
                    f"{100 * theirs[0]['accuracy']:.1f} %",
                    str(_of(rows, "rate_per_s", **ours)),
                    f"{100 * _of(rows, 'accuracy', **ours).median:.1f} %",
                    f"{statistics.median(rate_ratios(rows, name, graph=graph)):.2f}",
                ]
            )
        print(f"\n{graph}: images per second, and those of ours at equal accuracy")
        table(["baseline", "images/s", "accuracy", "ours", "accuracy", "ours / it"], lines)
        _show_accuracy(simulated.chosen_rows([row for row in rows if row["load"] is not None], graph=graph))
    print()
    for line in verdicts(rows, summary):
        print(line)


def _show_accuracy(rows: list[Row]) -> None:
    loads, lines = _distinct(rows, "load"), []
    for name in (*ways.METHODS, ways.OPEN, ways.OPTIMUM):
        cells = [ways.TITLES[name]]
        for arrivals in ARRIVALS:
            for load in loads:
                key = "bound_accuracy" if name == ways.OPTIMUM else "accuracy_offered"
                which = {"method": ways.OURS if name == ways.OPTIMUM else name, "load": load, "arrivals": arrivals}
                lost = 0.0 if name == ways.OPTIMUM else _of(rows, "shed_share", **which).median
                found = f"{100 * _of(rows, key, **which).median:.0f}"
                cells.append(f"{found} ({100 * lost:.0f})" if lost >= 0.005 else found)
        lines.append(cells)
    print("Accuracy in % over all that was offered, and in brackets the share that was shed:")
    table(["", *(f"{arrivals} x{load:g}" for arrivals in ARRIVALS for load in loads)], lines)


def verdicts(rows: list[Row], summary: Mapping[str, float]) -> list[str]:
    """For each baseline a line: how much better ours is, and where it is not."""
    lines = []
    for name in (name for name in (*ways.METHODS, ways.OPEN) if name != ways.OURS):
        said = [f"accuracy x{summary[f'accuracy_ours_over_{name}']:.2f} at equal load"]
        if name != ways.OPEN:
            said.insert(0, f"rate x{summary[f'ours_over_{name}']:.2f} at equal accuracy")
        wins = []
        for graph in _distinct(rows, "graph"):
            if name != ways.OPEN and (ratio := statistics.median(rate_ratios(rows, name, graph=graph))) < _EVEN:
                wins.append(f"its rate on {graph} (x{ratio:.2f})")
            for load in _distinct(rows, "load"):
                for arrivals in ARRIVALS:
                    where = {"graph": graph, "load": load, "arrivals": arrivals}
                    if (ratio := statistics.median(accuracy_ratios(rows, name, **where))) < _EVEN:
                        wins.append(f"its accuracy on {graph}, {arrivals} x{load:g} (x{ratio:.3f})")
        lines.append(f"{ways.TITLES[name]}: ours has {', '.join(said)}.")
        lines += [f"    THE BASELINE WINS: {'; '.join(wins)}."] if wins else []
    return lines


def draw(rows: list[Row]) -> Any:
    """Rates at equal accuracy as ratios, and accuracy over the load under bursts."""
    names = [name for name in ways.METHODS if name != ways.OURS]
    graphs = _distinct(rows, "graph")
    with plots.style():
        figure = plots.new_figure(13, 4.8)
        left, *others = figure.subplots(1, 1 + len(graphs), width_ratios=(1.2, *(1 for _ in graphs)))
        for place, name in enumerate([*names, ways.OPTIMUM]):
            for graph, colour in zip(graphs, plots.RUN_COLOURS, strict=False):
                found = spread(rate_ratios(rows, name, graph=graph))
                left.plot([found.low, found.high], [place, place], color=colour, alpha=0.4)
                left.plot([found.median], [place], "o", color=colour, label=graph if place == 0 else None)
        left.axvline(1, color="#777777", linestyle="--")
        left.set_yticks(range(len(names) + 1), [ways.TITLES[name] for name in [*names, ways.OPTIMUM]], fontsize=8)
        left.invert_yaxis()
        left.set(xlabel="rate of ours / of the baseline, at equal accuracy", xscale="log")
        left.set_xticks([1, 2, 3, 5, 8], ["1", "2", "3", "5", "8"])
        left.minorticks_off()
        left.legend(fontsize=7)
        for axes, graph in zip(others, graphs, strict=True):
            for number, name in enumerate((ways.OURS, *names, ways.OPEN)):
                mine = [row for row in rows if row["load"] is not None and row["arrivals"] == "bursty"]
                mine = simulated.chosen_rows(mine, graph=graph, method=name)
                loads = sorted(_distinct(mine, "load"))
                heights = [100 * _of(mine, "accuracy_offered", load=load).median for load in loads]
                kind, colour = ("o-", plots.BLACK) if name == ways.OURS else ("-", f"C{number}")
                axes.plot(loads, heights, kind, markersize=4, color=colour, linewidth=1.2, label=ways.TITLES[name])
            axes.set_title(f"{graph}, bursts", loc="left", fontsize=9)
            axes.set(xlabel="load / possible without exits", ylim=(0, 100))
        others[0].set_ylabel("accuracy of all offered (%)")
        others[0].legend(fontsize=6, loc="lower left")
    return figure


def benchmark() -> None:
    """Measure every case, print, write."""
    assert __doc__ is not None
    chosen = options("baselines", __doc__.partition("\n")[0], repetitions=2)
    rows = side_by_side(measure, cases_of(chosen), "simulating")
    summary = summarise(rows)
    show(rows, summary)
    conclude(chosen, summary, rows, [(draw(rows), "baselines")])


if __name__ == "__main__":
    main(benchmark)
