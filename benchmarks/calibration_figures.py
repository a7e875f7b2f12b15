"""The figures of benchmarks/calibration.py: reliability diagrams, decisions beside the published ones, deadlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mdi_exit.analysis import plots
from mdi_exit.analysis.calibrated import Logits
from mdi_exit.analysis.calibrated import reliability as bars_of

Row = dict[str, Any]
COLOURS = {
    "conventional": plots.RED,
    "global": plots.GREEN,
    "per-exit-leaving": plots.ORANGE,
    "per-exit": plots.BLUE,
}
NAMES = {"b_alexnet": "B-AlexNet (overconfident)", "mobilenet_v2": "MobileNetV2 (shipped)"}
_MEASURES = {
    "edge_share": "answered at the edge (%)",
    "edge_accuracy": "right at the edge (%)",
    "outage": "inference outage (%)",
}


def reliability(networks: Sequence[tuple[str, Logits, Mapping[str, Sequence[float]]]]) -> Any:
    """Accuracy over confidence, a row per network, a column per exit; none and a temperature per exit; test images."""
    columns = max(len(test.logits) for _, test, _ in networks)
    with plots.style():
        figure = plots.new_figure(2.5 * columns, 2.9 * len(networks))
        grid = figure.subplots(len(networks), columns, sharex=True, sharey=True, squeeze=False)
        for panels, (name, test, temperatures) in zip(grid, networks, strict=True):
            for k, axes in enumerate(panels):
                if k >= len(test.logits):
                    axes.set_axis_off()
                    continue
                axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle="dashed")
                right = test.prediction[:, k] == test.label
                for kind in ("conventional", "per-exit"):
                    bars = bars_of(test.confidence(temperatures[kind])[:, k], right)
                    points = [(claimed, share) for claimed, share, count in bars if count >= 20]
                    axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=COLOURS[kind], label=kind)
                axes.set(title=f"exit {k + 1}, T = {temperatures['per-exit'][k]:.2f}", xlim=(0, 1), ylim=(0, 1))
                axes.set_xlabel("confidence")
            panels[0].set_ylabel(f"{NAMES[name]}\naccuracy")
            panels[0].legend(fontsize=8)
    return figure


def decisions(rows: Sequence[Row], published: Sequence[Row], edge: Mapping[str, int]) -> Any:
    """Three measures over the target, a column per network, the published one last."""
    with plots.style():
        figure = plots.new_figure(4.0 * (len(edge) + 1), 8.4)
        grid = figure.subplots(len(_MEASURES), len(edge) + 1, sharex=True, sharey="row", squeeze=False)
        for column, (name, branches) in enumerate(edge.items()):
            mine = [r for r in rows if (r["measure"], r["network"], r.get("edge")) == ("decision", name, branches)]
            for axes, measure in zip(grid[:, column], _MEASURES, strict=True):
                for kind, colour in COLOURS.items():
                    points = [(r["target"], r[measure]) for r in mine if r["kind"] == kind and r[measure] is not None]
                    _curve(axes, points, colour, kind)
            grid[0, column].set_title(f"{NAMES[name]}\n{branches} branches at the edge", loc="left")
        for axes, measure in zip(grid[:, -1], _MEASURES, strict=True):
            for kind, colour in COLOURS.items():
                points = [(r["x"], r["y"]) for r in published if (r["quantity"], r["kind"]) == (measure, kind)]
                if points:
                    _curve(axes, points, colour, kind)
        grid[0, -1].set_title("published: MobileNetV2, Caltech-256\n3 branches at the edge", loc="left")
        for axes, label in zip(grid[:, 0], _MEASURES.values(), strict=True):
            axes.set_ylabel(label)
        for axes in grid[1]:
            axes.plot([0.5, 0.95], [50, 95], color="#777777", linewidth=0.8, linestyle="dashed")
        for axes in grid[-1]:
            axes.set_xlabel("target $p_{tar}$")
        grid[-1, 0].legend(fontsize=8)
    return figure


def deadlines(rows: Sequence[Row], published: Sequence[Row], uplinks: Sequence[str]) -> Any:
    """Missed deadlines over the deadline: a row per network with a column per uplink, the published ones beside."""
    names = list(NAMES)
    with plots.style():
        figure = plots.new_figure(3.3 * (len(uplinks) + 1), 3.2 * len(names))
        grid = figure.subplots(len(names), len(uplinks) + 1, sharey=True, squeeze=False)
        for panels, name in zip(grid, names, strict=True):
            mine = [r for r in rows if (r["measure"], r["network"]) == ("deadline", name)]
            for axes, uplink in zip(panels, uplinks, strict=False):
                for kind, colour in COLOURS.items():
                    chosen = [r for r in mine if (r["kind"], r["uplink"]) == (kind, uplink)]
                    _curve(axes, [(1000 * r["deadline_s"], r["missed"]) for r in chosen], colour, kind, marker="")
                axes.set_xscale("log")
                axes.set_xlabel("deadline (ms)")
                axes.set_title(f"{name}, {uplink}, target {mine[0]['target']:g}", loc="left", fontsize=9)
            panels[0].set_ylabel("missed deadline (%)")
            panels[-1].set_axis_off()
        beside = grid[0, -1]
        beside.set_axis_on()
        for kind, colour in COLOURS.items():
            points = [(1000 * r["x"], r["y"]) for r in published if (r["quantity"], r["kind"]) == ("missed", kind)]
            if points:
                _curve(beside, points, colour, kind)
        beside.set_xlim(left=1000)
        beside.set_title("published, Ohio, target 0.8", loc="left", fontsize=9)
        beside.set_xlabel("deadline (ms)")
        grid[0, 0].legend(fontsize=8)
    return figure


def _curve(axes: Any, points: Sequence[tuple[float, float]], colour: str, kind: str, marker: str = "o") -> None:
    """One curve of shares, in per cent."""
    xs, ys = [x for x, _ in points], [100 * y for _, y in points]
    axes.plot(xs, ys, color=colour, label=kind, marker=marker, markersize=3)
