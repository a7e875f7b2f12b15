"""Encoder and decoder of an analog link across a cut: joint source-channel coding of a feature (papers.md section 4).

The encoder closes segment k, the decoder opens segment k + 1, as those of a `Bottleneck` do. What travels is a code
(N, 2B + 1): B complex symbols of unit mean power as 2B real numbers, and the SNR in dB at which they arrived, which the
receiver writes (mdi_exit.channel). The encoder writes `CLEAN_DB` there: a code that crosses no channel is clean.

Who knows the SNR: the decoder, from that last number, and whoever decides whether to transmit. The encoder does not, so
that one code serves every receiver. All of this is reconstructed: of the paper only the system model is known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mdi_exit.channel import CLEAN_DB

_SHRINK = 4  # the convolutions' strides together
_WIDTH = 64  # channels inside


class AnalogEncoder(nn.Module):
    """Feature (N, C, H, W) to code (N, 2B + 1) with (1/B) |z|^2 = 1 for every row, whatever the feature.

    A linear map of each block (`_block`), which starts as its principal components (`start`), plus convolutions, which
    start at nothing. Convolutions alone were tried first: after an epoch they were far below the components untrained.
    """

    def __init__(self, shape: tuple[int, int, int], uses: int) -> None:
        super().__init__()
        channels, height, width = shape
        block = _block(shape)
        self.linear = nn.Conv2d(channels, _per_block(shape, uses), block, block)
        last = _nothing(nn.Linear(_WIDTH // 2 * (height // _SHRINK) * (width // _SHRINK), 2 * uses))
        self.body = nn.Sequential(
            *_convolution(channels, _WIDTH, stride=2),
            *_convolution(_WIDTH, 2 * _WIDTH, stride=2),
            nn.Conv2d(2 * _WIDTH, _WIDTH // 2, 1),
            nn.Flatten(),
            last,
        )
        self.uses = uses

    def forward(self, feature: Tensor) -> Tensor:
        symbols = self.linear(feature).flatten(1)[:, : 2 * self.uses] + self.body(feature)
        energy = symbols.square().sum(dim=1, keepdim=True)
        symbols = symbols * torch.rsqrt(energy.clamp_min(1e-12) / self.uses)
        return torch.cat([symbols, torch.full_like(energy, CLEAN_DB)], dim=1)


class AnalogDecoder(nn.Module):
    """What arrived (N, 2B + 1) to an estimate of the feature (N, C, H, W).

    First each number by SNR / (1 + SNR), the linear estimate of least error, and by a factor of its own that follows
    the SNR. Then a linear map to each block, plus convolutions; those are scaled and shifted per channel by what a
    small network makes of the SNR (as ADJSCC does, Xu et al. 2021).
    """

    def __init__(self, shape: tuple[int, int, int], uses: int, snr_db: tuple[float, float]) -> None:
        super().__init__()
        channels, height, width = shape
        self.grid = (_WIDTH, height // _SHRINK, width // _SHRINK)
        block = _block(shape)
        self.blocks = (_per_block(shape, uses), height // block, width // block)
        self.padding = self.blocks[0] * self.blocks[1] * self.blocks[2] - 2 * uses
        self.weigh = _small(2 * uses)
        self.linear = nn.ConvTranspose2d(self.blocks[0], channels, block, block)
        self.low_db, self.high_db = snr_db
        self.spread = nn.Linear(2 * uses, self.grid[0] * self.grid[1] * self.grid[2])
        self.first, self.second = _Modulated(_WIDTH), _Modulated(_WIDTH)
        last = _nothing(nn.Conv2d(_WIDTH // 2, channels, 3, padding=1))
        self.widen = nn.Sequential(nn.Conv2d(_WIDTH, 4 * _WIDTH, 1), nn.PixelShuffle(2))
        self.last = nn.Sequential(
            nn.Conv2d(_WIDTH, 2 * _WIDTH, 1),
            nn.PixelShuffle(2),
            nn.ReLU6(),
            last,
        )

    def forward(self, code: Tensor) -> Tensor:
        symbols, snr_db = code[:, :-1], code[:, -1:]
        ratio = torch.pow(10.0, snr_db / 10.0)
        place = (snr_db.clamp(self.low_db, self.high_db) - self.low_db) / (self.high_db - self.low_db)
        symbols = symbols * (ratio / (1.0 + ratio)) * (1.0 + self.weigh(place))
        state = self.spread(symbols).view(-1, *self.grid)
        state = self.second(self.widen(self.first(state, place)), place)
        if self.padding:
            symbols = torch.cat([symbols, torch.zeros_like(symbols[:, :1]).expand(-1, self.padding)], dim=1)
        feature: Tensor = self.linear(symbols.view(-1, *self.blocks)) + self.last(state)
        return feature


class AnalogBottleneck(nn.Module):
    """The pair, for a feature (C, H, W) after the cut, B channel uses, and the SNRs (dB) it is trained over.

    Raises ValueError for B below 1, an SNR range reversed or empty, or a feature too small to shrink.
    """

    def __init__(self, shape: tuple[int, int, int], uses: int, snr_db: tuple[float, float]) -> None:
        super().__init__()
        check(uses, snr_db)
        block = _block(shape)
        if shape[1] % block or shape[2] % block or min(shape) < 1:
            raise ValueError(f"the feature is {shape}; allowed: (C, H, W) with H and W multiples of {block}")
        self.encoder, self.decoder = AnalogEncoder(shape, uses), AnalogDecoder(shape, uses, snr_db)

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Set both linear maps to the principal components of blocks of these features (N, C, H, W).

        Each component is sent divided by the root of its deviation, which is the best for linear estimates in noise.
        """
        block = self.encoder.linear.stride[0]
        blocks = nn.functional.unfold(features, block, stride=block).transpose(1, 2).flatten(0, 1)
        mean = blocks.mean(dim=0)
        variance, components = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
        kept = self.encoder.linear.out_channels
        root = variance.flip(0)[:kept].clamp_min(1e-6).pow(0.25).unsqueeze(1)
        components = components.flip(1)[:, :kept].T
        into, back = self.encoder.linear, self.decoder.linear
        assert into.bias is not None and back.bias is not None
        into.weight.copy_((components / root).view_as(into.weight))
        into.bias.copy_(-(components / root) @ mean)
        # What a row is divided by to have unit power differs from row to row; back goes the usual amount.
        sent = into(features).flatten(1)[:, : 2 * self.encoder.uses]
        usual = (sent.square().sum(dim=1) / self.encoder.uses).sqrt().mean()
        back.weight.copy_((components * root * usual).view_as(back.weight))
        back.bias.copy_(features.mean(dim=(0, 2, 3)))


