"""Make confidences mean something: one temperature per exit (papers.md section 3.2, all samples).

Dividing an exit's logits by its temperature changes no prediction, only how sure the exit claims to be and so which
data leave there. Fitted on images that the training never saw.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from mdi_exit import outputs
from mdi_exit.errors import UserError
from mdi_exit.models import checkpoint
from mdi_exit.models.card import Card, Figures
from mdi_exit.models.files import resolve
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.softmax import log_softmax
from mdi_exit.training import console, plots
from mdi_exit.training.evaluate import accuracies, calibration_errors, exit_logits
from mdi_exit.training.split import data_sum, stratified_split

# exp(+-3): a temperature beyond 20 or below a twentieth means the exit has learnt nothing
_LOG_TEMPERATURE_MAX = 3.0
_AT_BOUND = 0.01  # so near it, in the logarithm, the search would have gone on
_IMAGES_ENOUGH = 1000  # with fewer, a temperature is more the draw's than the exit's


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """The `calibrate` command's options."""

    checkpoint: str
    data: str
    out: Path
    separate: bool
    seed: int | None
    test: str | None
    test_name: str | None
    device: str
    threads: int


def run_calibration(options: CalibrateOptions) -> Card:
    """Fit the temperatures and write the calibrated checkpoint, `calibration.json` and `reliability.png` to `out`."""
    device = console.prepare_device(options.device, options.threads)
    outputs.check_folder(options.out)
    network, card = checkpoint.load(options.checkpoint)
    network.to(device)
    images, labels = _held_out(options, card)
    logits = _logits(network, images, "validation images")
    temperatures = fit_temperatures(logits, labels)
    card = dataclasses.replace(card, temperatures=temperatures, test=None)  # what was measured, was with others
    words = f"{Path(options.data).name}, all images" if options.separate else f"{card.data}, held-out validation"
    words += "; temperatures fitted to these"
    card = dataclasses.replace(card, validation=figures_of(card, words, logits, labels))
    if options.test is not None:
        card = measure_test(network, card, options.test, options.test_name)
    console.print_card(card)
    for words in doubts(temperatures, len(labels)):
        console.warn(words)
    with outputs.writing(options.out):
        weights = _write(options, card)
        plots.plot_reliability(logits, labels, temperatures, options.out / "reliability.png")
    print(f"Results in {options.out}: {weights.name}, {weights.stem}.json, calibration.json, reliability.png")
    tracing = ["trace", weights, "--data", options.test or "OTHER-IMAGES", "--out", options.out / "trace.npz"]
    console.show_next(console.run_command(weights, options.test or options.data), tracing)
    return card


def doubts(temperatures: tuple[float, ...], images: int) -> list[str]:
    """Why temperatures fitted to so many images may be worth little, a line for each reason."""
    found: list[str] = []
    bound = _LOG_TEMPERATURE_MAX - _AT_BOUND
    if ends := [f"{t:.3f} of exit {k}" for k, t in enumerate(temperatures, 1) if abs(math.log(t)) > bound]:
        found.append(
            f"at the bound of what is tried: the temperature {', '.join(ends)}; such an exit has learnt nothing, "
            "or is right about every one of too few images"
        )
    if images < _IMAGES_ENOUGH:
        found.append(f"fitted to {images} images; with fewer than about {_IMAGES_ENOUGH} a temperature means little")
    return found


def _write(options: CalibrateOptions, card: Card) -> Path:
    """Write checkpoint and summary; return the weights' file."""
    options.out.mkdir(parents=True, exist_ok=True)
    source = resolve(options.checkpoint)
    target = options.out / source.name
    if target.resolve() != source.resolve():
        shutil.copyfile(source, target)
    card.save(target.with_suffix(".json"))
    summary = {"temperatures": card.temperatures, "validation": card.validation, "test": card.test}
    text = json.dumps(summary, indent=2, default=dataclasses.asdict)
    (options.out / "calibration.json").write_text(text + "\n", encoding="utf-8")
    return target


def fit_temperatures(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, ...]:
    """The temperature of each exit that minimises the negative log-likelihood, for logits (K, N, classes)."""
    return tuple(_fit_temperature(each.astype(np.float64), labels) for each in logits)


def _fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    rows = np.arange(len(labels))

    def negative_log_likelihood(log_temperature: float) -> float:
        return float(-np.mean(log_softmax(logits, float(np.exp(log_temperature)))[rows, labels]))

    bounds = (-_LOG_TEMPERATURE_MAX, _LOG_TEMPERATURE_MAX)
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded")
    return round(float(np.exp(found.x)), 4)


def figures_of(card: Card, data: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Figures:
    """Accuracy and calibration error of each exit, before and with the card's temperatures."""
    return Figures(
        data=data,
        images=len(labels),
        accuracy=accuracies(logits, labels),
        ece_before=calibration_errors(logits, labels, (1.0,) * card.model.exits),
        ece_after=calibration_errors(logits, labels, card.temperatures),
    )


def measure_test(network: MultiExitNetwork, card: Card, source: str, name: str | None) -> Card:
    """Fill in the card's test figures; nothing is fitted to these images."""
    images, labels, classes = console.load_arrays(source, card.model.image_size, "test")
    console.require_classes(card, classes, source)
    logits = _logits(network, images, "test images")
    return dataclasses.replace(card, test=figures_of(card, name or f"{Path(source).name}, test", logits, labels))


def _logits(network: MultiExitNetwork, images: NDArray[np.uint8], what: str) -> NDArray[np.float32]:
    with console.progress_bar() as bar:
        task = bar.add_task(what, total=len(images))
        return exit_logits(network, torch.from_numpy(images), progress=lambda done: bar.update(task, completed=done))


def _held_out(options: CalibrateOptions, card: Card) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images to fit on: what the training held out, or with `separate` all of other data."""
    images, labels, classes = console.load_arrays(options.data, card.model.image_size, "train")
    console.require_classes(card, classes, options.data)
    if options.separate:
        return images, labels
    if len(labels) != card.data_images:
        raise UserError(
            f"{options.data}: has {len(labels)} images, the checkpoint was trained on data with {card.data_images}; "
            "give the training data, whose held-out part is used, or --separate with other images"
        )
    if card.data_sum and card.data_sum != (found := data_sum(images, labels)):
        raise UserError(
            f"{options.data}: other images or labels than those that were split for the training (sum {found}, the "
            f"card says {card.data_sum}), so what was held out cannot be told; give the training data, or --separate "
            "with other images"
        )
    if options.seed is not None and options.seed != card.seed:
        raise UserError(f"--seed {options.seed}: the held-out part is that of the training's seed, {card.seed}")
    _, held = stratified_split(labels, card.validation_share, card.seed)
    return images[held], labels[held]
