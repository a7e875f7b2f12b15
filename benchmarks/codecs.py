"""What do coded features bring on slow links, and what do they cost? fp32, fp16, int8, and the automatic choice.

Rates are simulated, on links of 5 Mbit/s and 2 ms between devices like a Jetson Nano or an Orin Nano, with the rate
that `fill_queue` finds, exits above 0.8 and none. In the first graph the first device holds the first segment alone, so
that a feature of 24 KB has to travel for whatever does not leave there: `admitted_ratio_5mbit` is the automatic
choice's rate over fp32's on it, with exits, on Jetson Nanos. In the others less travels: cut after the second segment
it is 8 KB; a line of four; and where every device holds the whole network the 3 KB of an image do, which is what the
rules choose then (offloading decides whether an image or a feature travels, the link how a feature is written). The
same on Ray, real frames on held-back links, stands beside it: `admitted_ratio_5mbit_ray`.

Accuracy is that of real inference over the shipped test images, every feature coded and decoded at every cut, as if it
crossed a link after each segment: `accuracy_loss_points` is what the automatic choice (int8 at 5 Mbit/s) loses against
fp32, with exits or without, whichever loses more; a gain is 0. `error_bound_held`: no number was further off than
`codec.error_max` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import simulated
from harness import Options, conclude, main, options, spread, table, turns
from numpy.typing import NDArray

from mdi_exit import codec, compute
from mdi_exit.analysis import plots
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.dataset import ImageDataset
from mdi_exit.report import build_report
from mdi_exit.runtime import Cluster, local_cluster

LINKS = {"bandwidth": "5 Mbit/s", "latency_s": 0.002}
DEVICES = ("jetson-nano", "jetson-orin-nano")
GRAPHS: dict[str, dict[str, Any]] = {
    "cut after 1": {"topology": "2-node", "placement": {"n1": [1], "n2": "2-5"}},
    "cut after 2": {"topology": "2-node", "placement": {"n1": "1-2", "n2": "3-5"}},
    "line of four": {"topology": "line", "placement": {"n1": "1-2", "n2": "2-3", "n3": "3-4", "n4": "4-5"}},
    "whole network each": {"topology": "2-node"},
}
HEADLINE = ("cut after 1", "jetson-nano", 0.8)
WITH, WITHOUT = 0.8, 1.0
_DURATION_S, _QUICK_S = 20.0, 3.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One rate to find."""

    graph: str
    device: str
    threshold: float
    encoding: str
    on_ray: bool = False

    def __str__(self) -> str:
        where = " on Ray" if self.on_ray else ""
        return f"{self.graph}, {self.device}, exits above {self.threshold}, {self.encoding}{where}"


SIMULATED = [
    Case(graph, device, threshold, encoding)
    for graph in GRAPHS
    for device in DEVICES
    for threshold in (WITH, WITHOUT)
    for encoding in codec.CHOICES
]
REAL = [Case(*HEADLINE, encoding, True) for encoding in (codec.FP32, codec.AUTO)]


def experiment_of(case: Case, chosen: Options, repetition: int) -> Experiment:
    """The case as `mdi-exit run` and `simulate` would be given it."""
    settings = {
        **GRAPHS[case.graph],
        "devices": case.device,
        "thresholds": case.threshold,
        "links": {**LINKS, "encoding": case.encoding},
        "duration_s": _QUICK_S if chosen.quick else _DURATION_S,
        "seed": chosen.seed + repetition,
    }
    return load_experiment(None, settings)


