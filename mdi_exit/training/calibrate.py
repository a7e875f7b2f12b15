"""Make confidences mean something: temperatures (papers.md section 3.2).

Dividing an exit's logits by its temperature changes no prediction, only how sure the exit claims to be and so which
data leave there. Fitted on images that the training never saw. With a target accuracy, exit thresholds are chosen too,
on other such images.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from mdi_exit import outputs
from mdi_exit.analysis.calibrated import Logits, RecordedLogits
from mdi_exit.errors import UserError
from mdi_exit.models import checkpoint
from mdi_exit.models.card import Card, Figures
from mdi_exit.models.files import resolve
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.softmax import log_softmax
from mdi_exit.training import console, guarantee, plots
from mdi_exit.training.evaluate import accuracies, calibration_errors, exit_logits
from mdi_exit.training.record import payload_bytes
from mdi_exit.training.split import stratified_split, training_split

# exp(+-3): a temperature beyond 20 or below a twentieth means the exit has learnt nothing
_LOG_TEMPERATURE_MAX = 3.0
_AT_BOUND = 0.01  # so near it, in the logarithm, the search would have gone on
KINDS = {
    "per-exit": "a temperature per exit, fitted on all images",
    "per-exit-leaving": "a temperature per exit, fitted on the images that leave there",
    "global": "one temperature, fitted on every image's logits where it leaves",
    "conventional": "none",
}
LEAVE_AT = 0.8  # papers.md 3.2: in the published configuration
_LEAVING_ENOUGH = 100  # the same of one exit's images
LOGITS_FILE = "logits.npz"
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
    kind: str = "per-exit"
    leave_at: float = LEAVE_AT
    wish: guarantee.Wish | None = None
    keep_logits: int = 0  # images of each set; 0 for none

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"--kind {self.kind}: allowed are {', '.join(KINDS)}")
        if self.keep_logits and self.test is None:
            raise UserError(f"--keep-logits {self.keep_logits}: needs --test, for what was held out and what was not")


def run_calibration(options: CalibrateOptions) -> Card:
    """Fit the temperatures and write the calibrated checkpoint, `calibration.json` and `reliability.png` to `out`.

    With a wish, choose exit thresholds that keep it, on images the temperatures were not fitted to.
    """
    device = console.prepare_device(options.device, options.threads)
    outputs.check_folder(options.out)
    network, card = checkpoint.load(options.checkpoint)
    network.to(device)
    images, labels = _held_out(options, card)
    held = Logits(_logits(network, images, "validation images"), labels)
    fitted, others = _parts(held, card.seed, options.wish)
    temperatures = temperatures_of(options.kind, fitted, options.leave_at)
    # what was measured or promised, was with other temperatures
    card = dataclasses.replace(card, temperatures=temperatures, calibration=options.kind, test=None, promise=None)
    words = f"{Path(options.data).name}, all images" if options.separate else f"{card.data}, held-out validation"
    figures = figures_of(card, f"{words}; temperatures fitted to these", fitted.logits, fitted.label)
    card = dataclasses.replace(card, validation=figures)
    if options.wish is not None:
        thresholds = guarantee.sequence_for(options.wish, fitted, temperatures)
        about = f"{words}; no temperature fitted to these"
        promise = guarantee.promise(others, temperatures, options.wish, thresholds, about)
        card = dataclasses.replace(card, promise=promise)
    test = None if options.test is None else _test_logits(network, card, options.test)
    if options.test is not None and test is not None:
        name = options.test_name or f"{Path(options.test).name}, test"
        card = dataclasses.replace(card, test=figures_of(card, name, test.logits, test.label))
    console.print_card(card)
    for words in [*doubts(temperatures, len(fitted.label)), *_few_leave(options, fitted)]:
        console.warn(words)
    with outputs.writing(options.out):
        weights = _write(options, card)
        plots.plot_reliability(fitted.logits, fitted.label, temperatures, options.out / "reliability.png")
        names = [weights.name, f"{weights.stem}.json", "calibration.json", "reliability.png"]
        if options.keep_logits and test is not None:
            names.append(_keep_logits(options, card, network, held, test, images))
    _tell(options, card, weights, names, test)
    return card


def _tell(options: CalibrateOptions, card: Card, weights: Path, names: Sequence[str], test: Logits | None) -> None:
    """Say what is promised, where the results are, and what to type next."""
    run = console.run_command(weights, options.test or options.data)
    if (made := card.promise) is not None:
        print(guarantee.in_words(made))
        if test is not None:
            share, exits = guarantee.kept(test, card.temperatures, made)
            print(
                f"On the test images, which had no part in the choice: {guarantee.outcome(made.against, share, exits)}."
            )
        chosen = guarantee.as_words(made.thresholds)
        run += ["--set", f"thresholds={chosen[0] if len(chosen) == 1 else '[' + ', '.join(chosen) + ']'}"]
    print(f"Results in {options.out}: {', '.join(names)}")
    tracing = ["trace", weights, "--data", options.test or "OTHER-IMAGES", "--out", options.out / "trace.npz"]
    console.show_next(run, tracing)


def _parts(held: Logits, seed: int, wish: guarantee.Wish | None) -> tuple[Logits, Logits]:
    """What to fit temperatures to and seek thresholds on, and what to choose on; all where nothing is promised."""
    if wish is None:
        return held, held
    parts = stratified_split(held.label, 1 - guarantee.FIT_SHARE, seed)
    fitted, others = (Logits(held.logits[:, rows], held.label[rows]) for rows in parts)
    return fitted, others


def _keep_logits(
    options: CalibrateOptions,
    card: Card,
    network: MultiExitNetwork,
    held: Logits,
    test: Logits,
    images: NDArray[np.uint8],
) -> str:
    held, test = (part.at_most(options.keep_logits, card.seed) for part in (held, test))
    sizes = payload_bytes(network, torch.from_numpy(images[:1]))
    model = f"{card.model.architecture}@{card.model.image_size}"
    RecordedLogits(held, test, sizes, model, card.identity).save(options.out / LOGITS_FILE)
    return LOGITS_FILE


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
    summary: dict[str, Any] = {"temperatures": card.temperatures, "validation": card.validation, "test": card.test}
    summary |= {"kind": card.calibration, "promise": card.promise}
    text = json.dumps(summary, indent=2, default=dataclasses.asdict)
    (options.out / "calibration.json").write_text(text + "\n", encoding="utf-8")
    return target


def temperatures_of(kind: str, said: Logits, leave_at: float) -> tuple[float, ...]:
    """The temperature of each exit by one of KINDS.

    An image leaves at the first exit that is `leave_at` sure or surer without any temperature, or else at the last. An
    exit where none leaves keeps 1.
    """
    logits, labels = said.logits, said.label
    if kind == "conventional":
        return (1.0,) * len(logits)
    if kind == "per-exit":
        return fit_temperatures(logits, labels)
    taken = _leaving(said, leave_at)
    if kind == "global":
        return fit_temperatures(logits[taken, np.arange(len(labels))][None], labels) * len(logits)
    found: list[float] = []
    for k, each in enumerate(logits):
        here = taken == k
        found += fit_temperatures(each[None, here], labels[here]) if here.any() else (1.0,)
    return tuple(found)


def _leaving(said: Logits, leave_at: float) -> NDArray[np.int64]:
    sure = said.confidence((1.0,) * len(said.logits)) >= leave_at
    sure[:, -1] = True
    exits: NDArray[np.int64] = sure.argmax(axis=1)
    return exits


def _few_leave(options: CalibrateOptions, said: Logits) -> list[str]:
    if options.kind != "per-exit-leaving":
        return []
    counts = np.bincount(_leaving(said, options.leave_at), minlength=len(said.logits))
    few = [f"{count} at exit {k}" for k, count in enumerate(counts, 1) if count < _LEAVING_ENOUGH]
    words = (
        f"few images leave when {options.leave_at:g} sure: {', '.join(few)}; temperatures fitted to so few mean little"
    )
    return [words] if few else []


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
    said = _test_logits(network, card, source)
    return dataclasses.replace(
        card, test=figures_of(card, name or f"{Path(source).name}, test", said.logits, said.label)
    )


def _test_logits(network: MultiExitNetwork, card: Card, source: str) -> Logits:
    images, labels, classes = console.load_arrays(source, card.model.image_size, "test")
    console.require_classes(card, classes, source)
    return Logits(_logits(network, images, "test images"), labels)


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
    try:
        _, held = training_split(card, images, labels, options.data)
    except UserError as error:
        raise UserError(f"{error}, or other images with --separate") from error
    if options.seed is not None and options.seed != card.seed:
        raise UserError(f"--seed {options.seed}: the held-out part is that of the training's seed, {card.seed}")
    return images[held], labels[held]
