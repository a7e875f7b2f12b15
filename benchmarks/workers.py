"""Do more workers help, and do early exits? The rate that Algorithm 3 finds, at equal thresholds.

Real runs on Ray: local, 2-node, 3-node-mesh and 5-node-mesh, each worker paced like a Jetson Nano, links of 20 Mbit/s;
with early exits (threshold 0.8) and without (threshold 1). The rate of a run is all its answers over the time from the
opening of admission to the last answer, so that no backlog can flatter it.

Guard: devices cannot work faster than they are. N devices that compute on average the fraction f of the network per
image can answer at most N / (f * T) images per second, T being the device's time for all of it. A rate above that
means that something is counted wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from harness import Options, Spread, conclude, main, options, spread, table, turns

from mdi_exit import assembly
from mdi_exit.analysis import plots
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.models.card import Card
from mdi_exit.report import build_report
from mdi_exit.runtime import Cluster, local_cluster

TOPOLOGIES = ("local", "2-node", "3-node-mesh", "5-node-mesh")
WITH, WITHOUT = 0.8, 1.0  # thresholds; nothing is more confident than 1, so nothing leaves early
_DURATION_S, _QUICK_S = 20.0, 3.0
_START_SHARE = 0.9  # admission starts at this share of what the devices can do without exits, so that it settles soon
_TOLERANCE = 1.02  # of the guard: the devices' times are drawn, 20 % around their mean
_PACE_MISSED_MAX = 0.01

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure."""

    topology: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.topology}, {'with' if self.threshold < 1 else 'without'} exits"

    @property
    def name(self) -> str:
        """Its name within names of the summary."""
        return f"{self.topology.replace('-', '_')}_{'exits' if self.threshold < 1 else 'full'}"

    def median(self, rows: list[Row], key: str) -> Spread:
        """One of this case's figures over its repetitions."""
        mine = [row for row in rows if (row["topology"], row["threshold"]) == (self.topology, self.threshold)]
        return spread([row[key] for row in mine])


CASES = [Case(topology, threshold) for topology in TOPOLOGIES for threshold in (WITH, WITHOUT)]


def measure(cluster: Cluster, case: Case, repetition: int, chosen: Options) -> Row:
    """One run, as a row of results.json."""
    settings: dict[str, Any] = {
        "topology": case.topology,
        "thresholds": case.threshold,
        "seed": chosen.seed + repetition,
        "duration_s": _QUICK_S if chosen.quick else _DURATION_S,
        "admission.period_s": 0.25,
    }
    experiment = load_experiment("find-rate", settings)
    card = assembly.load_card(experiment)
    times_s = [_device_s(experiment, card, worker) for worker in experiment.topology.workers]
    whole_per_s = sum(1 / sum(each) for each in times_s)  # what the devices can do together without exits
    settings["admission.first_interarrival_s"] = 1 / (_START_SHARE * whole_per_s)
    experiment = load_experiment("find-rate", settings)
    record = cluster.run(experiment)
    report = build_report(experiment, record.card, record.tallies, record.facts, "", "ray")
    fraction = _fraction(report["exits"], times_s[0])
    return {
        "topology": case.topology,
        "threshold": case.threshold,
        "workers": len(times_s),
        "repetition": repetition,
        "rate_per_s": report["completed"] / (report["duration_s"] + report["drain_s"]),
        "accuracy": report["accuracy"] or 0.0,
        "exits": report["exits"],
        "fraction_computed": fraction,
        "possible_per_s": whole_per_s / fraction,
        "utilization": sum(row["utilization"] or 0.0 for row in report["workers"].values()) / len(times_s),
        "latency_p50_s": report["latency_s"]["p50"],
        "lost": report["lost"],
        "pace_missed": max(facts.pace_missed or 0.0 for facts in record.facts.values()),
        "start_s": record.phases_s["start"],
    }


def _device_s(experiment: Experiment, card: Card, worker: str) -> tuple[float, ...]:
    """How long the worker's device takes for each segment."""
    profile = experiment.devices[worker]
    assert profile is not None, "find-rate paces every worker"
    return profile.seconds(card.model.architecture, card.model.image_size)


def _fraction(exits: list[int], times_s: tuple[float, ...]) -> float:
    """The mean share of the whole network's time that an image took, by where the images left."""
    took_s = [sum(times_s[:k]) for k in range(1, len(exits) + 1)]
    spent_s = sum(count * s for count, s in zip(exits, took_s, strict=True))
    return spent_s / (sum(exits) * took_s[-1]) if any(exits) else 1.0


