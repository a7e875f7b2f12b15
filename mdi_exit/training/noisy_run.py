"""Train an analog link and record what it does: what `benchmarks/noisy_channel.py --train` runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdi_exit import outputs
from mdi_exit.analysis import transmission
from mdi_exit.channel import FADINGS, Channel
from mdi_exit.errors import UserError
from mdi_exit.machine import command_line
from mdi_exit.models import checkpoint
from mdi_exit.models.analog import AnalogBottleneck
from mdi_exit.models.card import AnalogConfig, Card
from mdi_exit.models.files import lay_beside, resolve
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.training import console, noisy
from mdi_exit.training.split import training_split

_RECORDED_BATCH = 250


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Where from and where to. Images are folders or zips with a sub-folder per class."""

    base: str  # the checkpoint to put a link into, which stays as it is
    data: str  # what it was trained on; what its card holds out is not trained on here either
    test: str  # only recorded
    out: Path  # folder of the checkpoint NAME.safetensors, NAME.json
    name: str
    recording: Path  # the file of the recording
    training: noisy.NoisyTraining
    mean_db: tuple[float, ...]  # the SNRs that are recorded
    images_max: tuple[int, int]  # of held-out and of test images that are recorded, drawn where there are more
    program: str  # the command's beginning, for the card


def run_link_training(options: LinkOptions) -> Card:
    """Train encoder and decoder, write the checkpoint, load it again and record it on held-out and test images."""
    outputs.check_folder(options.out)
    outputs.check_file(options.recording)
    console.prepare_device("cpu", 1)  # one thread: a seed then gives the same weights
    network, card = checkpoint.load(options.base)
    cut = options.training.cut
    shape = _shape(network, card, options)
    images, labels, tested = _images(options, card)
    chosen, held = training_split(card, images, labels, options.data)
    with console.progress_bar() as bar:
        caching = bar.add_task("features", total=2 * len(chosen))
        cached = noisy.cache_features(
            noisy.folded(network), cut, images[chosen], labels[chosen], True, lambda n: bar.update(caching, completed=n)
        )
    link = _fit(network, cached, options)
    made = _card(options, card, shape, len(chosen))
    whole = _with_link(network, made, link)
    with outputs.writing(options.out):
        made = checkpoint.save(options.out / options.name, whole, made)
        lay_beside(resolve(options.base), options.out)
        sets = ((images[held], labels[held]), tested)
        validation, test = (at_most(each, most) for each, most in zip(sets, options.images_max, strict=True))
        arrays = record_link(options.out / options.name, validation, test, options)
        transmission.save(options.recording, arrays)
    print(f"Results: {options.out / options.name}.safetensors with its card, {options.recording}")
    return made


