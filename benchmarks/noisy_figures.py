"""The figures of benchmarks/noisy_channel.py: accuracy against SNR, against transmissions, and at two cuts."""

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


def of_cuts(rows: Sequence[Row], cuts: Sequence[int]) -> Any:
    """The learned rule, always and never at each cut: accuracy over SNR, and at the highest SNR over transmissions."""
    mine = [row for row in rows if row["fading"] == "none"]
    highest = max(row["snr_db"] for row in mine if row["measure"] == "decision")
    with plots.style():
        figure = plots.new_figure(10.5, 4)
        over_snr, over_share = figure.subplots(1, 2, sharey=True)
        for cut, colour in zip(cuts, (plots.BLUE, plots.ORANGE), strict=True):
            for rule, dashes in (("learned", "solid"), ("always", "dashed"), ("never", "dotted")):
                of_rule = [row for row in mine if (row["cut"], row["rule"]) == (cut, rule)]
                points = [row for row in of_rule if row["measure"] == "decision"]
                at, right = [row["snr_db"] for row in points], [100 * row["accuracy"] for row in points]
                about = {"color": colour, "linestyle": dashes, "label": f"cut {cut}: {rule}"}
                over_snr.plot(at, right, **about)
                if rule != "learned":
                    over_share.axhline(right[-1], **about)
                for row in of_rule:
                    if row["measure"] == "trade-off" and row["snr_db"] == highest:
                        shares, right = [100 * x for x in row["share"]], [100 * x for x in row["accuracy"]]
                        over_share.plot(shares, right, **about)
        over_snr.set(xlabel="SNR (dB)", ylabel="accuracy (%)")
        over_snr.set_title("AWGN", loc="left")
        over_share.set(xlabel="transmitted (%)")
        over_share.set_title(f"AWGN, {highest:g} dB", loc="left")
        over_share.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return figure
