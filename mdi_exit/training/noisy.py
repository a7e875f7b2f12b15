"""Train an analog link behind a frozen network: encoder and decoder through the channel, over a range of SNRs.

The network stays as it is, with its exits, statistics and temperatures. So its features at the cut, of each image and
its mirror image, are computed once, and what its exits beyond the cut say of them is what the decoder learns to have
them say again, beside the right class. Gradients flow through the frozen rest and the channel (noise is added, which is
differentiable). An SNR is drawn for each image, evenly over the range in dB.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mdi_exit.channel import received
from mdi_exit.models import analog
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.training import optimise

_START_IMAGES = 3000  # whose features the linear maps start from


@dataclass(frozen=True, slots=True)
class NoisyTraining:
    """All that decides the encoder and the decoder, beside network and images. Raises ValueError.

    Cut, uses and range are ours: the paper's are not known (papers.md 4.4).
    """

    cut: int = 2  # whose exit is good enough to be left with most images
    uses: int = 128  # B
    snr_low_db: float = -10.0
    snr_high_db: float = 20.0
    epochs: int = 6
    batch_size: int = 128
    learning_rate: float = 1e-3  # the schedule's peak
    weight_decay: float = 1e-4
    distillation: float = 0.5  # of the loss; the rest is cross-entropy to the right class
    seed: int = 0

    def __post_init__(self) -> None:
        analog.check(self.uses, (self.snr_low_db, self.snr_high_db))
        if self.cut < 1 or self.epochs < 1 or self.batch_size < 2:
            raise ValueError("cut and epochs of 1 or more, batch_size of 2 or more are wanted")


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """Features at the cut (M, N, C, H, W) in halves of N images in M views, what the exits beyond say of them in
    log shares (M, N, K - cut, classes), and the right classes (N,)."""

    features: Tensor
    said: Tensor
    labels: Tensor


@torch.no_grad()
def cache_features(
    network: MultiExitNetwork,
    cut: int,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    mirrored: bool,
    progress: Callable[[int], None] = lambda done: None,
    batch_size: int = 250,
) -> Cached:
    """Run a network in evaluation mode on uint8 images (N, 3, H, W), with `mirrored` also on their mirror images."""
    pixels = torch.from_numpy(images)
    features, said = [], []
    for view in range(2 if mirrored else 1):
        for start in range(0, len(pixels), batch_size):
            batch = pixels[start : start + batch_size]
            carried: Tensor | None = batch.flip(3) if view else batch
            for k in range(1, cut + 1):
                assert carried is not None
                _, carried = network.run_segment(k, carried)
            assert carried is not None
            features.append(carried.half())
            said.append(torch.stack(beyond(network, cut, carried), dim=1).log_softmax(dim=2))
            progress(view * len(pixels) + start + len(batch))
    views = 2 if mirrored else 1
    return Cached(
        torch.stack(torch.cat(features).chunk(views)),
        torch.stack(torch.cat(said).chunk(views)),
        torch.from_numpy(labels),
    )


def beyond(network: MultiExitNetwork, cut: int, feature: Tensor) -> list[Tensor]:
    """Logits (N, classes) of the exits beyond the cut, of the feature (N, C, H, W) itself: no bottleneck at the cut."""
    logits: list[Tensor] = []
    for segment, head in zip(network.segments[cut:], network.heads[cut:], strict=True):
        feature = segment(feature)
        logits.append(head(feature))
    return logits


def folded(network: MultiExitNetwork) -> MultiExitNetwork:
    """A frozen copy with batch normalisation folded into the convolutions: the same logits, a third sooner."""
    network = copy.deepcopy(network).requires_grad_(False).eval()
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for i, (one, other) in enumerate(pairwise(list(module))):
                if isinstance(one, nn.Conv2d) and isinstance(other, nn.BatchNorm2d):
                    module[i], module[i + 1] = fuse_conv_bn_eval(one, other), nn.Identity()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def fit_link(
    network: MultiExitNetwork,
    cached: Cached,
    options: NoisyTraining,
    epoch_done: Callable[[int, float, nn.Module], None] = lambda epoch, loss, link: None,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> analog.AnalogBottleneck:
    """Train encoder and decoder; `network`, which has no bottleneck at the cut, stays as it is."""
    torch.manual_seed(options.seed)
    count = len(cached.labels)
    shape = tuple(cached.features.shape[2:])
    link = analog.AnalogBottleneck(
        (shape[0], shape[1], shape[2]), options.uses, (options.snr_low_db, options.snr_high_db)
    )
    link.start(cached.features[0, :: max(1, count // _START_IMAGES)].float())
    link.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    network = folded(network)
    optimiser = torch.optim.AdamW(link.parameters(), lr=0.0, weight_decay=options.weight_decay)
    generator = torch.Generator().manual_seed(options.seed)
    weights = optimise.exit_weights(network.exits)[options.cut :]
    per_epoch = max(1, count // options.batch_size)
    steps = per_epoch * options.epochs
    for epoch in range(options.epochs):
        order = torch.randperm(count, generator=generator)
        total = 0.0
        for number in range(per_epoch):
            rows = order[number * options.batch_size : (number + 1) * options.batch_size]
            step = epoch * per_epoch + number
            for group in optimiser.param_groups:
                group["lr"] = optimise.learning_rate_at(step, steps, options.learning_rate)
            loss = _loss(network, link, cached, rows, options, weights, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach())
            progress(step + 1, steps, float(loss.detach()))
        epoch_done(epoch + 1, total / per_epoch, link)
    link.eval()
    return link


def _loss(
    network: MultiExitNetwork,
    link: analog.AnalogBottleneck,
    cached: Cached,
    rows: Tensor,
    options: NoisyTraining,
    weights: tuple[float, ...],
    generator: torch.Generator,
) -> Tensor:
    views = torch.randint(len(cached.features), rows.shape, generator=generator)
    feature = cached.features[views, rows].float().contiguous(memory_format=torch.channels_last)
    wide = options.snr_high_db - options.snr_low_db
    snr_db = options.snr_low_db + wide * torch.rand(len(rows), generator=generator)
    arrived = analog.transmit(link.encoder(feature), snr_db, generator)
    logits = beyond(network, options.cut, link.decoder(arrived).contiguous(memory_format=torch.channels_last))
    right = optimise.joint_loss(logits, cached.labels[rows], weights, 0.0)
    clean = cached.said[views, rows]
    taught = [
        weight * functional.kl_div(each.log_softmax(1), clean[:, k], log_target=True, reduction="batchmean")
        for k, (each, weight) in enumerate(zip(logits, weights, strict=True))
    ]
    whole = (1.0 - options.distillation) * right + options.distillation * torch.stack(taught).sum()
    return whole / sum(weights)


@torch.no_grad()
def far_logits(
    network: MultiExitNetwork,
    link: analog.AnalogBottleneck,
    cut: int,
    codes: NDArray[np.float32],
    snr_db: NDArray[np.float32],
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Logits (N, classes) of the last exit, of codes (N, 2B + 1) sent at SNRs (N,)."""
    arrived = torch.from_numpy(received(codes, snr_db, generator))
    feature = link.decoder(arrived).contiguous(memory_format=torch.channels_last)
    for segment in network.segments[cut:]:
        feature = segment(feature)
    logits: NDArray[np.float32] = network.heads[-1](feature).numpy()
    return logits
