"""An analog radio channel, as a receiver that knows its state sees it: papers.md 4.2.

A sender maps a feature to B complex symbols z of mean power (1/B) |z|^2 = P = 1, with no bits, no code and no
repetition in between. What arrives is y = h z + n, noise n ~ CN(0, sigma^2) per symbol, SNR = 10 log10(P / sigma^2).
AWGN has h = 1. Under Rayleigh block fading h ~ CN(0, 1) is drawn anew for each transmission and holds for all its
symbols. A receiver that knows h divides by it: y / h = z + n / h, which is AWGN at the instantaneous SNR
|h|^2 / sigma^2. So both channels are one function here, and fading only decides the SNR of each transmission.

Symbols are kept as 2B real numbers, first the real parts, then the imaginary ones; each carries half of the noise. One
more number goes along, the receiver's: the SNR in dB at which the symbols came (ours; a real receiver measures it from
pilots, which are not counted among the B uses).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLEAN_DB = 60.0  # the SNR that a code which crossed no channel tells of; also the highest a channel may have
WORST_DB = -60.0  # the lowest; deeper fades count as this deep
FADINGS = ("none", "rayleigh")


def noise_deviation(snr_db: NDArray[np.float32] | float) -> NDArray[np.float32]:
    """The standard deviation of the noise on each of the 2B real numbers: sigma / sqrt(2) at P = 1."""
    variance = np.power(10.0, -np.asarray(snr_db, dtype=np.float64) / 10.0) / 2.0
    deviation: NDArray[np.float32] = np.sqrt(variance).astype(np.float32)
    return deviation


def capacity_bits(uses: int, snr_db: float) -> float:
    """What B uses of an AWGN channel can carry at most, B log2(1 + SNR); infinite at infinite SNR (Shannon 1948).

    A digital link of that many uses is bound by it. An analog one too, in what can be decided from what arrives.
    """
    if uses < 1:
        raise ValueError(f"{uses} channel uses; allowed: 1 or more")
    return uses * math.log2(1.0 + 10.0 ** (snr_db / 10.0))


@dataclass(frozen=True, slots=True)
class Channel:
    """One direction of an analog link. Raises ValueError for an SNR or a fading that cannot be."""

    snr_db: float  # mean over the fading
    fading: str = "none"

    def __post_init__(self) -> None:
        if not WORST_DB <= self.snr_db <= CLEAN_DB:
            raise ValueError(f"snr_db is {self.snr_db}; allowed: {WORST_DB:g} to {CLEAN_DB:g} dB")
        if self.fading not in FADINGS:
            raise ValueError(f"fading is {self.fading!r}; allowed: {', '.join(FADINGS)}")

    def draw_snr_db(self, transmissions: int, generator: np.random.Generator) -> NDArray[np.float32]:
        """The instantaneous SNR of each of some transmissions, in dB: (transmissions,)."""
        if self.fading == "none":
            return np.full(transmissions, self.snr_db, dtype=np.float32)
        gain = generator.exponential(size=transmissions)  # |h|^2 of h ~ CN(0, 1)
        faded = self.snr_db + 10.0 * np.log10(np.maximum(gain, 1e-12))
        return np.clip(faded, WORST_DB, CLEAN_DB).astype(np.float32)


def identity_over(channel: Channel | None) -> str:
    """What a recording adds to a network's identity when its analog link's code crossed that channel."""
    if channel is None:
        return ""
    return f" over {channel.snr_db:g} dB" + (f", {channel.fading}" if channel.fading != "none" else "")


def received(
    code: NDArray[np.float32], snr_db: NDArray[np.float32], generator: np.random.Generator
) -> NDArray[np.float32]:
    """What arrives of codes (N, 2B + 1) sent at SNRs (N,): noise on the symbols, the SNR in the last place.

    A code that has crossed a channel before is sent on as it came: noises add up, and so do their powers.

    Raises ValueError unless the code has symbols and there is an SNR for each row.
    """
    if code.ndim != 2 or code.shape[1] < 3 or code.shape[1] % 2 != 1 or snr_db.shape != code.shape[:1]:
        raise ValueError(f"codes {code.shape} at SNRs {snr_db.shape}; allowed: (N, 2B + 1) with B of 1 or more, (N,)")
    noisy = np.empty_like(code)
    symbols = code[:, :-1]
    noise = generator.standard_normal(symbols.shape, dtype=np.float32)
    noisy[:, :-1] = symbols + noise_deviation(snr_db)[:, None] * noise
    before_db = code[:, -1]
    power = np.power(10.0, -before_db / 10.0) + np.power(10.0, -snr_db / 10.0)
    noisy[:, -1] = np.where(before_db >= CLEAN_DB, snr_db, np.maximum(-10.0 * np.log10(power), WORST_DB))
    return noisy
