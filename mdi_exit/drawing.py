"""Draw a topology, as text and as a picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from mdi_exit.shaping import Shape
from mdi_exit.topology import Topology

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


def as_picture(topology: Topology, path: Path) -> None:
    """Write a PNG: the source filled dark, links labelled with what shapes them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = topology.layout()
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for link in topology.links:
        arrow = {"arrowstyle": "-|>" if link.one_way else "-", "color": "0.45", "shrinkA": 18, "shrinkB": 18}
        axes.annotate("", xy=places[link.b], xytext=places[link.a], arrowprops=arrow)
        if shape := shaping_text(link.shape):
            (ax, ay), (bx, by) = places[link.a], places[link.b]
            axes.text((ax + bx) / 2, (ay + by) / 2, shape, ha="center", va="center", fontsize=7, backgroundcolor="w")
    for name, (x, y) in places.items():
        source = name == topology.source
        axes.scatter([x], [y], s=900, c="#1f4e79" if source else "#cfe2f3", edgecolors="#1f4e79", zorder=2)
        axes.text(x, y, name, ha="center", va="center", fontsize=9, color="w" if source else "k", zorder=3)
    axes.set_title(f"{topology.name}: source {topology.source}" if len(places) > 1 else topology.name)
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(-0.15, 1.15)
    axes.set_axis_off()
    figure.savefig(path, dpi=120)


def shaping_text(shape: Shape) -> str:
    """What shapes a link, in a few words; empty when nothing does."""
    parts = []
    if shape.mean_bps is not None:
        varying = "on average " if shape.bandwidth_trace else ""
        parts.append(f"{varying}{shape.mean_bps / 1e6:g} Mbit/s")
    if shape.channel is not None:
        parts.append(f"on channel {shape.channel}")
    if shape.latency_s:
        parts.append(f"{shape.latency_s * 1e3:g} ms")
    if shape.loss:
        parts.append(f"{shape.loss:.2%} lost")
    return ", ".join(parts)
