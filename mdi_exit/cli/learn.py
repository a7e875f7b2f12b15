"""`train`, `calibrate`, `trace`: from labelled images to a checkpoint to a recorded trace."""

# typer reads annotations at run time, on Python 3.10 too
# ruff: noqa: UP045

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

_Data = Annotated[str, typer.Option(help="A folder or zip with one sub-folder per class, 'sample', or 'cifar10'.")]
_Checkpoint = Annotated[str, typer.Argument(help="NAME.safetensors, or a bundled one: mobilenetv2-cifar10.")]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_Threads = Annotated[int, typer.Option(min=0, help="Processor threads; 0 leaves it to torch.")]
_Test = Annotated[Optional[str], typer.Option(help="Test images: measured for the card, never fitted to.")]


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    for command in (train, calibrate, trace):
        app.command(command.__name__)(command)


def train(
    data: _Data,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, metrics.json and training.png.")],
    name: Annotated[str, typer.Option(help="The checkpoint's name in that folder.")] = "network",
    model: Annotated[str, typer.Option(help="mobilenet_v2 (5 exits), resnet50 (4) or b_alexnet (3).")] = "mobilenet_v2",
    image_size: Annotated[int, typer.Option(help="Pixels; images of another size are resized.")] = 32,
    epochs: Annotated[int, typer.Option(min=1)] = 28,
    seed: Annotated[int, typer.Option(min=0, help="Decides first weights, batches and what is held out.")] = 0,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    learning_rate: Annotated[float, typer.Option("--lr", min=1e-6, help="Peak learning rate.")] = 0.15,
    weight_decay: Annotated[float, typer.Option(min=0.0)] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(min=0.0, max=0.5)] = 0.05,
    ema_decay: Annotated[float, typer.Option(min=0.0, max=0.99999, help="Of the averaged weights.")] = 0.998,
    padding: Annotated[int, typer.Option(min=0, help="Pixels an image is shifted by at most.")] = 4,
    cutout: Annotated[int, typer.Option(min=0, help="Side of a hidden square in pixels; 0 for none.")] = 0,
    early_crop: Annotated[int, typer.Option(min=0, help="Train the first epochs on crops of this side.")] = 0,
    early_crop_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of all epochs.")] = 0.5,
    validation_share: Annotated[float, typer.Option(min=0.01, max=0.5, help="Held out, never trained on.")] = 0.1,
    bottlenecks: Annotated[
        Optional[list[str]],
        typer.Option(
            "--bottleneck", help="CUT:CHANNELS:STRIDE of an autoencoder across a cut, such as 1:4:2; repeatable."
        ),
    ] = None,
    init: Annotated[
        Optional[str],
        typer.Option(help="A checkpoint to start from; what it lacks, such as an autoencoder, starts fresh."),
    ] = None,
    bf16: Annotated[
        Optional[bool],
        typer.Option(
            "--bf16/--fp32",
            help="Arithmetic of a step; default: as in the run that goes on; in a new one bf16 on accelerators alone.",
        ),
    ] = None,
    test: _Test = None,
    data_name: Annotated[Optional[str], typer.Option(help="What the card calls the data.")] = None,
    device: _Device = "auto",
    threads: _Threads = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the step (needs a C++ compiler).")] = False,
) -> None:
    """Train all exits of a network jointly; run the same command again to go on after an interruption."""
    given = {**locals(), "bottlenecks": tuple(bottlenecks or ())}

    from mdi_exit.training.train import TrainOptions, run_training

    run_training(TrainOptions(**given))


def calibrate(
    checkpoint: _Checkpoint,
    data: _Data,
    out: Annotated[Path, typer.Option(help="Folder for the calibrated checkpoint, calibration.json, reliability.png.")],
    separate: Annotated[
        bool, typer.Option("--separate", help="Fit on all of --data: it is not the training data.")
    ] = False,
    seed: Annotated[Optional[int], typer.Option(help="The training's; default: as the card says.")] = None,
    kind: Annotated[str, typer.Option(help="per-exit, per-exit-leaving, global or conventional (none).")] = "per-exit",
    leave_at: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How sure an image leaves, for per-exit-leaving and global.")
    ] = 0.8,
    target_accuracy: Annotated[
        Optional[float], typer.Option(help="Choose exit thresholds that keep at least this accuracy, a share below 1.")
    ] = None,
    risk: Annotated[
        Optional[float], typer.Option(help="How probable it may be that they do not; default: 0.05.")
    ] = None,
    confidence: Annotated[Optional[float], typer.Option(help="The same the other way round: 1 - risk.")] = None,
    against: Annotated[
        str, typer.Option(help="labels, or full: count only what the whole network would have got right.")
    ] = "labels",
    thresholds: Annotated[
        str, typer.Option(help="What to choose: per-exit, a threshold for each exit, or common, one for all.")
    ] = "per-exit",
    keep_logits: Annotated[
        int, typer.Option(min=0, help="Write logits.npz: of so many held-out and test images; 0 for none.")
    ] = 0,
    test: _Test = None,
    test_name: Annotated[Optional[str], typer.Option(help="What the card calls the test images.")] = None,
    device: _Device = "auto",
    threads: _Threads = 0,
) -> None:
    """Fit temperatures on what the training held out, so that a confidence is a probability.

    With --target-accuracy, also choose exit thresholds that keep it with a guarantee, on other held-out images.
    """
    from mdi_exit.training.calibrate import CalibrateOptions, run_calibration
    from mdi_exit.training.guarantee import wish_of

    wish = wish_of(target_accuracy, risk, confidence, against, thresholds)
    whence = (checkpoint, data, out, separate, seed, test, test_name, device, threads)
    run_calibration(CalibrateOptions(*whence, kind, leave_at, wish, keep_logits))


def trace(
    checkpoint: Annotated[
        str, typer.Argument(help="NAME.safetensors, a bundled one, or a folder with an ElasticBERT-like network.")
    ],
    data: Annotated[
        str, typer.Option(help="Images as in `train`; for a text network a file of lines SENTENCE<TAB>LABEL.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write, FILE.npz.")],
    images: Annotated[
        Optional[int], typer.Option(min=1, help="Record only this many images or sentences, drawn at random.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which, when --images is given, and the noise.")] = 0,
    snr_db: Annotated[
        Optional[float], typer.Option("--snr-db", help="Send the code of an analog link at this mean SNR.")
    ] = None,
    fading: Annotated[str, typer.Option(help="none or rayleigh, with --snr-db.")] = "none",
    device: _Device = "auto",
    threads: _Threads = 0,
) -> None:
    """Record what every exit says about every image or sentence, for simulations and replays that need no network.

    Give data that the network was not trained on: of those it knows, a trace flatters it.
    """
    from mdi_exit.training.record import TraceOptions, run_trace

    options = TraceOptions(checkpoint, data, out, images, seed, device, threads, snr_db, fading)
    if Path(checkpoint).is_dir():
        from mdi_exit.training.text import run_text_trace

        run_text_trace(options)
    else:
        run_trace(options)
