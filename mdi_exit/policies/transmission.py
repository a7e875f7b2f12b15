"""Keep the early exit's answer, or transmit over a channel that may spoil it? (papers.md section 4.)

The device has run the early exit and knows the SNR. Transmitting costs channel uses, and at a low SNR it costs accuracy
too: the far side then answers worse than the device. Every rule gives a score, and transmits when it is positive; what
is added to a score moves it along its trade-off between accuracy and transmissions. Which rules the paper has is not
known: these are papers.md's menu, `LearnedTransmission` with a loss of our own.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from mdi_exit.core.types import ExitReading


class TransmissionPolicy(Protocol):
    """Whether to transmit, given what the early exit said and the SNR in dB as the device knows it."""

    def score(self, reading: ExitReading, snr_db: float, rng: random.Random) -> float:
        """Transmit when this is above 0."""


@dataclass(frozen=True, slots=True)
class AlwaysTransmit:
    """As if there were no early exit."""

    def score(self, reading: ExitReading, snr_db: float, rng: random.Random) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class NeverTransmit:
    """As if there were no far side."""

    def score(self, reading: ExitReading, snr_db: float, rng: random.Random) -> float:
        return -1.0


@dataclass(frozen=True, slots=True)
class RandomTransmission:
    """Transmit a drawn share of the data, whatever they are."""

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; allowed: 0 to 1")

    def score(self, reading: ExitReading, snr_db: float, rng: random.Random) -> float:
        return self.share - rng.random()


@dataclass(frozen=True, slots=True)
class ConfidenceTransmission:
    """Transmit when the confidence is below the threshold tau, whatever the SNR."""

    threshold: float = 0.8  # tau

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; allowed: 0 (never transmit) to 1")

    def score(self, reading: ExitReading, snr_db: float, rng: random.Random) -> float:
        return self.threshold - reading.confidence


@dataclass(frozen=True, slots=True)
class EntropyTransmission:
    """Transmit when the entropy of the exit's shares is above the threshold, whatever the SNR."""

    threshold: float = 0.5  # nats

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < math.inf:
            raise ValueError(f"threshold is {self.threshold}; allowed: 0 nats or more")

    def score(self, reading: ExitReading, snr_db: float, rng: random.Random) -> float:
        return reading.entropy - self.threshold


@dataclass(frozen=True, slots=True)
class SnrThreshold:
    """A confidence threshold that follows the SNR, tau(SNR), linear between the SNRs it was tuned at."""

    snr_db: tuple[float, ...]  # ascending
    thresholds: tuple[float, ...]  # tau at each of them

    def __post_init__(self) -> None:
        if len(self.snr_db) != len(self.thresholds) or not self.snr_db:
            raise ValueError(
                f"thresholds has {len(self.thresholds)} entries for {len(self.snr_db)} SNRs; allowed: as many"
            )
        if any(not low < high for low, high in pairwise((-math.inf, *self.snr_db, math.inf))):
            raise ValueError(f"snr_db is {self.snr_db}; allowed: finite, from low to high")
        if any(not 0 <= threshold <= 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds are {self.thresholds}; allowed: 0 to 1")

    def threshold(self, snr_db: float) -> float:
        """tau at an SNR; beyond those known, that of the nearest."""
        above = bisect.bisect_left(self.snr_db, snr_db)
        if above == 0 or above == len(self.snr_db):
            return self.thresholds[min(above, len(self.snr_db) - 1)]
        (low, high), (first, last) = self.snr_db[above - 1 : above + 1], self.thresholds[above - 1 : above + 1]
        return first + (last - first) * (snr_db - low) / (high - low)

    def score(self, reading: ExitReading, snr_db: float, rng: random.Random) -> float:
        return self.threshold(snr_db) - reading.confidence


@dataclass(frozen=True, slots=True)
class LearnedTransmission:
    """Transmit when a small network expects to gain more than `price` by it.

    One hidden layer makes of the exit's confidence, entropy and class and of the SNR two probabilities: that the far
    side will be right, and that the exit is. Their difference is the accuracy expected from transmitting; the price of
    a transmission, in accuracy, is what it has to be worth. The inputs are those of `inputs`. Ours: the paper's network
    and loss are not known.
    """

    hidden: tuple[tuple[float, ...], ...]  # a row per unit: a weight per input, then its bias
    output: tuple[tuple[float, ...], ...]  # two rows, far side and exit: a weight per unit, then the bias
    price: float = 0.0

    def __post_init__(self) -> None:
        width = {len(row) for row in self.hidden}
        if len(width) != 1 or len(self.output) != 2 or any(len(row) != len(self.hidden) + 1 for row in self.output):
            raise ValueError("hidden wants rows of one length, output two rows of as many weights as units and a bias")
        if min(width) < _FIXED + 2:
            raise ValueError(f"a row of hidden has {min(width)} weights; allowed: {_FIXED} + classes + 1")
        if not all(map(math.isfinite, (x for row in (*self.hidden, *self.output) for x in row))):
            raise ValueError("a weight is not a number")
        if not -1 <= self.price <= 1:
            raise ValueError(f"price is {self.price}; allowed: -1 to 1, in shares of accuracy")

    @property
    def classes(self) -> int:
        return len(self.hidden[0]) - 1 - _FIXED

    def score(self, reading: ExitReading, snr_db: float, rng: random.Random) -> float:
        known = inputs(reading, snr_db, self.classes)
        units = [max(0.0, _dot(row, known)) for row in self.hidden]
        far, early = (_sigmoid(_dot(row, units)) for row in self.output)
        return far - early - self.price


_FIXED = 4  # inputs before those of the classes


def inputs(reading: ExitReading, snr_db: float, classes: int) -> list[float]:
    """What the learned rule looks at: odds of the confidence, entropy, the SNR within -20..30 dB, the class."""
    sure = min(max(reading.confidence, 1e-4), 1 - 1e-4)
    place = (min(max(snr_db, -20.0), 30.0) - 5.0) / 15.0
    said = [1.0 if reading.prediction == c else 0.0 for c in range(classes)]
    return [math.log(sure / (1 - sure)) / 4.0, reading.confidence, reading.entropy, place, *said]


def genie(early_right: bool, far_right: bool) -> bool:
    """Transmit exactly when only the far side is right: the bound of any rule, with fewest transmissions."""
    return far_right and not early_right


def _dot(row: Sequence[float], values: Sequence[float]) -> float:
    """Weights times values, plus the bias, which is the row's last."""
    return math.fsum(weight * value for weight, value in zip(row, values, strict=False)) + row[-1]


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
