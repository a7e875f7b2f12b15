"""A network cut into K contiguous segments with an exit after each.

Segment k (1..K, the paper's numbering) holds the layers after exit k-1 up to and including exit k. Running
segment k on feature a_{k-1} yields the logits b_k of exit k and the feature a_k that segment k+1 wants; a_0 is
the image itself, uint8, so that what travels first is as small as the data.

A `Bottleneck` after a cut replaces the feature on the wire by a code: its encoder closes segment k, its decoder
opens segment k+1 (MDI-Exit's autoencoder, papers.md section 1.1; sizes reconstructed).

This package knows nothing of queues, workers or links.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Turn a uint8 image batch (N, C, H, W) into a float one, standardised per channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(std)).view(1, -1, 1, 1))
        self.register_buffer("shift", -(torch.tensor(mean) / torch.tensor(std)).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return image.to(self.scale.dtype) * self.scale + self.shift


class ExitHead(nn.Module):
    """Classify a feature map (N, C, H, W): widen, pool, classify.

    A bare pooled linear layer on 24 channels leaves the first exit near useless; one pointwise convolution costs
    a few per cent of a segment and buys several points of accuracy.
    """

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)
        )
        self.classify = nn.Linear(hidden, classes)

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.widen(feature).mean(dim=(2, 3)))
        return logits


class Bottleneck(nn.Module):
    """An autoencoder across a cut: a strided convolution in, a pixel shuffle back out.

    `channels` is the feature's, `code_channels` the code's; both sides of the code shrink by `stride`.
    """

    def __init__(self, channels: int, code_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.encoder: nn.Module = nn.Sequential(
            nn.Conv2d(channels, code_channels, stride, stride=stride, bias=False),
            nn.BatchNorm2d(code_channels),
            nn.ReLU6(inplace=True),
        )
        self.decoder: nn.Module = nn.Sequential(
            nn.Conv2d(code_channels, channels * stride * stride, 1, bias=False),
            nn.BatchNorm2d(channels * stride * stride),
            nn.PixelShuffle(stride),
        )


class Slice(nn.Module):
    """Segments `first`..`last` (1-based, both included) as one module.

    Input: the feature after segment `first` - 1. Output: (logits of each exit in the slice, feature after `last`).
    The feature of the network's last segment has nobody to go to and is None.
    """

    def __init__(self, network: MultiExitNetwork, first: int, last: int) -> None:
        super().__init__()
        self.network, self.first, self.last = network, first, last

    def forward(self, feature: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        logits: list[Tensor] = []
        carried: Tensor | None = feature
        for k in range(self.first, self.last + 1):
            assert carried is not None
            reading, carried = self.network.run_segment(k, carried)
            logits.append(reading)
        return tuple(logits), carried


class MultiExitNetwork(nn.Module):
    """K segments, K exit heads, optional bottlenecks after cuts.

    `segments[k-1]` maps feature a_{k-1} to a_k; `heads[k-1]` maps a_k to logits (N, classes). `bottlenecks` is keyed
    by the cut's k as a string (a torch ModuleDict wants strings).
    """

    def __init__(
        self,
        segments: Iterable[nn.Module],
        heads: Iterable[nn.Module],
        bottlenecks: dict[int, Bottleneck] | None = None,
    ) -> None:
        super().__init__()
        self.segments, self.heads = nn.ModuleList(segments), nn.ModuleList(heads)
        self.bottlenecks = nn.ModuleDict({str(k): b for k, b in (bottlenecks or {}).items()})
        if len(self.segments) != len(self.heads):
            raise ValueError(f"{len(self.segments)} segments need as many exits, not {len(self.heads)}")
        if wrong := [k for k in self.bottlenecks if not 1 <= int(k) < self.exits]:
            raise ValueError(f"bottleneck after cut {wrong[0]}: a cut is one of 1..{self.exits - 1}")

    @property
    def exits(self) -> int:
        """K, the number of exits."""
        return len(self.segments)

    def run_segment(self, k: int, feature: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run segment k (1..K): logits of exit k, and what travels to segment k+1 (None after the last)."""
        if (before := self._bottleneck_after(k - 1)) is not None:
            feature = before.decoder(feature)
        feature = self.segments[k - 1](feature)
        logits = self.heads[k - 1](feature)
        if k == self.exits:
            return logits, None
        if (after := self._bottleneck_after(k)) is not None:
            feature = after.encoder(feature)
        return logits, feature

    def _bottleneck_after(self, cut: int) -> Bottleneck | None:
        return cast(Bottleneck, self.bottlenecks[str(cut)]) if str(cut) in self.bottlenecks else None

    def forward_exits(self, image: Tensor) -> list[Tensor]:
        """Logits (N, classes) of every exit, for a uint8 or float image batch (N, C, H, W)."""
        logits: list[Tensor] = []
        carried: Tensor | None = image
        for k in range(1, self.exits + 1):
            assert carried is not None
            reading, carried = self.run_segment(k, carried)
            logits.append(reading)
        return logits

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.forward_exits(image)

    def slice(self, first: int, last: int) -> Slice:
        """Return segments `first`..`last` as a module sharing this network's weights.

        Raises ValueError when the range is not within 1..K.
        """
        if not 1 <= first <= last <= self.exits:
            raise ValueError(f"slice {first}..{last} is not within segments 1..{self.exits}")
        return Slice(self, first, last)


def attach_exits(
    backbone: nn.Sequential,
    cuts: Sequence[str],
    classes: int,
    image_shape: tuple[int, int, int],
    hidden: int = 128,
    preprocess: nn.Module | None = None,
) -> MultiExitNetwork:
    """Give a user's own sequential model an early exit after each named child.

    `cuts` names children of `backbone` in their order (as `named_children` gives them); whatever follows the last
    cut is the last segment and its output (N, classes) is the last exit. A cut's feature must be a map (N, C, H, W);
    `image_shape` is (C, H, W), from which the exits' widths are found by running one zero image.
    Raises ValueError for an unknown, repeated or misordered cut, or a feature that is not a map.
    """
    names = [name for name, _ in backbone.named_children()]
    if unknown := [cut for cut in cuts if cut not in names]:
        raise ValueError(f"cut {unknown[0]!r} is not a child of the model; its children are {', '.join(names)}")
    ends = [names.index(cut) + 1 for cut in cuts]
    if not cuts or ends != sorted(set(ends)) or ends[-1] == len(names):
        raise ValueError("cuts must be distinct, in the model's order, and leave at least one layer after the last")
    layers = list(backbone.children())
    starts = [0, *ends]
    segments = [nn.Sequential(*layers[a:b]) for a, b in zip(starts, [*ends, len(layers)], strict=True)]
    if preprocess is not None:
        segments[0].insert(0, preprocess)
    training = backbone.training
    backbone.eval()
    heads: list[nn.Module] = []
    with torch.no_grad():
        feature = torch.zeros(1, *image_shape)
        for cut, segment in zip(cuts, segments, strict=False):
            feature = segment.eval()(feature)
            if feature.dim() != 4:
                raise ValueError(
                    f"the feature after {cut!r} has shape {tuple(feature.shape)}, an exit needs (N, C, H, W)"
                )
            heads.append(ExitHead(feature.shape[1], hidden, classes))
    network = MultiExitNetwork(segments, [*heads, nn.Identity()])
    return network.train(training)
