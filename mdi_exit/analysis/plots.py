"""Figures of run reports, each as PNG and SVG.

Drawn straight on a canvas, without pyplot's global state, so that they can be made anywhere, also in tests and threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mdi_exit.report import Report, settled

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000",
)  # fmt: skip
RUN_COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)
_MARKERS = "osD^vP"
_SMOOTH_S = 3.0  # curves are means over so long a window; shorter ones show the dice, not the run
_STYLE: dict[Any, Any] = {  # which keys there are is for matplotlib's version to say
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "mdi_exit",  # the same figure gives the same file
    "svg.fonttype": "none",
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in the house's style; draw within `style()`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style() -> Any:
    """A context in which new axes get the house's style."""
    return matplotlib.rc_context(_STYLE)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg, without the date, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with style():
        figure.savefig(png, dpi=150)
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]


def throughput_accuracy(reports: Mapping[str, Report], folder: Path) -> list[Path]:
    """Accuracy over throughput, a point per run, and beside it who left at which exit.

    `reports` maps what each run is called to its report. The point is what the run arrived at (`report.settled`), with
    the 95 % interval of its accuracy; the faint dots are stretches of the whole run.
    """
    with style():
        figure = new_figure(10.5, 4.4)
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        for (name, report), colour, marker in zip(reports.items(), RUN_COLOURS, _MARKERS, strict=False):
            left.plot(*_stretches(report), marker, color=colour, markersize=4, alpha=0.35, linestyle="none")
            _point(left, report, name, colour, marker)
        left.set(xlabel="throughput (images per second)", ylabel="accuracy of the answers (%)")
        note = f"marks: the run, with 95 % interval; dots: {_SMOOTH_S:.0f} s each"
        left.set_title(f"Accuracy against throughput\n({note})", loc="left", fontsize=10)
        left.set_xlim(left=0)
        left.margins(x=0.15, y=0.15)
        if left.get_legend_handles_labels()[0]:
            left.legend(loc="best")
        _exit_shares(right, reports)
    return save(figure, folder, "throughput-accuracy")


def _point(axes: Axes, report: Report, name: str, colour: str, marker: str) -> None:
    """What the run settled at."""
    arrived_at = settled(report)
    rate, share = arrived_at["throughput_per_s"], arrived_at["accuracy"]
    if share is None or not arrived_at["completed"]:
        return
    error = 196 * math.sqrt(share * (1 - share) / arrived_at["completed"])
    axes.errorbar([rate], [100 * share], yerr=[error], color=colour, capsize=4, zorder=3)
    label = f"{name}: {rate:.0f}/s, {100 * share:.1f} %"
    axes.plot(
        [rate], [100 * share], marker, color=colour, markersize=11, markeredgecolor="white", label=label, zorder=4
    )


def _stretches(report: Report) -> tuple[list[float], list[float]]:
    """Throughput and accuracy (%) of the stretches of _SMOOTH_S of the admission window, one after the other."""
    times, rates, accuracies = _admission(report)
    if len(times) < 2:
        return [], []
    size = max(1, round(_SMOOTH_S / (times[1] - times[0])))
    answers: tuple[list[float], list[float]] = [], []
    for first in range(0, len(times) - size + 1, size):
        within = slice(first, first + size)
        right = sum(rate * (accuracy or 0.0) for rate, accuracy in zip(rates[within], accuracies[within], strict=True))
        if total := sum(rates[within]):
            answers[0].append(total / size)
            answers[1].append(100 * right / total)
    return answers


def _admission(report: Report) -> tuple[list[float], list[float], list[float | None]]:
    """The series' times, throughputs and accuracies while data were admitted."""
    series = report["series"]
    n = sum(time_s < report["duration_s"] for time_s in series["time_s"])
    return series["time_s"][:n], series["throughput_per_s"][:n], series["accuracy"][:n]


