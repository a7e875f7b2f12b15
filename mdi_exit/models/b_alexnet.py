"""B-AlexNet: AlexNet for small images with two side branches (papers.md section 3.1; Teerapittayanon et al. 2016).

Layers as in the authors' published code for CIFAR-10: branch 1 after the second convolution, branch 2 after the third.
What travels from segment to segment is that convolution's output, before its activation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mdi_exit.models.multi_exit import Bottleneck, MultiExitNetwork, Normalize

_CHANNELS = (64, 96)  # of the features after segments 1 and 2
_DROPPED = 0.5


class NeighbourNorm(nn.Module):
    """Local response normalisation over three channels, x / (2 + 5e-5 * sum of squares) ** 0.75.

    torch's own cannot be exported: it asks whether there is any input.
    """

    def forward(self, feature: Tensor) -> Tensor:
        squares = feature * feature
        edge = torch.zeros_like(squares[:, :1])
        squares = torch.cat((edge, squares, edge), dim=1)
        root = (2.0 + 5e-5 * (squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:])).rsqrt()
        return feature * root * root.sqrt()


def _shrink() -> list[nn.Module]:
    """Activate, halve, normalise over neighbouring channels; not in place, for a branch reads the same feature.

    Poolings round up, as in the published code: 32 pixels become 16, 8, 4.
    """
    return [nn.ReLU(), _pool(), NeighbourNorm()]


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _side(pixels: int, poolings: int) -> int:
    """How wide a feature map is after so many poolings."""
    for _ in range(poolings):
        pixels //= 2  # ceil((pixels - 3) / 2) + 1
    return pixels


def b_alexnet(
    image_size: int,
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    bottlenecks: dict[int, tuple[int, int]] | None = None,
) -> MultiExitNetwork:
    """Build the three-exit network for uint8 images (N, 3, image_size, image_size), and no other size.

    `bottlenecks` maps a cut (1..2) to (code channels, stride) of an autoencoder across it.
    """
    first, second = _CHANNELS
    segments = [
        nn.Sequential(
            Normalize(mean, std), nn.Conv2d(3, 32, 5, padding=2), *_shrink(), nn.Conv2d(32, first, 5, padding=2)
        ),
        nn.Sequential(*_shrink(), nn.Conv2d(first, second, 3, padding=1)),
        nn.Sequential(
            *(nn.ReLU(), nn.Conv2d(second, 96, 3, padding=1)),
            *(nn.ReLU(), nn.Conv2d(96, 64, 3, padding=1)),
            *(nn.ReLU(), _pool(), nn.Flatten()),
            *(nn.Linear(64 * _side(image_size, 3) ** 2, 256), nn.ReLU(), nn.Dropout(_DROPPED)),
            *(nn.Linear(256, 128), nn.ReLU(), nn.Dropout(_DROPPED)),
        ),
    ]
    narrow = [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), _pool(), nn.Flatten()]
    heads = [
        nn.Sequential(
            *_shrink(),
            *(nn.Conv2d(first, 32, 3, padding=1), nn.ReLU()),
            *narrow,
            nn.Linear(32 * _side(image_size, 3) ** 2, classes),
        ),
        nn.Sequential(
            *_shrink(),
            *(nn.Conv2d(second, 32, 3, padding=1), nn.ReLU(), _pool(), nn.Flatten()),
            nn.Linear(32 * _side(image_size, 4) ** 2, classes),
        ),
        nn.Linear(128, classes),
    ]
    codes = {k: Bottleneck(_CHANNELS[k - 1], code, stride) for k, (code, stride) in (bottlenecks or {}).items()}
    network = MultiExitNetwork(segments, heads, codes)
    for layer in network.modules():  # nothing here normalises batches, so the first weights decide whether it learns
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
