"""MobileNetV2 (Sandler et al. 2018) with five exits.

Exits follow features 3, 6, 10 and 13 and the classifier, so that the five segments cost about the same (the paper
has five exits; where is reconstructed). At 32x32 the stem keeps the resolution, all other strides are the published
ones: the network then sees what it would see of a 64x64 image.
"""

from __future__ import annotations

from torch import Tensor, nn

from mdi_exit.models.multi_exit import Bottleneck, ExitHead, MultiExitNetwork, Normalize

# expansion, channels, repeats, stride of the first repeat (table 2 of the MobileNetV2 paper)
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_CUTS_AFTER_BLOCK = (3, 6, 10, 13)


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; add the input where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [*_conv_bn(inputs, hidden, 1), nn.ReLU6(inplace=True)] if expansion != 1 else []
        filter_ = [*_conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True)]
        self.block = nn.Sequential(*widen, *filter_, *_conv_bn(hidden, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, feature: Tensor) -> Tensor:
        output: Tensor = self.block(feature)
        return feature + output if self.residual else output


def mobilenet_v2(
    image_size: int,
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    bottlenecks: dict[int, tuple[int, int]] | None = None,
) -> MultiExitNetwork:
    """Build the five-exit network for uint8 images (N, 3, image_size, image_size).

    `bottlenecks` maps a cut (1..4) to (code channels, stride) of an autoencoder across it.
    """
    stem = [Normalize(mean, std), *_conv_bn(3, 32, 3, 1 if image_size <= 64 else 2), nn.ReLU6(inplace=True)]
    blocks: list[nn.Module] = []
    widths: list[int] = []
    inputs = 32
    for expansion, outputs, repeats, stride in _STAGES:
        for repeat in range(repeats):
            blocks.append(InvertedResidual(inputs, outputs, stride if repeat == 0 else 1, expansion))
            widths.append(outputs)
            inputs = outputs
    starts, ends = (0, *_CUTS_AFTER_BLOCK), (*_CUTS_AFTER_BLOCK, len(blocks))
    segments = [nn.Sequential(*blocks[a:b]) for a, b in zip(starts, ends, strict=True)]
    segments[0] = nn.Sequential(*stem, *segments[0])
    channels = [widths[end - 1] for end in ends]
    heads = [ExitHead(c, max(128, 4 * c), classes) for c in channels[:-1]] + [ExitHead(inputs, 1280, classes)]
    codes = {k: Bottleneck(channels[k - 1], code, stride) for k, (code, stride) in (bottlenecks or {}).items()}
    return MultiExitNetwork(segments, heads, codes)
