"""The figure of what runs did over time: rates, threshold and accuracy, latency, queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from mdi_exit.analysis.plots import BLUE, GREEN, ORANGE, SMOOTH_S, new_figure, save, style
from mdi_exit.policies import OWN_THRESHOLDS
from mdi_exit.report import Report

_ACROSS = 2  # runs side by side
_FAINT = 0.4  # of a line that is one of many


def time_series(reports: Mapping[str, Report], folder: Path, repeated: bool = False) -> list[Path]:
    """What each run did over time, a column per run: rates, threshold and accuracy, latency, the source's queues.

    Two runs are side by side, further ones below. An experiment `repeated` with other seeds has one column, in which
    each seed is a faint line.
    """
    panels = {"images per second": _rates, "%": _levels, "latency (ms)": _latencies, "tasks at the source": _queues}
    columns = {f"{len(reports)} seeds": [*reports.values()]} if repeated else {n: [r] for n, r in reports.items()}
    names = list(columns)
    blocks = [names[first : first + _ACROSS] for first in range(0, len(names), _ACROSS)]
    with style():
        figure = new_figure(1.6 + 4.4 * len(blocks[0]), (9.2 if len(blocks) == 1 else 7.6) * len(blocks))
        parts = figure.subfigures(len(blocks), 1, squeeze=False)[:, 0]
        grids = []
        for part, block in zip(parts, blocks, strict=True):
            grid = part.subplots(len(panels), len(blocks[0]), sharex="col", sharey="row", squeeze=False)
            grids.append(grid)
            for column, name in zip(grid.T, block, strict=False):
                _draw_run(column, name, columns[name], tuple(panels.values()), _FAINT if repeated else None)
            for axes, label in zip(grid[:, 0], panels, strict=True):
                axes.set_ylabel(label)
            for axes in grid.T[len(block) :].flat:
                axes.set_axis_off()
        _same_ends(grids)
    return save(figure, folder, "time-series")


def _draw_run(column: Sequence[Axes], name: str, runs: Sequence[Report], panels: Sequence[Any], alpha: Any) -> None:
    """A run's panels, one below the other, or those of several seeds of it in one."""
    for axes, draw in zip(column, panels, strict=True):
        for report in runs:
            draw(axes, report)
        for line in axes.get_lines():
            line.set_alpha(alpha)
    column[0].set_title(name, loc="left")
    column[-1].set_xlabel("time (s)")


def _same_ends(grids: Sequence[Any]) -> None:
    """Each panel from 0, as high as the highest of its kind; beside the last column what the lines are."""
    for number, rows in enumerate(zip(*grids, strict=True)):
        shown = [[axes for axes in row if axes.axison] for row in rows]
        every = [axes for row in shown for axes in row]
        top = 104.0 if number == 1 else max(1.0, *(axes.get_ylim()[1] for axes in every))
        for axes in every:
            axes.set(xlim=(0, axes.get_xlim()[1]), ylim=(0, top))
        for row in shown:
            lines = {str(line.get_label()): line for line in row[-1].get_lines()}  # one entry stands for all seeds
            row[-1].legend(lines.values(), lines.keys(), loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)


def _rates(axes: Axes, report: Report) -> None:
    series = report["series"]
    times = series["time_s"]
    if "offered_per_s" in series:  # reports of before 2026-11 do not say
        axes.plot(times, _mean(_numbers(series["offered_per_s"]), times), color=ORANGE, label="offered")
    axes.plot(times, _mean(series["throughput_per_s"], times), color=BLUE, label="answered")


def _levels(axes: Axes, report: Report) -> None:
    series = report["series"]
    if report["experiment"].get("exit", {}).get("rule") not in OWN_THRESHOLDS:
        threshold = [None if level is None else 100 * level for level in series["threshold"]]
        axes.plot(series["time_s"], _numbers(threshold), color=ORANGE, label="threshold $T_e$")
    axes.plot(series["time_s"], _per_answer(report, "accuracy", 100), color=BLUE, label="accuracy")


def _latencies(axes: Axes, report: Report) -> None:
    series, admission = report["series"], report["experiment"]["admission"]
    if "latency_s" in series:
        axes.plot(series["time_s"], _per_answer(report, "latency_s", 1000), color=BLUE, label="mean")
    if "target_latency_s" in admission:
        target_ms = 1000 * admission["target_latency_s"]
        axes.axhline(target_ms, color="#777777", linestyle="dashed", linewidth=1, label="target")


def _queues(axes: Axes, report: Report) -> None:
    """Lines may lie on the axis, or on one another: neither is cut off there, and the second one lets the first be
    seen."""
    series = report["series"]
    looks = (("input_queue", BLUE, "solid", "input $I_s$"), ("output_queue", GREEN, (0, (4, 2)), "output $O_s$"))
    for key, colour, dashes, label in looks:
        axes.plot(
            series["time_s"],
            _numbers(series[key]),
            color=colour,
            linestyle=dashes,
            label=label,
            clip_on=False,
            zorder=3,
        )
    bounds = report["experiment"]["admission"]
    for key, label in (("queue_low", "$T_{Q1}$"), ("queue_high", "$T_{Q2}$")):
        if key in bounds:
            dashed = "dashed" if key == "queue_high" else "dotted"
            axes.axhline(bounds[key], color="#777777", linestyle=dashed, linewidth=1, label=label)


def _per_answer(report: Report, key: str, scale: float) -> list[float]:
    """The mean over answers of a series of means, `scale` times, each over the SMOOTH_S before it."""
    series = report["series"]
    answers, times = series["throughput_per_s"], series["time_s"]
    sums = [rate * (value or 0.0) for rate, value in zip(answers, series[key], strict=True)]
    means = zip(_mean(sums, times), _mean(answers, times), strict=True)
    return [scale * part / all_ if all_ else float("nan") for part, all_ in means]


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _mean(values: Sequence[float], times: Sequence[float]) -> list[float]:
    """The mean of each value and those within the SMOOTH_S before it."""
    size = max(1, round(SMOOTH_S / (times[1] - times[0]))) if len(times) > 1 else 1
    return [sum(values[max(0, i + 1 - size) : i + 1]) / min(i + 1, size) for i in range(len(values))]