def _exit_shares(axes: Axes, reports: Mapping[str, Report]) -> None:
    """A bar per run and exit: how many leave there, and how right they are."""
    exits = len(next(iter(reports.values()))["exits"])
    width = 0.8 / len(reports)
    for number, ((name, report), colour) in enumerate(zip(reports.items(), RUN_COLOURS, strict=False)):
        total = sum(report["exits"]) or 1
        places = [k + 1 + (number - (len(reports) - 1) / 2) * width for k in range(exits)]
        heights = [100 * count / total for count in report["exits"]]
        axes.bar(places, heights, width * 0.94, color=colour, label=name)
        for place, height, accuracy in zip(places, heights, report["exit_accuracy"], strict=True):
            if accuracy is not None:
                axes.text(place, height + 0.6, f"{100 * accuracy:.0f}", ha="center", fontsize=8, color="#333333")
    axes.set(xlabel="exit", ylabel="share of the answers (%)", xticks=range(1, exits + 1))
    axes.set_title("Who left at which exit\n(above the bars: % right)", loc="left", fontsize=10)
    axes.grid(visible=False, axis="x")


def time_series(reports: Mapping[str, Report], folder: Path) -> list[Path]:
    """What each run did over time, a column per run: rates, threshold and accuracy, the source's queues."""
    with style():
        figure = new_figure(1.6 + 4.4 * len(reports), 7.2)
        grid = figure.subplots(3, len(reports), sharex="col", sharey="row", squeeze=False)
        for column, (name, report) in enumerate(reports.items()):
            rates, levels, queues = grid[:, column]
            _rates(rates, report)
            _levels(levels, report)
            _queues(queues, report)
            rates.set_title(name, loc="left")
            queues.set_xlabel("time (s)")
        for axes in grid.flat:  # when all is drawn, so that the shared ends are those of all
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        grid[1, 0].set_ylim(top=104)
        for axes, label in zip(grid[:, 0], ("images per second", "%", "tasks waiting at the source"), strict=True):
            axes.set_ylabel(label)
        for axes in grid[:, -1]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return save(figure, folder, "time-series")


def _rates(axes: Axes, report: Report) -> None:
    series = report["series"]
    times = series["time_s"]
    offered = [1 / gap_s if gap_s else None for gap_s in series["interarrival_s"]]
    axes.plot(times, _numbers(offered), color=ORANGE, label="offered (1/µ)")
    axes.plot(times, _mean(series["throughput_per_s"], times), color=BLUE, label="answered")


def _levels(axes: Axes, report: Report) -> None:
    series = report["series"]
    times = series["time_s"]
    right = [rate * (share or 0.0) for rate, share in zip(series["throughput_per_s"], series["accuracy"], strict=True)]
    means = zip(_mean(right, times), _mean(series["throughput_per_s"], times), strict=True)
    accuracy = [100 * share / all_ if all_ else float("nan") for share, all_ in means]
    threshold = [None if level is None else 100 * level for level in series["threshold"]]
    axes.plot(times, _numbers(threshold), color=ORANGE, label="threshold $T_e$")
    axes.plot(times, accuracy, color=BLUE, label="accuracy")


def _queues(axes: Axes, report: Report) -> None:
    series = report["series"]
    for key, colour, label in (("input_queue", BLUE, "input $I_s$"), ("output_queue", GREEN, "output $O_s$")):
        axes.plot(series["time_s"], _numbers(series[key]), color=colour, label=label)
    bounds = report["experiment"]["admission"]
    for key, label in (("queue_low", "$T_{Q1}$"), ("queue_high", "$T_{Q2}$")):
        if key in bounds:
            dashes = "dashed" if key == "queue_high" else "dotted"
            axes.axhline(bounds[key], color="#777777", linestyle=dashes, linewidth=1, label=label)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _mean(values: Sequence[float], times: Sequence[float]) -> list[float]:
    """The mean of each value and those within the _SMOOTH_S before it."""
    size = max(1, round(_SMOOTH_S / (times[1] - times[0]))) if len(times) > 1 else 1
    return [sum(values[max(0, i + 1 - size) : i + 1]) / min(i + 1, size) for i in range(len(values))]
