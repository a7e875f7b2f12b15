"""The figures of benchmarks/noisy_channel.py: accuracy against SNR, accuracy against average transmissions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mdi_exit.analysis import plots

Row = dict[str, Any]
COLOURS = {
    "always": plots.BLACK,
    "never": "#888888",
    "random": plots.YELLOW,
    "confidence": plots.ORANGE,
    "entropy": plots.PINK,
    "SNR-aware": plots.SKY,
    "SNR-aware, mean SNR": plots.RED,
    "learned": plots.BLUE,
    "genie": plots.GREEN,
}
TITLES = {"none": "AWGN", "rayleigh": "Rayleigh block fading"}


def against_snr(rows: Sequence[Row]) -> Any:
    """Accuracy and share transmitted over the mean SNR, a column per kind of fading; every rule tuned for accuracy."""
    with plots.style():
        figure = plots.new_figure(10.5, 7)
        grid = figure.subplots(2, 2, sharex=True, sharey="row")
        for (fading, title), column in zip(TITLES.items(), grid.T, strict=True):
            for rule, colour in COLOURS.items():
                mine = [r for r in rows if (r["measure"], r["fading"], r["rule"]) == ("decision", fading, rule)]
                style = {"color": colour, "label": rule, "marker": "o", "markersize": 3}
                dashes = "dashed" if rule in ("always", "never", "random", "genie") else "solid"
                at = [r["snr_db"] for r in mine]
                column[0].plot(at, [100 * r["accuracy"] for r in mine], linestyle=dashes, **style)
                column[1].plot(at, [100 * r["transmitted"] for r in mine], linestyle=dashes, **style)
            column[0].set_title(title, loc="left")
            column[1].set_xlabel("mean SNR (dB)")
        grid[0, 0].set_ylabel("accuracy (%)")
        grid[1, 0].set_ylabel("transmitted (%)")
        handles, labels = grid[0, 1].get_legend_handles_labels()
        grid[0, 1].legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return figure


def against_transmissions(rows: Sequence[Row]) -> Any:
    """Accuracy over the share transmitted: a panel per SNR and one over all, each rule with its limit moved; AWGN."""
    mine = [row for row in rows if row["measure"] == "trade-off" and row["fading"] == "none"]
    points = [row for row in rows if row["measure"] == "decision" and row["fading"] == "none"]
    panels = [*sorted({row["snr_db"] for row in mine} - {None}), None]
    with plots.style():
        figure = plots.new_figure(12, 6.4)
        grid = figure.subplots(2, -(-len(panels) // 2), sharex=True)
        for axes, snr_db in zip(grid.flat, panels, strict=False):
            for row in mine:
                if row["snr_db"] == snr_db and row["rule"] in COLOURS:
                    at, right = [100 * share for share in row["share"]], [100 * share for share in row["accuracy"]]
                    axes.plot(at, right, color=COLOURS[row["rule"]], label=row["rule"])
            for row in points:
                if row["snr_db"] == snr_db and row["rule"] == "genie":
                    place = (100 * row["transmitted"], 100 * row["accuracy"])
                    axes.plot(*place, "*", color=COLOURS["genie"], markersize=9, label="genie")
            axes.set_title("all SNRs" if snr_db is None else f"{snr_db:g} dB", loc="left")
        for axes in grid[-1]:
            axes.set_xlabel("transmitted (%)")
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy (%)")
        grid[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return figure