def summarise(rows: list[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    rate = {case: case.median(rows, "rate_per_s").median for case in CASES}
    summary = {f"rate_{case.name}_per_s": rate[case] for case in CASES}
    summary |= {f"accuracy_{case.name}": case.median(rows, "accuracy").median for case in CASES}
    for kind, threshold in (("exits", WITH), ("full", WITHOUT)):
        cases = [case for case in CASES if case.threshold == threshold]
        rates = [rate[case] for case in cases]
        summary[f"grows_with_workers_{kind}"] = float(all(a < b for a, b in pairwise(rates)))
        summary |= {f"speedup_{case.name}": rate[case] / max(rates[0], 1e-9) for case in cases}
    for topology in TOPOLOGIES:
        gain = rate[Case(topology, WITH)] / max(rate[Case(topology, WITHOUT)], 1e-9)
        summary[f"gain_of_exits_{topology.replace('-', '_')}"] = gain
    summary["guard_worst"] = max(row["rate_per_s"] / row["possible_per_s"] for row in rows)
    summary["guard_held"] = float(summary["guard_worst"] <= _TOLERANCE)
    summary["pace_missed_worst"] = max(row["pace_missed"] for row in rows)
    summary["lost"] = float(sum(row["lost"] for row in rows))
    return summary


def show(rows: list[Row], summary: dict[str, float]) -> None:
    """Print the table, and what it means."""
    lines = []
    for case in CASES:
        lines.append(
            [
                case.topology,
                f"above {case.threshold:.1f}" if case.threshold < 1 else "none",
                str(case.median(rows, "rate_per_s")),
                f"{case.median(rows, 'possible_per_s').median:.1f}",
                f"{summary[f'speedup_{case.name}']:.2f}",
                f"{100 * case.median(rows, 'utilization').median:.0f} %",
                f"{100 * summary[f'accuracy_{case.name}']:.1f} %",
                f"{1000 * case.median(rows, 'latency_p50_s').median:.0f} ms",
            ]
        )
    table(["topology", "exits", "images/s", "at most", "speed-up", "busy", "accuracy", "latency p50"], lines)
    print("at most: the devices' speeds over the mean share of the network that was computed per image.")
    held = "held" if summary["guard_held"] else "BROKEN, so something is counted wrongly"
    print(f"Guard: no rate above what the devices can do: {held}; the highest is {summary['guard_worst']:.2f} of it.")
    missed = summary["pace_missed_worst"]
    verdict = "the rates are somewhat too low" if missed > _PACE_MISSED_MAX else "it kept the devices' pace"
    print(f"This machine was slower than its device in at most {100 * missed:.2f} % of a worker's tasks: {verdict}.")


def draw(rows: list[Row]) -> Any:
    """Bars of the rates, with exits and without, and what the devices could do at most."""
    with plots.style():
        figure = plots.new_figure(7.2, 4.4)
        axes = figure.subplots()
        for side, threshold, colour in ((-0.2, WITH, plots.BLUE), (0.2, WITHOUT, plots.ORANGE)):
            cases = [case for case in CASES if case.threshold == threshold]
            rates = [case.median(rows, "rate_per_s") for case in cases]
            most = [case.median(rows, "possible_per_s").median for case in cases]
            places = [number + side for number in range(len(cases))]
            heights = [rate.median for rate in rates]
            ends = [[rate.median - rate.low for rate in rates], [rate.high - rate.median for rate in rates]]
            label = f"exits above {threshold:.1f}" if threshold < 1 else "no early exits"
            axes.bar(places, heights, 0.38, color=colour, label=label)
            if rates[0].repetitions > 1:
                axes.errorbar(places, heights, yerr=ends, fmt="none", color="black", capsize=3)
            bound = "what the devices can do at most" if side > 0 else None
            axes.plot(places, most, "_", color="#444444", markersize=24, label=bound)
            for place, height in zip(places, heights, strict=True):
                axes.text(place, height / 2, f"{height:.0f}", ha="center", va="center", color="white")
        axes.set_xticks(range(len(TOPOLOGIES)), TOPOLOGIES)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("images per second")
        axes.set_title("Rate at equal thresholds: workers like a Jetson Nano, links of 20 Mbit/s", loc="left")
        axes.legend(loc="upper left")
    return figure


def benchmark() -> None:
    """Measure every case, print, write."""
    assert __doc__ is not None
    chosen = options("workers", __doc__.partition("\n")[0], repetitions=3)
    with local_cluster() as cluster:
        rows = [measure(cluster, case, repetition, chosen) for repetition, case in turns(CASES, chosen)]
    summary = summarise(rows)
    show(rows, summary)
    conclude(chosen, summary, rows, [(draw(rows), "workers")])


if __name__ == "__main__":
    main(benchmark)
