"""Record an `ExitTrace`: run every datum through every exit once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdi_exit import outputs
from mdi_exit.channel import Channel, identity_over, received
from mdi_exit.device_file import load_device
from mdi_exit.errors import UserError
from mdi_exit.models import checkpoint
from mdi_exit.models.analog import AnalogBottleneck
from mdi_exit.models.card import Card
from mdi_exit.models.files import weights_path
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.shaping import Shape
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
    snr_db: float | None = None
    fading: str = "none"

    @property
    def channel(self) -> Channel | None:
        """Over which the code of an analog link is sent; None when it arrives as it was sent."""
        try:
            return Shape(snr_db=self.snr_db, fading=self.fading).noise
        except ValueError as error:
            raise UserError(f"--snr-db {self.snr_db} --fading {self.fading}: {error}") from error


def run_trace(options: TraceOptions) -> ExitTrace:
    """Record the trace of a checkpoint on a data set, or on a random part of it, and write it to `out`."""
    channel = options.channel
    device = console.prepare_device(options.device, options.threads)
    outputs.check_file(options.out)
    network, card = checkpoint.load(options.checkpoint)
    if channel is not None and card.model.analog is None:
        raise UserError(f"--snr-db {options.snr_db:g}: {options.checkpoint} has no analog link, so nothing is sent")
    images, labels, classes = console.load_arrays(options.data, card.model.image_size, "test")
    console.require_classes(card, classes, options.data)
    trained_on = bool(card.data_sum) and card.data_sum == data_sum(images, labels)
    if options.images is not None and options.images < len(labels):
        chosen = np.random.default_rng(options.seed).permutation(len(labels))[: options.images]
        images, labels = images[np.sort(chosen)], labels[np.sort(chosen)]
    with console.progress_bar() as bar:
        task = bar.add_task("recording", total=len(labels))
        with noisy(network.to(device), card, channel, options.seed):
            trace = record(network, card, images, labels, lambda done: bar.update(task, completed=done))
        trace = dataclasses.replace(trace, card=card.identity + identity_over(channel))
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
    if options.snr_db is not None:
        noise = ["--set", f"links.snr_db={options.snr_db:g}", "--set", f"links.fading={options.fading}"]
        return [["simulate", "noisy-channel", "--set", f"model={model}", *noise, "--trace", options.out]]
    return [["simulate", "find-rate", "--set", f"model={model}", "--trace", options.out], running]


@contextmanager
def noisy(network: MultiExitNetwork, card: Card, channel: Channel | None, seed: int) -> Iterator[None]:
    """Within, what the analog link's decoder takes has crossed the channel, each datum a transmission of its own."""
    if channel is None:
        yield
        return
    assert card.model.analog is not None
    generator = np.random.default_rng(seed)

    def hear(module: nn.Module, codes: tuple[Tensor]) -> Tensor:
        snr_db = channel.draw_snr_db(len(codes[0]), generator)
        return torch.from_numpy(received(codes[0].cpu().numpy(), snr_db, generator)).to(codes[0].device)

    link = network.bottlenecks[str(card.model.analog.cut)]
    assert isinstance(link, AnalogBottleneck)
    hook = link.decoder.register_forward_pre_hook(hear)
    try:
        yield
    finally:
        hook.remove()


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
