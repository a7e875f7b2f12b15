"""Does planning pay, and is what a plan promises true? Devices whose speeds are four times apart, and equal ones.

Each graph is run with the even split (equal numbers of segments, in order from the source), with the best split in
which no segment is hosted twice, and with the plan; nobody may hold more weights than the even split's largest slice,
but for the last method, where memory does not matter. All use the same rules (dual back-pressure, fill_queue), links
of 20 Mbit/s and exits above 0.8. Devices are Jetson Nanos and ones at a quarter of their speed. Every case is
simulated; two graphs are also run on Ray, with paced workers. Goals: planned at least 1.5 times the even split where
speeds differ, and the predicted rate (the fluid bound) within 15 % of the measured one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness import Options, Spread, conclude, main, options, side_by_side, spread, table, turns
from simulated import SHIPPED, network, report_of

from mdi_exit.analysis import plots
from mdi_exit.analysis.planning import Basis, even_split, find_plan
from mdi_exit.cli.planned import basis_of
from mdi_exit.config.load import load_experiment
from mdi_exit.devices import slice_name
from mdi_exit.report import Report, build_report, settled
from mdi_exit.runtime import Cluster, local_cluster

Row = dict[str, Any]
SPEEDS: Mapping[str, Mapping[str, float]] = {  # of a Jetson Nano
    "2-node": {"n1": 0.25, "n2": 1.0},
    "3-node-mesh": {"n1": 0.25, "n2": 1.0, "n3": 0.25},
    "3-node-circular": {"n1": 0.25, "n2": 0.25, "n3": 1.0},
    "line": {"n1": 1.0, "n2": 0.25, "n3": 1.0, "n4": 0.25},
    "star": {"hub": 0.25, "n1": 1.0, "n2": 0.25, "n3": 1.0, "n4": 0.25},
    "5-node-mesh": {"n1": 0.25, "n2": 1.0, "n3": 0.25, "n4": 1.0, "n5": 0.25},
}
EQUAL = {"3-node-mesh": {"n1": 1.0, "n2": 1.0, "n3": 1.0}}
ON_RAY, QUICK = ("2-node", "3-node-mesh"), ("2-node", "3-node-mesh")
METHODS = {"even": "even split", "split": "best split, none twice", "planned": "planned", "free": "planned, any memory"}
RAY_METHODS = ("even", "planned")
GAIN, NEAR = 1.5, 0.15  # the goals
_PACE_MISSED_MAX = 0.01
_DURATION_S, _QUICK_S = 20.0, 6.0


@dataclass(frozen=True, slots=True)
class Case:
    """A graph with unequal or equal devices, and a way to place slices on it."""

    topology: str
    unequal: bool
    method: str

    def __str__(self) -> str:
        return f"{self.graph}, {METHODS[self.method]}"

    @property
    def graph(self) -> str:
        return f"{self.topology}, {'4x' if self.unequal else 'equal'}"


@dataclass(frozen=True, slots=True)
class Run:
    """A case with a seed."""

    case: Case
    seed: int
    duration_s: float


def cases_of(chosen: Options) -> list[Case]:
    """What is compared."""
    graphs = [(name, True) for name in (QUICK if chosen.quick else SPEEDS)] + [(name, False) for name in EQUAL]
    return [Case(name, unequal, method) for name, unequal in graphs for method in METHODS]


def settings_of(run: Run) -> dict[str, Any]:
    """The experiment of a run, but for who hosts what."""
    case = run.case
    speeds = (SPEEDS if case.unequal else EQUAL)[case.topology]
    devices = {name: {"profile": "jetson-nano", "speed": speed} for name, speed in speeds.items()}
    return {"topology": case.topology, "devices": devices, "seed": run.seed, "duration_s": run.duration_s}


def planned(run: Run) -> tuple[dict[str, Any], float]:
    """The experiment of a run, its placement in it, and the rate that is predicted."""
    net = network(SHIPPED)
    assert net is not None
    settings = settings_of(run)
    judged = basis_of(load_experiment("near-optimal", settings), net.card, net.trace)
    even = even_split(judged.experiment.topology, judged.experiment.exits)
    most = max(map(judged.size_bytes, even.values()))
    within = dataclasses.replace(judged, memory_bytes=dict.fromkeys(judged.memory_bytes, most))
    if run.case.method == "even":
        hosted: Mapping[str, tuple[int, ...]] = even
    elif run.case.method == "split":
        hosted = best_split(within)
    else:
        hosted = find_plan(within if run.case.method == "planned" else judged).hosted
    placement = {worker: slice_name(segments) for worker, segments in hosted.items()}
    return {**settings, "placement": placement}, judged.rate_per_s(hosted)


def best_split(judged: Basis) -> dict[str, tuple[int, ...]]:
    """The best placement in which no segment is hosted twice, of all that there are; for five workers at most."""
    workers, exits = judged.experiment.topology.workers, judged.experiment.exits
    best: tuple[float, dict[str, tuple[int, ...]]] = (0.0, {})
    for order in itertools.permutations(workers):
        for cuts in itertools.combinations(range(1, exits), len(workers) - 1):
            ends = [0, *cuts, exits]
            hosted = {w: tuple(range(a + 1, b + 1)) for w, (a, b) in zip(order, itertools.pairwise(ends), strict=True)}
            if all(judged.fits(worker, segments) for worker, segments in hosted.items()):
                rate_per_s = judged.rate_per_s(hosted)
                if rate_per_s > best[0]:
                    best = (rate_per_s, hosted)
    return {worker: best[1][worker] for worker in workers}


def measure_simulated(run: Run) -> Row:
    """One run in virtual time, as a row of results.json."""
    settings, predicted_per_s = planned(run)
    return _row(run, "simulation", settings, predicted_per_s, report_of(load_experiment("near-optimal", settings)))


def measure_real(cluster: Cluster, run: Run) -> Row:
    """One run on Ray."""
    settings, predicted_per_s = planned(run)
    experiment = load_experiment("near-optimal", settings)
    record = cluster.run(experiment)
    report = build_report(experiment, record.card, record.tallies, record.facts, "", "ray")
    missed = max(facts.pace_missed or 0.0 for facts in record.facts.values())
    return {**_row(run, "ray", settings, predicted_per_s, report), "pace_missed": missed}


def _row(run: Run, where: str, settings: Mapping[str, Any], predicted_per_s: float, report: Report) -> Row:
    reached = settled(report)
    return {
        "topology": run.case.topology,
        "unequal": run.case.unequal,
        "method": run.case.method,
        "where": where,
        "seed": run.seed,
        "placement": settings["placement"],
        "predicted_per_s": predicted_per_s,
        "throughput_per_s": reached["throughput_per_s"],
        "accuracy": reached["accuracy"],
        "latency_p50_s": report["latency_s"]["p50"],
        "lost": report["lost"],
    }


# ---- what it amounts to


def chosen_rows(rows: list[Row], case: Case, where: str) -> list[Row]:
    """The rows of a case on Ray or in virtual time."""
    wanted = (case.topology, case.unequal, case.method, where)
    return [row for row in rows if (row["topology"], row["unequal"], row["method"], row["where"]) == wanted]


def cases_in(rows: list[Row], where: str) -> list[Case]:
    """What was measured there."""
    said = [(row["topology"], row["unequal"], row["method"]) for row in rows if row["where"] == where]
    return [Case(*each) for each in dict.fromkeys(said)]


def rate(rows: list[Row], case: Case, where: str) -> Spread:
    """What was reached, over the repetitions."""
    return spread([row["throughput_per_s"] for row in chosen_rows(rows, case, where)])


def gap(rows: list[Row], case: Case, where: str) -> float:
    """How far the prediction is from what was then measured, relative; above 0: too much was promised."""
    predicted = chosen_rows(rows, case, where)[0]["predicted_per_s"]
    return float(predicted / max(rate(rows, case, where).median, 1e-9) - 1)


def gains(rows: list[Row], where: str) -> dict[str, float]:
    """Planned over the even split, by graph of unequal devices."""
    found = {}
    for case in cases_in(rows, where):
        if case.unequal and case.method == "planned":
            even = rate(rows, dataclasses.replace(case, method="even"), where).median
            found[case.graph] = rate(rows, case, where).median / max(even, 1e-9)
    return found


def summarise(rows: list[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    summary: dict[str, float] = {}
    for where in ("simulation", "ray"):
        gaps = [abs(gap(rows, case, where)) for case in cases_in(rows, where)]
        summary[f"gain_least_{where}"] = min(gains(rows, where).values())
        summary[f"gain_median_{where}"] = spread(list(gains(rows, where).values())).median
        summary[f"prediction_gap_most_{where}"] = max(gaps)
        summary[f"prediction_gap_median_{where}"] = spread(gaps).median
    found = [summary[f"{name}_{where}"] for name in ("gain_least",) for where in ("simulation", "ray")]
    near = [summary[f"prediction_gap_most_{where}"] for where in ("simulation", "ray")]
    summary["goal_met"] = float(min(found) >= GAIN and max(near) <= NEAR)
    summary["pace_missed_worst"] = max(row["pace_missed"] for row in rows if row["where"] == "ray")
    summary["lost"] = float(sum(row["lost"] for row in rows))
    return summary


def show(rows: list[Row], summary: Mapping[str, float]) -> None:
    """Print the table, and what it means."""
    lines = []
    for where in ("simulation", "ray"):
        for case in cases_in(rows, where):
            first = chosen_rows(rows, case, where)[0]
            slices = " ".join(first["placement"].values())
            cells = (f"{first['predicted_per_s']:.0f}", str(rate(rows, case, where)))
            lines.append([case.graph, METHODS[case.method], slices, where, *cells, f"{gap(rows, case, where):+.0%}"])
    table(["graph", "method", "slices", "where", "predicted/s", "reached/s", "prediction"], lines)
    for where in ("simulation", "ray"):
        print(
            f"{where}: planned over even split, least {summary[f'gain_least_{where}']:.2f}, median "
            f"{summary[f'gain_median_{where}']:.2f} (goal {GAIN}); prediction off by at most "
            f"{summary[f'prediction_gap_most_{where}']:.0%} (goal {NEAR:.0%})"
        )
    missed = summary["pace_missed_worst"]
    print(f"This machine was slower than its devices in at most {100 * missed:.2f} % of a worker's tasks.")
    if missed > _PACE_MISSED_MAX:
        print("It was too busy, so the measured rates are partly its doing. Repeat it when idle.")


def draw(rows: list[Row]) -> Any:
    """Left: rates of every method in virtual time. Right: reached over predicted, everywhere."""
    with plots.style():
        figure = plots.new_figure(11, 4.4)
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        graphs = list(dict.fromkeys(case.graph for case in cases_in(rows, "simulation")))
        colours = dict(zip(METHODS, (plots.ORANGE, plots.SKY, plots.BLUE, plots.GREEN), strict=True))
        for number, (method, title) in enumerate(METHODS.items()):
            cases = [case for case in cases_in(rows, "simulation") if case.method == method]
            places = [graphs.index(case.graph) + 0.2 * (number - 1.5) for case in cases]
            rates = [rate(rows, case, "simulation").median for case in cases]
            left.bar(places, rates, 0.18, color=colours[method], label=title)
        left.set_xticks(range(len(graphs)), [graph.replace(", ", "\n") for graph in graphs], fontsize=8)
        left.set(ylabel="images per second, simulated")
        left.legend(fontsize=8)
        ends = [0.0]
        for where, mark, colour in (("simulation", "o", plots.BLUE), ("ray", "s", plots.RED)):
            cases = cases_in(rows, where)
            predicted = [chosen_rows(rows, case, where)[0]["predicted_per_s"] for case in cases]
            reached = [rate(rows, case, where).median for case in cases]
            right.plot(predicted, reached, mark, color=colour, label=where, markersize=5)
            ends += predicted
        high = 1.05 * max(ends)
        right.plot([0, high], [0, high], color=plots.BLACK, linewidth=0.8)
        right.fill_between([0, high], [0, high / (1 + NEAR)], [0, high / (1 - NEAR)], color="#999999", alpha=0.2)
        right.set(xlabel="predicted images per second", ylabel="reached")
        right.legend(fontsize=8)
    return figure


def benchmark() -> None:
    """Measure every case in virtual time and some on Ray, print, write."""
    assert __doc__ is not None
    chosen = options("planning", __doc__.partition("\n")[0], repetitions=3)
    duration_s = _QUICK_S if chosen.quick else _DURATION_S
    cases, rows = cases_of(chosen), list[Row]()
    real = [case for case in cases if case.topology in ON_RAY and case.method in RAY_METHODS]
    with local_cluster() as cluster:
        for repetition, case in turns(real, chosen):
            rows.append(measure_real(cluster, Run(case, chosen.seed + repetition, duration_s)))
    seeds = range(chosen.seed, chosen.seed + chosen.repetitions)
    rows += side_by_side(
        measure_simulated, [Run(case, seed, duration_s) for case in cases for seed in seeds], "simulating", 2
    )
    summary = summarise(rows)
    show(rows, summary)
    conclude(chosen, summary, rows, [(draw(rows), "planning")])


if __name__ == "__main__":
    main(benchmark)
