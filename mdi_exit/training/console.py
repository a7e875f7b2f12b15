"""What the training commands share: reading data with a progress bar, the device, the machine and command in words."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mdi_exit.dataset import ImageDataset
from mdi_exit.errors import UserError
from mdi_exit.models.card import Card


def progress_bar() -> Progress:
    """A bar with the time left, on standard error so that results can be piped."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def load_arrays(
    source: str, image_size: int, part: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Decode a whole data set, with progress: (uint8 (N, 3, H, W), labels, class names)."""
    dataset = ImageDataset.open(source, image_size, part)
    with progress_bar() as bar:
        task = bar.add_task(f"reading {Path(source).name}", total=len(dataset))
        images, labels = dataset.arrays(lambda done: bar.update(task, completed=done))
    return images, labels, dataset.classes


def require_classes(card: Card, classes: tuple[str, ...], source: str) -> None:
    """Raise UserError unless the data set has the very classes that the checkpoint tells apart."""
    if classes != card.model.classes:
        raise UserError(
            f"{source}: its classes are {', '.join(classes[:12])}; the checkpoint's are "
            f"{', '.join(card.model.classes[:12])}, and they have to be the same"
        )


def prepare_device(name: str, threads: int) -> str:
    """Set the number of processor threads (0 leaves it) and resolve "auto" to the accelerator where there is one."""
    if threads:
        torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not available):
        raise UserError(f"--device {name}: allowed here are auto, cpu{', cuda' if available else ''}")
    return "cuda" if name != "cpu" and available else "cpu"


def machine_in_words(device: str) -> str:
    """Say what a figure was made on."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), no accelerator"


def warn(words: str) -> None:
    """Say in a line what the user may have missed; standard output is for results."""
    print(f"mdi-exit: warning: {words}", file=sys.stderr)


def show_next(*commands: Sequence[object]) -> None:
    """Say which command to type next, or which ones to choose from."""
    for number, words in enumerate(commands):
        print(f"{'  or' if number else 'Next'}: mdi-exit {shlex.join(map(str, words))}")


def run_command(checkpoint: Path | str, data: str) -> list[object]:
    """The words of a run of that network on those images, whatever the sizes of either."""
    settings = (f"model={checkpoint}", f"dataset={data}", "resize=true")
    return ["run", "own-data", *(word for setting in settings for word in ("--set", setting))]


def print_card(card: Card) -> None:
    """Print a row per exit and set of images."""
    table = Table(title=f"{card.model.architecture}, {card.epochs} epochs")
    for heading in ("images", "exit", "accuracy", "ECE before", "ECE after", "temperature"):
        table.add_column(heading)
    for figures in (card.validation, card.test):
        if figures is None:
            continue
        for k in range(card.model.exits):
            shares = (figures.accuracy[k], figures.ece_before[k], figures.ece_after[k])
            cells = [f"{100 * share:.2f} %" for share in shares]
            table.add_row("" if k else figures.data, str(k + 1), *cells, f"{card.temperatures[k]:.3f}")
    Console().print(table)
