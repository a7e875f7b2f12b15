"""Figures of the training commands: curves over the epochs, reliability diagrams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mdi_exit.analysis.calibrated import reliability
from mdi_exit.softmax import softmax


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def plot_history(history: list[dict[str, Any]], path: Path) -> None:
    """Draw loss and each exit's validation accuracy over the epochs."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, shares = figure.subplots(1, 2)
    epochs = [entry["epoch"] for entry in history]
    losses.plot(epochs, [entry["loss"] for entry in history], color="black", marker=".")  # one epoch is a point
    losses.set(xlabel="epoch", ylabel="training loss, all exits")
    for k, accuracy in enumerate(zip(*(entry["validation_accuracy"] for entry in history), strict=True), start=1):
        shares.plot(epochs, [100 * share for share in accuracy], label=f"exit {k}", marker=".")
    shares.set(xlabel="epoch", ylabel="validation accuracy (%)")
    shares.legend()
    _write(figure, path)


def plot_reliability(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperatures: tuple[float, ...], path: Path
) -> None:
    """Draw accuracy over confidence for each exit, with temperature 1 and with those fitted to these very images."""
    exits = len(temperatures)
    figure = Figure(figsize=(2.6 * exits, 3.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, exits, sharey=True))
    for k, panel in enumerate(panels):
        correct = logits[k].argmax(axis=1) == labels
        panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="dashed")
        for temperature, name in ((1.0, "before"), (temperatures[k], "after, fitted to these")):
            confidence = softmax(logits[k], temperature).max(axis=1)
            means = [(claimed, right) for claimed, right, _ in reliability(confidence, correct)]
            panel.plot(*zip(*means, strict=True), marker="o", markersize=3, label=name)
        panel.set(xlabel="confidence", title=f"exit {k + 1}, T = {temperatures[k]:.2f}", xlim=(0, 1), ylim=(0, 1))
    panels[0].set_ylabel("accuracy")
    panels[0].legend()
    _write(figure, path)
