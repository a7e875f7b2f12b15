"""What the `train` command does: split, fit, keep the averaged weights, measure the checkpoint as written."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdi_exit import outputs
from mdi_exit.dataset import ImageDataset
from mdi_exit.errors import UserError
from mdi_exit.machine import command_line
from mdi_exit.models import checkpoint
from mdi_exit.models.card import BottleneckConfig, Card, CardError, ModelConfig
from mdi_exit.models.files import resolve, weights_path
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.training import console, fit, plots
from mdi_exit.training.calibrate import figures_of, measure_test
from mdi_exit.training.evaluate import exit_logits
from mdi_exit.training.split import data_sum, stratified_split

STATE_FILE = "training-state.pt"
_OTHER_SPLIT = "trained on other data or another split: what is held out here may have been trained on there"


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The `train` command's options."""

    data: str
    out: Path
    name: str
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
    init: str | None
    bf16: bool | None
    test: str | None
    data_name: str | None
    device: str
    threads: int
    compiled: bool


def run_training(options: TrainOptions) -> Card:
    """Train, and write NAME.safetensors, NAME.json, `metrics.json` and `training.png` to `out`.

    After every epoch `latest.safetensors` holds what there is so far, marked provisional.
    """
    device = console.prepare_device(options.device, options.threads)
    outputs.check_folder(options.out)
    config = _training_config(options)
    base = _base(options.init, config.model) if options.init is not None else None
    images, labels, classes = console.load_arrays(options.data, options.image_size, "train")
    chosen, held = stratified_split(labels, options.validation_share, options.seed)
    config = dataclasses.replace(config, model=_fitted(config.model, images[chosen], classes))
    initial: dict[str, Tensor] = {}
    if base is not None:  # its weights know the images by its own mean and deviation
        network, theirs = base
        console.require_classes(theirs, classes, options.data)
        model = dataclasses.replace(config.model, mean=theirs.model.mean, std=theirs.model.std)
        config = dataclasses.replace(config, model=model, init=theirs.weights_sha256)
        initial = network.state_dict()
    card = Card(
        model=config.model,
        seed=options.seed,
        data=options.data_name or Path(options.data).name,
        data_images=len(labels),
        data_sum=data_sum(images, labels),
        split=f"{len(chosen)} images trained on, {len(held)} held out for validation, stratified by class",
        validation_share=options.validation_share,
        epochs=options.epochs,
        temperatures=(1.0,) * config.model.exits,
        command=command_line(),
        machine=console.machine_in_words(device),
    )
    if base is not None and options.init is not None:
        card = dataclasses.replace(card, remarks=_origin(options.init, base[1], card))
    if options.test is not None:  # what is wrong with it is told now: it is measured after hours of training
        tested = ImageDataset.open(options.test, options.image_size, "test")
        console.require_classes(card, tested.classes, options.test)
    validation = (images[held], labels[held])
    path = options.out / options.name
    with outputs.writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
        average, history = _fit(options, config, card, (images[chosen], labels[chosen]), validation, device, initial)
        remarks = "; ".join(filter(None, (card.remarks, changes_of_plan(history))))
        card = dataclasses.replace(card, epochs=len(history), remarks=remarks)
        checkpoint.save(path, average, card)
    network, card = checkpoint.load(path)
    network.to(device)
    logits = exit_logits(network, torch.from_numpy(validation[0]))
    words = f"{card.data}, held-out validation"
    card = dataclasses.replace(card, validation=figures_of(card, words, logits, validation[1]))
    if options.test is not None:
        card = measure_test(network, card, options.test, None)
    console.print_card(card)
    with outputs.writing(options.out):
        card.save(path.with_name(path.name + ".json"))
    weights = weights_path(path)
    print(f"Results in {options.out}: {weights.name}, {path.name}.json, metrics.json, training.png")
    console.show_next(["calibrate", weights, "--data", options.data, "--out", options.out / "calibrated"])
    return card


