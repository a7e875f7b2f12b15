"""Arrival processes: when data come from outside."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0")


@dataclass(frozen=True, slots=True)
class ConstantArrivals:
    """One datum every 1 / rate_per_s seconds."""

    rate_per_s: float

    def __post_init__(self) -> None:
        _positive(rate_per_s=self.rate_per_s)

    @property
    def mean_interarrival_s(self) -> float:
        return 1 / self.rate_per_s

    def gaps(self, rng: random.Random) -> Iterator[float]:
        while True:
            yield 1 / self.rate_per_s


@dataclass(frozen=True, slots=True)
class PoissonArrivals:
    """Independent arrivals, rate_per_s on average."""

    rate_per_s: float

    def __post_init__(self) -> None:
        _positive(rate_per_s=self.rate_per_s)

    @property
    def mean_interarrival_s(self) -> float:
        return 1 / self.rate_per_s

    def gaps(self, rng: random.Random) -> Iterator[float]:
        while True:
            yield rng.expovariate(self.rate_per_s)


@dataclass(frozen=True, slots=True)
class BurstyArrivals:
    """A Poisson process that switches between a quiet and a burst rate after exponential stays (a Markov-modulated
    Poisson process)."""

    rate_per_s: float  # while quiet
    burst_rate_per_s: float
    quiet_s: float = 5.0  # mean stay
    burst_s: float = 1.0  # mean stay

    def __post_init__(self) -> None:
        _positive(
            rate_per_s=self.rate_per_s,
            burst_rate_per_s=self.burst_rate_per_s,
            quiet_s=self.quiet_s,
            burst_s=self.burst_s,
        )

    @property
    def mean_interarrival_s(self) -> float:
        data = self.rate_per_s * self.quiet_s + self.burst_rate_per_s * self.burst_s
        return (self.quiet_s + self.burst_s) / data

    def gaps(self, rng: random.Random) -> Iterator[float]:
        bursting, left_s, gap_s = False, rng.expovariate(1 / self.quiet_s), 0.0
        while True:
            wait_s = rng.expovariate(self.burst_rate_per_s if bursting else self.rate_per_s)
            if wait_s < left_s:
                left_s -= wait_s
                yield gap_s + wait_s
                gap_s = 0.0
            else:  # memoryless, so the draw may be repeated at the other rate from the switch on
                gap_s += left_s
                bursting = not bursting
                left_s = rng.expovariate(1 / (self.burst_s if bursting else self.quiet_s))


@dataclass(frozen=True, slots=True)
class RecordedArrivals:
    """Gaps as they were recorded, once or (`repeat`) over and over."""

    gaps_s: tuple[float, ...]
    repeat: bool = True

    def __post_init__(self) -> None:
        if not self.gaps_s or min(self.gaps_s) < 0 or not sum(self.gaps_s) > 0:
            raise ValueError("gaps_s wants at least one gap, none negative, not all zero")

    @property
    def mean_interarrival_s(self) -> float:
        return sum(self.gaps_s) / len(self.gaps_s)

    def gaps(self, rng: random.Random) -> Iterator[float]:
        yield from self.gaps_s
        while self.repeat:
            yield from self.gaps_s
