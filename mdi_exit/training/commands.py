"""What the `train` command does, free of the command line's own machinery."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mdi_exit.dataset import ImageDataset
from mdi_exit.models import checkpoint
from mdi_exit.models.card import BottleneckConfig, Card, CardError, Figures, ModelConfig
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.training import fit as fitting
from mdi_exit.training.evaluate import accuracies, calibration_errors, exit_logits
from mdi_exit.training.split import stratified_split

STATE_FILE = "training-state.pt"
CHECKPOINT_NAME = "network"


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The `train` command's options."""

    data: str
    out: Path
    model: str
    image_size: int
    epochs: int
    seed: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    ema_decay: float
    padding: int
    cutout: int
    early_crop: int
    early_crop_share: float
    validation_share: float
    bottlenecks: tuple[str, ...]
    test: str | None
    data_name: str | None
    device: str
    threads: int
    compiled: bool


def run_training(options: TrainOptions) -> None:
    """Train, keep the averaged weights as a checkpoint, measure that checkpoint on the held-out images."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    images, labels, classes = load_arrays(options.data, options.image_size, "train")
    chosen, held = stratified_split(labels, options.validation_share, options.seed)
    config = _training_config(options, images[chosen], classes)
    options.out.mkdir(parents=True, exist_ok=True)
    state = options.out / STATE_FILE
    card = Card(
        model=config.model,
        seed=options.seed,
        data=options.data_name or Path(options.data).name,
        split=f"{len(chosen)} images trained on, {len(held)} held out for validation, stratified by class",
        validation_share=options.validation_share,
        epochs=options.epochs,
        temperatures=(1.0,) * config.model.exits,
        command=_command_line(),
        machine=machine_in_words(device),
    )

    def keep(average: MultiExitNetwork, history: list[dict[str, Any]]) -> None:
        latest = dataclasses.replace(card, epochs=len(history), provisional=len(history) < options.epochs)
        checkpoint.save(options.out / "latest", average, latest)
        _write_metrics(options.out, history)
        shares = " ".join(f"{share:.3f}" for share in history[-1]["validation_accuracy"])
        print(
            f"epoch {history[-1]['epoch']}: loss {history[-1]['loss']:.3f}, accuracy per exit {shares}",
            flush=True,
        )

    validation = (images[held], labels[held])
    with progress_bar() as bar:
        task = bar.add_task("training")

        def show(step: fitting.Progress) -> None:
            words = f"epoch {step.epoch}/{options.epochs}, loss {step.loss:.3f}"
            bar.update(task, completed=step.step, total=step.steps, description=words)

        try:
            average, history = fitting.fit(
                config,
                images[chosen],
                labels[chosen],
                validation,
                state,
                device,
                options.compiled,
                show,
                keep,
            )
        except KeyboardInterrupt:
            bar.stop()
            print(f"mdi-exit: interrupted; run the same command again to go on from {state}", file=sys.stderr)
            raise SystemExit(130) from None
    checkpoint.save(options.out / CHECKPOINT_NAME, average, card)
    _measure(options, validation)


def _measure(options: TrainOptions, validation: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    """Measure the checkpoint as written, with its rounded weights, and complete its card."""
    path = options.out / CHECKPOINT_NAME
    network, card = checkpoint.load(path)
    logits = exit_logits(network, torch.from_numpy(validation[0]))
    errors = calibration_errors(logits, validation[1], card.temperatures)
    figures = Figures(
        "held-out validation images", len(validation[1]), accuracies(logits, validation[1]), errors, errors
    )
    dataclasses.replace(card, validation=figures).save(path.with_suffix(".json"))


def _training_config(
    options: TrainOptions, images: NDArray[np.uint8], classes: tuple[str, ...]
) -> fitting.TrainingConfig:
    mean, std = _channel_statistics(images)
    bottlenecks = tuple(parse_bottleneck(text) for text in options.bottlenecks)
    model = ModelConfig(options.model, options.image_size, classes, mean, std, bottlenecks)
    return fitting.TrainingConfig(
        model=model,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        ema_decay=options.ema_decay,
        padding=options.padding,
        cutout=options.cutout,
        early_crop=options.early_crop,
        early_crop_share=options.early_crop_share,
        seed=options.seed,
    )


def parse_bottleneck(text: str) -> BottleneckConfig:
    """Read CUT:CHANNELS:STRIDE (the stride may be left out)."""
    try:
        numbers = [int(part) for part in text.split(":")]
        return BottleneckConfig(*numbers)
    except (ValueError, TypeError) as error:
        raise CardError(f"--bottleneck {text!r}: allowed is CUT:CHANNELS:STRIDE, such as 1:4:2") from error


def _channel_statistics(
    images: NDArray[np.uint8],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation per channel in 0..1, from at most 5,000 images: more would not change the third digit."""
    sample = images[:: max(1, len(images) // 5000)] / 255.0
    mean = [round(float(value), 4) for value in sample.mean(axis=(0, 2, 3))]
    std = [max(round(float(value), 4), 1e-3) for value in sample.std(axis=(0, 2, 3))]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def load_arrays(
    source: str, image_size: int, part: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Decode a whole data set, with progress."""
    dataset = ImageDataset.open(source, image_size, part)
    with progress_bar() as bar:
        task = bar.add_task(f"reading {Path(source).name}", total=len(dataset))
        images, labels = dataset.arrays(lambda done: bar.update(task, completed=done))
    return images, labels, dataset.classes


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


def pick_device(name: str) -> str:
    """Resolve "auto" to the accelerator where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def machine_in_words(device: str) -> str:
    """Say what a figure was made on."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), no accelerator"


def _command_line() -> str:
    """The command as typed, without the folders that only exist on this machine."""
    words = ["mdi-exit", *sys.argv[1:]]
    return shlex.join(Path(word).name if "/" in word else word for word in words)


def _write_metrics(out: Path, history: list[dict[str, Any]]) -> None:
    (out / "metrics.json").write_text(json.dumps({"history": history}, indent=2) + "\n", encoding="utf-8")
