"""ResNet-50 (He et al. 2016) with four exits, after layer1, layer2, layer3 and the classifier.

At 32x32 the stem is one 3x3 convolution without pooling, as usual for small images; at 224x224 the published one.
The feature after layer1 is the large one (3.2 MB a piece at 224x224): the place for a bottleneck.
"""

from __future__ import annotations

from torch import Tensor, nn

from mdi_exit.models.multi_exit import Bottleneck, ExitHead, MultiExitNetwork, Normalize

# inner width, blocks, stride of the first block (table 1 of the ResNet paper, column "50-layer")
_LAYERS = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
_EXPANSION = 4


class ResidualBlock(nn.Module):
    """Narrow, filter, widen, add the input (projected where the shape changes).

    The stride sits on the 3x3 convolution, as in every current implementation ("version 1.5").
    """

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = inner * _EXPANSION
        self.block = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.project: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.activate = nn.ReLU(inplace=True)

    def forward(self, feature: Tensor) -> Tensor:
        output: Tensor = self.activate(self.block(feature) + self.project(feature))
        return output


class PooledLinear(nn.Module):
    """The published classifier: average over the map, one linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(channels, classes)

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.classify(feature.mean(dim=(2, 3)))
        return logits


def resnet50(
    image_size: int,
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    bottlenecks: dict[int, tuple[int, int]] | None = None,
) -> MultiExitNetwork:
    """Build the four-exit network for uint8 images (N, 3, image_size, image_size).

    `bottlenecks` maps a cut (1..3) to (code channels, stride) of an autoencoder across it.
    """
    if image_size <= 64:
        stem: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)]
    else:
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False)]
    stem = [Normalize(mean, std), *stem, nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    if image_size > 64:
        stem.append(nn.MaxPool2d(3, 2, 1))
    segments: list[nn.Sequential] = []
    inputs = 64
    for inner, blocks, stride in _LAYERS:
        layer: list[nn.Module] = []
        for block in range(blocks):
            layer.append(ResidualBlock(inputs, inner, stride if block == 0 else 1))
            inputs = inner * _EXPANSION
        segments.append(nn.Sequential(*layer))
    segments[0] = nn.Sequential(*stem, *segments[0])
    channels = [inner * _EXPANSION for inner, _, _ in _LAYERS]
    heads: list[nn.Module] = [ExitHead(count, count, classes) for count in channels[:-1]]
    heads.append(PooledLinear(channels[-1], classes))
    codes = {k: Bottleneck(channels[k - 1], code, stride) for k, (code, stride) in (bottlenecks or {}).items()}
    return MultiExitNetwork(segments, heads, codes)
