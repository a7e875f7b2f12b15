"""Draw a topology, as text and as a picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mdi_exit.shaping import Shape
from mdi_exit.topology import Topology

_LABEL_AT = 0.38  # of the way from a link's first worker to its second
_WIDTH = 56  # columns of a text drawing


def as_text(topology: Topology) -> str:
    """A drawing in characters; the source carries a star, an arrowhead says which way a one-way link leads."""
    places = topology.layout()
    flat = len({y for _, y in places.values()}) == 1
    height = 1 if flat else 2 * math.ceil(math.sqrt(len(places))) + 5
    labels = {name: f"[{name}*]" if name == topology.source else f"[{name}]" for name in places}
    margin = max(map(len, labels.values())) // 2
    cells = {name: (margin + round(x * _WIDTH), round((1 - y) * (height - 1))) for name, (x, y) in places.items()}
    canvas = [[" "] * (_WIDTH + 2 * margin + 2) for _ in range(height)]
    for link in topology.links:
        line = list(_line(cells[link.a], cells[link.b]))
        for (x, y), (next_x, next_y) in itertools.pairwise(line):
            canvas[y][x] = _stroke(next_x - x, next_y - y)
    for link in topology.links:  # after every line, so that none runs over an arrowhead
        if link.one_way:
            line = list(_line(cells[link.a], cells[link.b]))
            x, y = line[len(line) * 2 // 3]
            canvas[y][x] = _arrowhead(line[-1][0] - line[0][0], line[-1][1] - line[0][1])
    for name, (x, y) in cells.items():
        start = x - len(labels[name]) // 2
        canvas[y][start : start + len(labels[name])] = labels[name]
    return "\n".join("".join(row).rstrip() for row in canvas)


def _line(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The cells from start to end, one per step along the longer axis."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for step in range(steps + 1):
        share = step / steps
        yield round(start[0] + share * (end[0] - start[0])), round(start[1] + share * (end[1] - start[1]))


def _stroke(dx: int, dy: int) -> str:
    if dy == 0:
        return "-"
    if dx == 0:
        return "|"
    return "\\" if dx * dy > 0 else "/"


def _arrowhead(dx: int, dy: int) -> str:
    if abs(dx) >= 2 * abs(dy):  # a character is about twice as high as wide
        return ">" if dx > 0 else "<"
    return "v" if dy > 0 else "^"


def as_picture(
    topology: Topology,
    path: Path,
    captions: Mapping[str, str] | None = None,
    loads: Mapping[str, float] | None = None,
) -> None:
    """Write a PNG: the source filled dark, links labelled with what shapes them.

    With `captions` there is a line below each worker. With `loads` (0..1, by worker, and by way as "a->b") workers are
    the redder and links the thicker the busier they are; the source has a thick rim then.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = topology.layout()
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ground = {"facecolor": "w", "edgecolor": "none", "pad": 1}
    for link in topology.links:
        arrow: dict[str, Any] = {
            "arrowstyle": "-|>" if link.one_way else "-",
            "color": "0.45",
            "shrinkA": 18,
            "shrinkB": 18,
        }
        if loads is not None:
            busy = max(loads.get(f"{link.a}->{link.b}", 0.0), loads.get(f"{link.b}->{link.a}", 0.0))
            arrow |= {"lw": 0.8 + 5 * busy, "color": _heat(busy)}
        axes.annotate("", xy=places[link.b], xytext=places[link.a], arrowprops=arrow)
        if shape := shaping_text(link.shape):
            (ax, ay), (bx, by) = places[link.a], places[link.b]
            # Not in the middle, where diagonals cross and their labels would lie on each other.
            x, y = ax + _LABEL_AT * (bx - ax), ay + _LABEL_AT * (by - ay)
            axes.text(x, y, shape, ha="center", va="center", fontsize=7, zorder=4, bbox=ground)  # over every link
    for name, (x, y) in places.items():
        source = name == topology.source
        dark, rim = source and loads is None, 3 if source and loads is not None else 1
        fill: Any = ("#1f4e79" if source else "#cfe2f3") if loads is None else _heat(loads.get(name, 0.0))
        axes.scatter([x], [y], s=900, c=[fill], edgecolors="#1f4e79", linewidths=rim, zorder=2)
        axes.text(x, y, name, ha="center", va="center", fontsize=9, color="w" if dark else "k", zorder=3)
        if captions is not None:
            below = y <= 0.5 or len(places) < 3  # outwards, where no link leads
            where = (x, y - 0.08, "top") if below else (x, y + 0.08, "bottom")
            text = captions.get(name, "").replace(", ", "\n", 1)
            axes.text(*where[:2], text, ha="center", va=where[2], fontsize=8, zorder=4, bbox=ground)
    axes.set_title(f"{topology.name}: source {topology.source}" if len(places) > 1 else topology.name)
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(-0.15, 1.15)
    axes.set_axis_off()
    figure.savefig(path, dpi=120)


def _heat(load: float) -> tuple[float, float, float]:
    """Pale blue for idle, red for busy."""
    pale, red = (0.81, 0.89, 0.95), (0.90, 0.35, 0.25)
    share = min(max(load, 0.0), 1.0)
    return (
        pale[0] + share * (red[0] - pale[0]),
        pale[1] + share * (red[1] - pale[1]),
        pale[2] + share * (red[2] - pale[2]),
    )


def shaping_text(shape: Shape) -> str:
    """What shapes a link, in a few words; empty when nothing does."""
    parts = []
    if shape.mean_bps is not None:
        varying = "on average " if shape.bandwidth_trace else ""
        parts.append(f"{varying}{shape.mean_bps / 1e6:g} Mbit/s")
    if shape.channel is not None:
        wanting = "" if parts else ", its bandwidth left to the experiment's links"
        parts.append(f"on channel {shape.channel}{wanting}")
    if shape.latency_s:
        parts.append(f"{shape.latency_s * 1e3:g} ms")
    if shape.snr_db is not None:
        parts.append(f"{shape.snr_db:g} dB{', fading' if shape.fading != 'none' else ''}")
    if shape.encoding != Shape().encoding:
        parts.append(f"features {shape.encoding}")
    if shape.loss:
        parts.append(f"{shape.loss:.2%} lost")
    return ", ".join(parts)