def measure(case: Case, chosen: Options, repetition: int, cluster: Cluster | None) -> Row:
    """A run, simulated or real, as a row of results.json."""
    experiment = experiment_of(case, chosen, repetition)
    if cluster is None:
        report = simulated.report_of(experiment)
    else:
        record = cluster.run(experiment)
        report = build_report(experiment, record.card, record.tallies, record.facts, "", "ray")
    moved = [link for link in report["links"].values() if link["tasks"]]
    return {
        "graph": case.graph,
        "device": case.device,
        "threshold": case.threshold,
        "encoding": case.encoding,
        "on_ray": case.on_ray,
        "repetition": repetition,
        "rate_per_s": report["completed"] / (report["duration_s"] + report["drain_s"]),
        "bytes_per_task": sum(link["bytes"] for link in moved) / max(1, sum(link["tasks"] for link in moved)),
        "latency_p50_s": report["latency_s"]["p50"],
        "lost": report["lost"],
    }


# ---- accuracy


def accuracies() -> list[Row]:
    """Accuracy and error with every feature coded at every cut, over the shipped test images, by encoding."""
    experiment = load_experiment()
    prepared = compute.prepare(experiment.model, "onnx")
    runner = compute.open_runner(prepared, range(1, experiment.exits + 1))
    data = ImageDataset.open(experiment.dataset)
    images = np.stack([data.image(index) for index in range(len(data))])
    number = {name: index for index, name in enumerate(prepared.card.model.classes)}
    labels = np.array([number[data.classes[label]] for label in data.labels])
    rows = []
    for encoding in codec.ENCODINGS:
        carried: NDArray[Any] = images
        confidences, predictions, held = [], [], True
        for k in range(1, experiment.exits + 1):
            readings, feature = runner.run(k, carried)
            confidences.append([reading.confidence for reading in readings])
            predictions.append([reading.prediction for reading in readings])
            if feature is None:
                break
            carried = feature if encoding == codec.FP32 else np.stack([_there(encoding, one) for one in feature])
            bounds = np.array([codec.error_max(encoding, one) for one in feature])
            held &= bool((np.abs(carried - feature).max(axis=(1, 2, 3)) <= bounds).all())
        for threshold in (WITH, WITHOUT):
            leaves = np.array(confidences) > threshold
            leaves[-1] = True
            answered = np.array(predictions)[leaves.argmax(axis=0), np.arange(len(labels))]
            accuracy = float((answered == labels).mean())
            rows.append({"encoding": encoding, "threshold": threshold, "accuracy": accuracy, "bound_held": float(held)})
    return rows


def _there(encoding: str, feature: NDArray[np.float32]) -> NDArray[np.float32]:
    return codec.decode(encoding, feature.shape, codec.encode(encoding, feature))


# ---- what it amounts to


def ratio(rows: list[Row], encoding: str, **which: Any) -> float:
    """The median rate with an encoding over that with fp32."""
    mine, plain = (
        spread([row["rate_per_s"] for row in simulated.chosen_rows(rows, encoding=written, **which)]).median
        for written in (encoding, codec.FP32)
    )
    return mine / max(plain, 1e-9)