def check(uses: int, snr_db: tuple[float, float]) -> None:
    """Raise ValueError for B below 1 and an SNR range that is reversed, empty or beyond what a channel may have."""
    if uses < 1:
        raise ValueError(f"uses is {uses}; allowed: 1 or more channel uses")
    low_db, high_db = snr_db
    if not -CLEAN_DB <= low_db < high_db <= CLEAN_DB:
        raise ValueError(
            f"the SNR range is {low_db:g} to {high_db:g} dB; allowed: from low to high, "
            f"{-CLEAN_DB:g} to {CLEAN_DB:g} dB"
        )


def transmit(code: Tensor, snr_db: Tensor, generator: torch.Generator) -> Tensor:
    """As `channel.received`, with gradients: codes (N, 2B + 1) at SNRs (N,), noise from `generator`."""
    symbols = code[:, :-1]
    deviation = torch.pow(10.0, -snr_db / 20.0).unsqueeze(1) / 2.0**0.5
    noise = torch.randn(symbols.shape, generator=generator, dtype=symbols.dtype).to(symbols.device)
    return torch.cat([symbols + deviation * noise, snr_db.unsqueeze(1)], dim=1)


class _Modulated(nn.Module):
    """A residual block whose input is scaled and shifted per channel by what the SNR's place in 0..1 says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.by_snr = _small(2 * channels)
        self.body = nn.Sequential(
            *_convolution(channels, channels), nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, state: Tensor, place: Tensor) -> Tensor:
        scale, shift = self.by_snr(place).unsqueeze(2).unsqueeze(3).chunk(2, dim=1)
        state = state * (1.0 + scale) + shift
        return torch.relu(state + self.body(state))


def _small(outputs: int) -> nn.Sequential:
    """What the SNR's place in its range scales or shifts something by; at first by nothing."""
    return nn.Sequential(nn.Linear(1, 32), nn.ReLU(), _nothing(nn.Linear(32, outputs)))


def _nothing(layer: nn.Module) -> nn.Module:
    """The layer with all weights 0, so that what it adds to begins alone."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _block(shape: tuple[int, int, int]) -> int:
    """Side of the blocks that the linear parts see whole: 8, and 4 in a feature less than 16 high or wide.

    A feature of 8 x 8 in one block would want most of the weights for itself, and has more channels to send.
    """
    return 8 if min(shape[1:]) >= 16 else 4


def _per_block(shape: tuple[int, int, int], uses: int) -> int:
    """Numbers sent of each block; of the last ones some may not be needed."""
    block = _block(shape)
    return -(-2 * uses // ((shape[1] // block) * (shape[2] // block)))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU6()]
