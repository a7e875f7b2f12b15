"""`train`, `calibrate`, `trace`: from labelled images to a checkpoint, trustworthy confidences, a recorded trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

_Data = Annotated[
    str, typer.Option(help="A folder or zip with one sub-folder per class, 'sample', or 'cifar10'.")
]
_Out = Annotated[Path, typer.Option(help="The folder for results; made if missing.")]
_Seed = Annotated[int, typer.Option(min=0, help="Decides initial weights, batches and the validation split.")]


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("train")(train)


def train(
    data: _Data,
    out: _Out,
    model: Annotated[
        str, typer.Option(help="mobilenet_v2 (5 exits) or resnet50 (4 exits).")
    ] = "mobilenet_v2",
    image_size: Annotated[int, typer.Option(help="Pixels; images of another size are resized.")] = 32,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    seed: _Seed = 0,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    lr: Annotated[float, typer.Option(min=1e-6, help="Peak learning rate.")] = 0.15,
    weight_decay: Annotated[float, typer.Option(min=0.0)] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(min=0.0, max=0.5)] = 0.1,
    ema_decay: Annotated[float, typer.Option(min=0.0, max=0.99999, help="Of the averaged weights.")] = 0.998,
    padding: Annotated[int, typer.Option(min=0, help="Pixels an image is shifted by at most.")] = 4,
    cutout: Annotated[int, typer.Option(min=0, help="Side of a hidden square in pixels.")] = 0,
    early_crop: Annotated[int, typer.Option(min=0, help="Train the first epochs on crops of this side.")] = 0,
    early_crop_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of all epochs.")] = 0.5,
    validation_share: Annotated[float, typer.Option(min=0.01, max=0.5, help="Held out.")] = 0.1,
    bottleneck: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time on Python 3.10
        typer.Option(help="CUT:CHANNELS:STRIDE of an autoencoder across a cut, such as 1:4:2; repeatable."),
    ] = None,
    test: Annotated[Optional[str], typer.Option(help="Test images, for the card only.")] = None,  # noqa: UP045
    data_name: Annotated[Optional[str], typer.Option(help="How the card calls the data.")] = None,  # noqa: UP045
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Processor threads; 0 leaves it to torch.")] = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the step (needs a C++ compiler).")
    ] = False,
) -> None:
    """Train a multi-exit network; run the same command again to go on after an interruption."""
    from mdi_exit.training.commands import TrainOptions, run_training

    options = TrainOptions(
        data, out, model, image_size, epochs, seed, batch_size, lr, weight_decay, label_smoothing, ema_decay,
        padding, cutout, early_crop, early_crop_share, validation_share, tuple(bottleneck or ()), test, data_name, device, threads, compiled,
    )  # fmt: skip
    run_training(options)