def summarise(rows: list[Row], measured: list[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    graph, device, threshold = HEADLINE
    headline = {"graph": graph, "device": device, "threshold": threshold}
    shares = {(row["encoding"], row["threshold"]): row["accuracy"] for row in measured}
    loss = {e: max(shares[codec.FP32, t] - shares[e, t] for t in (WITH, WITHOUT)) for e in codec.ENCODINGS}
    chosen = load_experiment(None, {"topology": "2-node", "links": {**LINKS, "encoding": codec.AUTO}})
    auto = chosen.topology.links[0].shape.chosen(24576)
    summary = {
        "admitted_ratio_5mbit": ratio(rows, codec.AUTO, on_ray=False, **headline),
        "accuracy_loss_points": max(0.0, 100 * loss[auto]),
        "accuracy_loss_points_fp16": max(0.0, 100 * loss[codec.FP16]),
        "accuracy_loss_points_int8": max(0.0, 100 * loss[codec.INT8]),
        "error_bound_held": min(row["bound_held"] for row in measured),
        "lost": float(sum(row["lost"] for row in rows)),
    }
    if any(row["on_ray"] for row in rows):
        summary["admitted_ratio_5mbit_ray"] = ratio(rows, codec.AUTO, on_ray=True, **headline)
    for name in GRAPHS:
        ratios = [
            ratio(rows, codec.AUTO, on_ray=False, graph=name, device=device, threshold=threshold)
            for device in DEVICES
            for threshold in (WITH, WITHOUT)
        ]
        summary[f"ratio_{name.replace(' ', '_')}_least"] = min(ratios)
        summary[f"ratio_{name.replace(' ', '_')}_most"] = max(ratios)
    return summary


def show(rows: list[Row], measured: list[Row], summary: dict[str, float]) -> None:
    """Print the tables."""
    lines = []
    for on_ray in (False, True):
        for name in GRAPHS:
            for device in DEVICES:
                for threshold in (WITH, WITHOUT):
                    which = {"graph": name, "device": device, "threshold": threshold, "on_ray": on_ray}
                    mine = {e: simulated.chosen_rows(rows, encoding=e, **which) for e in codec.CHOICES}
                    if not mine[codec.FP32]:
                        continue
                    rates = [str(spread([row["rate_per_s"] for row in mine[e]])) if mine[e] else "" for e in mine]
                    lines.append(
                        [
                            f"{name}{', Ray' if on_ray else ''}",
                            device,
                            f"above {threshold}" if threshold < 1 else "none",
                            *rates,
                            f"{ratio(rows, codec.AUTO, **which):.2f}",
                        ]
                    )
    table(["5 Mbit/s", "devices", "exits", *(f"{e}, images/s" for e in codec.CHOICES), "auto/fp32"], lines)
    points = {(row["encoding"], row["threshold"]): f"{100 * row['accuracy']:.1f} %" for row in measured}
    table(
        ["coded at every cut", "accuracy, exits above 0.8", "accuracy, no exits"],
        [[e, points[e, WITH], points[e, WITHOUT]] for e in codec.ENCODINGS],
    )
    held = "held" if summary["error_bound_held"] else "BROKEN"
    print(f"The stated bound on each number's error: {held}.")


def draw(rows: list[Row]) -> Any:
    """Bars of the simulated rates by encoding."""
    with plots.style():
        figure = plots.new_figure(8.0, 4.4)
        axes = figure.subplots()
        names = [(name, threshold) for name in GRAPHS for threshold in (WITH, WITHOUT)]
        for number, (encoding, colour) in enumerate(
            zip(codec.ENCODINGS, (plots.ORANGE, "#888888", plots.BLUE), strict=True)
        ):
            heights = []
            for name, threshold in names:
                which = {"graph": name, "threshold": threshold, "device": DEVICES[0], "on_ray": False}
                mine = simulated.chosen_rows(rows, encoding=encoding, **which)
                heights.append(spread([row["rate_per_s"] for row in mine]).median)
            axes.bar(
                [at + 0.27 * (number - 1) for at in range(len(names))], heights, 0.26, color=colour, label=encoding
            )
        labels = [f"{name}\n{'exits above 0.8' if threshold < 1 else 'no exits'}" for name, threshold in names]
        axes.set_xticks(range(len(names)), labels, fontsize=7)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("images per second")
        axes.set_title("Devices like a Jetson Nano, links of 5 Mbit/s: how features are written", loc="left")
        axes.legend()
    return figure


def benchmark() -> None:
    """Measure every case, print, write."""
    assert __doc__ is not None
    chosen = options("codecs", __doc__.partition("\n")[0], repetitions=3)
    measured = accuracies()
    rows = [measure(case, chosen, repetition, None) for repetition, case in turns(SIMULATED, chosen)]
    with local_cluster() as cluster:
        rows += [measure(case, chosen, repetition, cluster) for repetition, case in turns(REAL, chosen)]
    summary = summarise(rows, measured)
    show(rows, measured, summary)
    conclude(chosen, summary, [*rows, *measured], [(draw(rows), "codecs")])


if __name__ == "__main__":
    main(benchmark)