def _fit(
    options: TrainOptions,
    config: fit.TrainingConfig,
    card: Card,
    training: tuple[NDArray[np.uint8], NDArray[np.int64]],
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]],
    device: str,
    initial: Mapping[str, Tensor],
) -> tuple[MultiExitNetwork, list[dict[str, Any]]]:
    """Fit with a progress bar, keeping a snapshot and the curves after every epoch."""
    state = options.out / STATE_FILE
    with console.progress_bar() as bar:
        task = bar.add_task("training", total=None)
        trained = False

        def show(step: fit.Progress) -> None:
            nonlocal trained
            trained = True
            words = f"epoch {step.epoch}/{options.epochs}, loss {step.loss:.3f}"
            bar.update(task, completed=step.step, total=step.steps, description=words)

        def keep(average: MultiExitNetwork, history: list[dict[str, Any]]) -> None:
            snapshot = dataclasses.replace(card, epochs=len(history), provisional=len(history) < options.epochs)
            checkpoint.save(options.out / "latest", average, snapshot)
            text = json.dumps({"command": card.command, "seed": card.seed, "history": history}, indent=2)
            (options.out / "metrics.json").write_text(text + "\n", encoding="utf-8")
            plots.plot_history(history, options.out / "training.png")
            last = history[-1]
            shares = " ".join(f"{100 * share:.1f}" for share in last["validation_accuracy"])
            print(f"epoch {last['epoch']}: loss {last['loss']:.3f}, validation accuracy (%) {shares}", flush=True)

        try:
            compiled = options.compiled
            average, history = fit.fit(config, *training, validation, state, device, compiled, initial, show, keep)
        except KeyboardInterrupt:
            bar.stop()
            done = f"the epochs finished so far are in {state}" if state.exists() else "no epoch was finished"
            print(f"mdi-exit: interrupted; {done}; run the same command again to go on", file=sys.stderr)
            raise SystemExit(130) from None
        if not trained:
            bar.remove_task(task)
    if not trained:
        print(
            f"{options.out}: this run is finished, nothing was trained; "
            f"to train on, give more --epochs than {len(history)}; to start anew, another --out"
        )
    return average, history


def changes_of_plan(history: list[dict[str, Any]]) -> str:
    """Say so when a run was resumed with another number of epochs: its schedule is not the command's alone."""
    spans: list[str] = []
    for planned, group in itertools.groupby(history, key=lambda entry: entry["epochs_planned"]):
        epochs = [entry["epoch"] for entry in group]
        spans.append(f"{planned} in epochs {epochs[0]}-{epochs[-1]}")
    return f"resumed with another --epochs: {', '.join(spans)}" if len(spans) > 1 else ""


def _training_config(options: TrainOptions) -> fit.TrainingConfig:
    """What the options alone decide, so that they are checked before any image is read; `_fitted` does the rest."""
    bottlenecks = tuple(parse_bottleneck(text) for text in options.bottlenecks)
    return fit.TrainingConfig(
        model=ModelConfig(options.model, options.image_size, ("", ""), (0.0,) * 3, (1.0,) * 3, bottlenecks),
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
        bf16=options.bf16,
        init="",
        seed=options.seed,
    )


def _base(init: str, model: ModelConfig) -> tuple[MultiExitNetwork, Card]:
    """Load what the training starts from; its bottlenecks may differ."""
    network, card = checkpoint.load(init)
    for words, theirs, asked in (
        ("--model", card.model.architecture, model.architecture),
        ("--image-size", card.model.image_size, model.image_size),
    ):
        if theirs != asked:
            raise UserError(
                f"{words} {asked}: --init {init} is a network of {words} {theirs}, and they have to be the same"
            )
    return network, card


def _origin(init: str, base: Card, card: Card) -> str:
    """What a card says of the checkpoint that its training started from; warns where that flatters its figures."""
    words = f"starts from {resolve(init).stem} ({base.weights_sha256[:12]})"
    splits = [(each.seed, each.validation_share, each.data_images) for each in (base, card)]
    if splits[0] != splits[1] or base.data_sum not in ("", card.data_sum):  # old cards have no sum
        words += f", {_OTHER_SPLIT}"
        console.warn(f"--init {init}: {_OTHER_SPLIT}, and then accuracies, temperatures and thresholds flatter")
    return f"{words}; of that its card says: {base.remarks}" if base.remarks else words


def _fitted(model: ModelConfig, images: NDArray[np.uint8], classes: tuple[str, ...]) -> ModelConfig:
    mean, std = _channel_statistics(images)
    return dataclasses.replace(model, classes=classes, mean=mean, std=std)


def parse_bottleneck(text: str) -> BottleneckConfig:
    """Read CUT:CHANNELS:STRIDE (the stride may be left out)."""
    try:
        cut, channels, *stride = (int(part) for part in text.split(":"))
        return BottleneckConfig(cut, channels, *stride)
    except (ValueError, TypeError) as error:
        raise CardError(f"--bottleneck {text!r}: allowed is CUT:CHANNELS:STRIDE, such as 1:4:2") from error


def _channel_statistics(
    images: NDArray[np.uint8],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation per channel in 0..1; of at most 5,000 images, more would not change the third digit."""
    sample = images[:: max(1, len(images) // 5000)] / 255.0
    mean = [round(float(value), 4) for value in sample.mean(axis=(0, 2, 3))]
    std = [max(round(float(value), 4), 1e-3) for value in sample.std(axis=(0, 2, 3))]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
