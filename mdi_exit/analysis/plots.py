"""Figures of run reports, each as PNG and SVG.

Drawn straight on a canvas, without pyplot's global state, so that they can be made anywhere, also in tests and threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mdi_exit.report import Report, settled, settled_over

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000",
)  # fmt: skip
RUN_COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)
_MARKERS = "osD^vP"
SMOOTH_S = 3.0  # curves are means over so long a window; shorter ones show the dice, not the run
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


def throughput_accuracy(reports: Mapping[str, Report], folder: Path, repeated: bool = False) -> list[Path]:
    """Accuracy over throughput, a point per run, and beside it who left at which exit.

    `reports` maps what each run is called to its report. The point is what the run arrived at (`report.settled`), with
    the 95 % interval of its accuracy; the faint dots are stretches of the whole run. Of one experiment `repeated` with
    other seeds the dots are the seeds, the point their mean.
    """
    over = " or ".join(dict.fromkeys(map(settled_over, reports.values())))
    with style():
        figure = new_figure(10.5, 4.4)
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        if repeated:
            note = f"dots: the seeds, {over}; mark: their mean, lowest and highest"
            _seeds(left, reports)
            _mean_exit_shares(right, reports)
        else:
            note = f"marks: {over}, with 95 % interval; dots: {SMOOTH_S:.0f} s each"
            for (name, report), colour, marker in _looks(reports):
                left.plot(*_stretches(report), marker, color=colour, markersize=4, alpha=0.35, linestyle="none")
                _point(left, report, name, colour, marker)
            _exit_shares(right, reports)
        left.set(xlabel="throughput (images per second)", ylabel="accuracy of the answers (%)")
        left.set_title(f"Accuracy against throughput\n({note})", loc="left", fontsize=10)
        left.margins(x=0.15, y=0.15)
        left.autoscale_view()
        left.set_xlim(left=0, right=1.15 * max(left.get_xlim()[1], 1e-3))
        if left.get_legend_handles_labels()[0]:
            left.legend(loc="best")
        right.set(xlabel="exit", ylabel="share of the answers (%)")
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.set_title("Who left at which exit\n(above the bars: % right)", loc="left", fontsize=10)
        right.grid(visible=False, axis="x")
    return save(figure, folder, "throughput-accuracy")


def _looks(reports: Mapping[str, Report]) -> Iterator[tuple[tuple[str, Report], str, str]]:
    """The runs, each with a colour and a mark."""
    return zip(reports.items(), itertools.cycle(RUN_COLOURS), itertools.cycle(_MARKERS), strict=False)


def _seeds(axes: Axes, reports: Mapping[str, Report]) -> None:
    """What each seed settled at, and their mean."""
    arrived_at = [settled(report) for report in reports.values()]
    known = [(each["throughput_per_s"], 100 * each["accuracy"]) for each in arrived_at if each["accuracy"] is not None]
    if not known:
        return
    rates, shares = zip(*known, strict=True)
    axes.plot(rates, shares, "o", color=BLUE, markersize=5, alpha=0.4, linestyle="none")
    rate, share = fmean(rates), fmean(shares)
    axes.errorbar([rate], [share], xerr=_ends(rates), yerr=_ends(shares), color=BLUE, capsize=4, zorder=3)
    label = f"mean of {len(known)}: {rate:.0f}/s, {share:.1f} %"
    axes.plot([rate], [share], "o", color=BLUE, markersize=11, markeredgecolor="white", label=label, zorder=4)


def _mean_exit_shares(axes: Axes, reports: Mapping[str, Report]) -> None:
    """A bar per exit: how many leave there in the mean over the runs, lowest and highest, and how right they are."""
    for k in range(len(next(iter(reports.values()))["exits"])):
        shares = [100 * report["exits"][k] / (sum(report["exits"]) or 1) for report in reports.values()]
        right = [share for report in reports.values() if (share := report["exit_accuracy"][k]) is not None]
        axes.bar([k + 1], [fmean(shares)], 0.75, color=BLUE)
        axes.errorbar([k + 1], [fmean(shares)], _ends(shares), color=BLACK, capsize=3)
        if right:
            axes.text(k + 1, max(shares) + 0.6, f"{100 * fmean(right):.0f}", ha="center", fontsize=8, color="#333333")


def _point(axes: Axes, report: Report, name: str, colour: str, marker: str) -> None:
    """What the run settled at."""
    arrived_at = settled(report)
    rate, share = arrived_at["throughput_per_s"], arrived_at["accuracy"]
    if share is None or not arrived_at["completed"]:
        return
    low, high = interval(share, arrived_at["completed"])
    ends = [[100 * (share - low)], [100 * (high - share)]]
    axes.errorbar([rate], [100 * share], yerr=ends, color=colour, capsize=4, zorder=3)
    label = f"{name}: {rate:.0f}/s, {100 * share:.1f} %"
    axes.plot(
        [rate], [100 * share], marker, color=colour, markersize=11, markeredgecolor="white", label=label, zorder=4
    )


def interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` (Wilson 1927), which unlike the normal one stays within 0..1."""
    from scipy.stats import binomtest  # takes half a second to import, which only figures should wait for

    found = binomtest(round(share * count), count).proportion_ci(0.95, "wilson")
    return min(float(found.low), share), max(float(found.high), share)  # a share of a report is rounded


def _stretches(report: Report) -> tuple[list[float], list[float]]:
    """Throughput and accuracy (%) of the stretches of SMOOTH_S of the admission window, one after the other."""
    times, rates, accuracies = _admission(report)
    if len(times) < 2:
        return [], []
    size = max(1, round(SMOOTH_S / (times[1] - times[0])))
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
    for number, ((name, report), colour, _) in enumerate(_looks(reports)):
        total = sum(report["exits"]) or 1
        places = [k + 1 + (number - (len(reports) - 1) / 2) * width for k in range(exits)]
        heights = [100 * count / total for count in report["exits"]]
        axes.bar(places, heights, width * 0.94, color=colour, label=name)
        for place, height, accuracy in zip(places, heights, report["exit_accuracy"], strict=True):
            if accuracy is not None:
                axes.text(place, height + 0.6, f"{100 * accuracy:.0f}", ha="center", fontsize=8, color="#333333")


def _ends(values: Sequence[float]) -> list[list[float]]:
    """How far the lowest and the highest are from the mean, as error bars want it: not negative by rounding."""
    mean = fmean(values)
    return [[max(0.0, mean - min(values))], [max(0.0, max(values) - mean)]]