def at_most(
    labelled: tuple[NDArray[np.uint8], NDArray[np.int64]], most: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images with labels, or so many of them drawn without order, always the same ones."""
    images, labels = labelled
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:most])
    return images[chosen], labels[chosen]


def record_link(
    path: Path,
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    options: LinkOptions,
) -> dict[str, Any]:
    """Every image across the channel once per mean SNR and fading: the arrays of a recording."""
    network, card = checkpoint.load(path)
    network = noisy.folded(network)
    assert card.model.analog is not None
    cut, uses = card.model.analog.cut, card.model.analog.uses
    found: dict[str, Any] = {
        "cut": np.array(cut),
        "mean_db": np.array(options.mean_db, dtype=np.float32),
        "temperature": np.array(card.temperatures[cut - 1]),
        "uses": np.array(uses),
        "feature_bytes": np.array(4 * int(np.prod(card.model.analog.shape))),
        "card": np.array(card.identity, dtype=np.str_),
    }
    generator = np.random.default_rng(options.training.seed)
    with console.progress_bar() as bar:
        sets = {"validation": validation, "test": test}
        task = bar.add_task("recording", total=sum(len(labels) for _, labels in sets.values()))
        for part, (images, labels) in sets.items():
            rows: list[dict[str, NDArray[Any]]] = []
            for start in range(0, len(labels), _RECORDED_BATCH):
                batch = torch.from_numpy(images[start : start + _RECORDED_BATCH])
                rows.append(_record(network, cut, batch, options.mean_db, generator))
                bar.advance(task, len(batch))
            columns = {name: np.concatenate([row[name] for row in rows], axis=-1) for name in rows[0]}
            columns["exit_logits"] = columns["exit_logits"].T
            clean = columns.pop("clean")
            found |= {f"{part}_{name}": column for name, column in columns.items()}
            found[f"{part}_label"] = labels.astype(np.int16)
            found["clean_accuracy"] = np.array(float((clean == labels).mean()))  # of the last part: test
    return found


@torch.no_grad()
def _record(
    network: MultiExitNetwork, cut: int, images: Tensor, mean_db: tuple[float, ...], generator: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """A batch of n images: logits (classes, n) of the exit at the cut, answers (n,) and (S, n) of the last exit."""
    carried: Tensor | None = images
    for k in range(1, cut):
        assert carried is not None
        _, carried = network.run_segment(k, carried)
    assert carried is not None
    feature = network.segments[cut - 1](carried)
    row: dict[str, NDArray[Any]] = {
        "exit_logits": network.heads[cut - 1](feature).numpy().T.astype(np.float16),
        "clean": noisy.beyond(network, cut, feature)[-1].numpy().argmax(axis=1),
    }
    link = network.bottlenecks[str(cut)]
    assert isinstance(link, AnalogBottleneck)
    codes = link.encoder(feature).numpy()
    for fading in FADINGS:
        snr_db = np.stack([Channel(mean, fading).draw_snr_db(len(images), generator) for mean in mean_db])
        far = [noisy.far_logits(network, link, cut, codes, each, generator).argmax(axis=1) for each in snr_db]
        row |= {f"{fading}_snr_db": snr_db.astype(np.float16), f"{fading}_far": np.stack(far).astype(np.int16)}
    return row


def _shape(network: MultiExitNetwork, card: Card, options: LinkOptions) -> tuple[int, int, int]:
    """Of the feature at the cut. Raises UserError for a cut where no link can be: before any image is read."""
    training, side = options.training, card.model.image_size
    if not training.cut < network.exits:
        raise UserError(f"cut is {training.cut}; allowed: 1 to {network.exits - 1}, as {options.base} has them")
    if card.model.analog is not None or training.cut in [b.cut for b in card.model.bottlenecks]:
        raise UserError(f"{options.base}: has a bottleneck or a link at the cut already; allowed: one without")
    feature: Tensor | None = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    with torch.no_grad():
        for k in range(1, training.cut + 1):
            assert feature is not None
            _, feature = network.run_segment(k, feature)
    assert feature is not None
    channels, height, width = feature.shape[1:]
    try:
        AnalogBottleneck((channels, height, width), training.uses, (training.snr_low_db, training.snr_high_db))
    except ValueError as error:
        raise UserError(f"cut is {training.cut} of {options.base}: {error}") from error
    return channels, height, width


def _images(
    options: LinkOptions, card: Card
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    side = card.model.image_size
    images, labels, classes = console.load_arrays(options.data, side, "train")
    console.require_classes(card, classes, options.data)
    test, test_labels, classes = console.load_arrays(options.test, side, "test")
    console.require_classes(card, classes, options.test)
    return images, labels, (test, test_labels)


def _fit(network: MultiExitNetwork, cached: noisy.Cached, options: LinkOptions) -> AnalogBottleneck:
    with console.progress_bar() as bar:
        task = bar.add_task("training", total=None)
        return noisy.fit_link(
            network,
            cached,
            options.training,
            lambda epoch, loss, link: print(f"epoch {epoch}/{options.training.epochs}: loss {loss:.3f}", flush=True),
            lambda step, steps, loss: bar.update(task, completed=step, total=steps),
        )


def _card(options: LinkOptions, card: Card, shape: tuple[int, int, int], images: int) -> Card:
    training = options.training
    link = AnalogConfig(training.cut, shape, training.uses, training.snr_low_db, training.snr_high_db)
    return dataclasses.replace(
        card,
        model=dataclasses.replace(card.model, analog=link),
        base=resolve(options.base).stem,
        base_sha256=card.weights_sha256,
        seed=card.seed,  # the split's
        epochs=training.epochs,
        validation=None,
        test=None,
        promise=None,
        command=command_line(options.program),
        machine=console.machine_in_words("cpu"),
        remarks=f"encoder and decoder alone, trained on {images} images and their mirror images; "
        f"seed {training.seed}, batches of {training.batch_size}, AdamW at {training.learning_rate:g}",
    )


def _with_link(network: MultiExitNetwork, card: Card, link: AnalogBottleneck) -> MultiExitNetwork:
    assert card.model.analog is not None
    network.bottlenecks[str(card.model.analog.cut)] = link
    return network
