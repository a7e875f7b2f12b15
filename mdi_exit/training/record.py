"""Record an `ExitTrace`: run every datum through every exit once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdi_exit import outputs
from mdi_exit.devices import load_device
from mdi_exit.models import checkpoint
from mdi_exit.models.card import Card
from mdi_exit.models.files import weights_path
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.softmax import entropy, log_softmax
from mdi_exit.trace import ExitTrace
from mdi_exit.training import console
from mdi_exit.training.evaluate import exit_logits
from mdi_exit.training.split import data_sum
from mdi_exit.yamlfile import Place


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """The `trace` command's options."""

    checkpoint: str
    data: str
    out: Path
    images: int | None
    seed: int
    device: str
    threads: int


def run_trace(options: TraceOptions) -> ExitTrace:
    """Record the trace of a checkpoint on a data set, or on a random part of it, and write it to `out`."""
    device = console.prepare_device(options.device, options.threads)
    outputs.check_file(options.out)
    network, card = checkpoint.load(options.checkpoint)
    images, labels, classes = console.load_arrays(options.data, card.model.image_size, "test")
    console.require_classes(card, classes, options.data)
    trained_on = bool(card.data_sum) and card.data_sum == data_sum(images, labels)
    if options.images is not None and options.images < len(labels):
        chosen = np.random.default_rng(options.seed).permutation(len(labels))[: options.images]
        images, labels = images[np.sort(chosen)], labels[np.sort(chosen)]
    with console.progress_bar() as bar:
        task = bar.add_task("recording", total=len(labels))
        trace = record(network.to(device), card, images, labels, lambda done: bar.update(task, completed=done))
    with outputs.writing(options.out):
        trace.save(options.out)
    shares = ", ".join(f"{100 * share:.2f} %" for share in trace.accuracy())
    print(f"{options.out}: {len(trace)} data, {trace.exits} exits, accuracy {shares}")
    if trained_on:
        console.warn(
            f"{options.data} is what the network was trained on, so the trace flatters it; record other images"
        )
    else:
        print(
            "Of images that it was trained on, a trace flatters a network; whether some are among these is not known."
        )
    console.show_next(*_next(options, card))
    return trace


def _next(options: TraceOptions, card: Card) -> list[list[object]]:
    """What to type next. The shipped experiments emulate devices, whose times are known of some networks only."""
    named = weights_path(options.checkpoint)
    model = named if named.is_file() else options.checkpoint
    running = console.run_command(model, options.data)
    known = load_device("jetson-nano", Path(), Place("trace")).segment_s
    if f"{card.model.architecture}@{card.model.image_size}" not in known:
        return [running]
    return [["simulate", "find-rate", "--set", f"model={model}", "--trace", options.out], running]


def record(
    network: MultiExitNetwork,
    card: Card,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    progress: Callable[[int], None] | None = None,
) -> ExitTrace:
    """Trace of `network` on uint8 images (N, 3, H, W), with the card's temperatures applied."""
    pixels = torch.from_numpy(images)
    logits = exit_logits(network, pixels, progress=progress)
    confidences, entropies = [], []
    for each, temperature in zip(logits, card.temperatures, strict=True):
        log_shares = log_softmax(each, temperature)
        confidences.append(np.exp(log_shares.max(axis=1)))
        entropies.append(entropy(log_shares))
    return ExitTrace(
        confidence=np.clip(np.stack(confidences, axis=1), 0.0, 1.0).astype(np.float32),
        prediction=logits.argmax(axis=2).T.astype(np.int16),
        entropy=np.stack(entropies, axis=1).astype(np.float32),
        label=labels.astype(np.int16),
        payload_bytes=payload_bytes(network, pixels[:1]),
        classes=card.model.classes,
        card=card.identity,
    )


@torch.no_grad()
def payload_bytes(network: MultiExitNetwork, image: Tensor) -> tuple[int, ...]:
    """Bytes of the raw image (1, 3, H, W), of each feature that travels (as computed, fp32), and 0 after the last."""
    sizes = []
    carried: Tensor | None = image.to(next(network.parameters()).device)
    for k in range(1, network.exits + 1):
        assert carried is not None
        sizes.append(carried.numel() * carried.element_size())
        _, carried = network.run_segment(k, carried)
    return (*sizes, 0)
