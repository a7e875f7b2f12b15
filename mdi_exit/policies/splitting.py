"""Where to cut a multi-exit network between a device and a server: rewards, costs, and the rules that learn nothing.

The device runs layers 1..i, the splitting layer i being an exit; a sample that is confident there is answered, any
other is sent to the server, which finishes it for nothing. SplitEE and its relatives learn i (bandit.py); the rules
here are what they are compared with. Exits and arms are numbered from 1, as in the papers. Formulae as read in the
authors' code (docs/splitee.md says of each number how well it is known).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Row = Sequence[float]  # the confidences of one sample at exits 1..L
SUM_TOLERANCE = 1e-3  # of probabilities: halves rounded once


@dataclass(frozen=True, slots=True)
class Setting:
    """A network's exits and what computing and offloading cost, all in the reward's unit: confidence.

    Defaults are those of SplitEE's code (read), of which the threshold is one per data set, 0.70 to 0.85; I-SplitEE's
    code has depths in layers of MobileNetV2, threshold 0.5 and exit_share 0. Raises ValueError in one line.
    """

    depths: tuple[float, ...]  # d_1 < ... < d_L: layers up to and including each exit
    threshold: float = 0.7  # alpha; a sample is answered at the splitting layer when C_i >= alpha
    layer_cost: float = 0.1  # lambda, of one layer
    offload_cost: float = 0.5  # o; 0.1 to 0.6 in the papers
    exit_share: float = 0.2  # of lambda, for evaluating one exit; the rest is the layer's own. Reported cost only
    exchange: float = 1.0  # mu, how much confidence a unit of cost is worth

    def __post_init__(self) -> None:
        depths = (0.0, *self.depths)
        if len(self.depths) < 2 or any(not a < b < math.inf for a, b in pairwise(depths)):
            raise ValueError(f"depths are {self.depths}; allowed: 2 or more, growing, the first above 0")
        for name in ("threshold", "exit_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name):g}; allowed: 0 to 1")
        for name in ("layer_cost", "offload_cost", "exchange"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name):g}; allowed: a number of 0 or more")

    @property
    def exits(self) -> int:
        """L."""
        return len(self.depths)

    def answers(self, i: int, confidence: float) -> bool:
        """Whether a sample that is so confident at exit i is answered there."""
        return i == self.exits or confidence >= self.threshold

    def reward(self, i: int, confidence: float, final: float) -> float:
        """r(i) = C_i - mu lambda d_i if answered at i, else C_L - mu (lambda d_i + o). Uses no label."""
        run = self.layer_cost * self.depths[i - 1]
        if self.answers(i, confidence):
            return confidence - self.exchange * run
        return final - self.exchange * (run + self.offload_cost)

    def rewards(self, row: Row) -> tuple[float, ...]:
        """The reward of every splitting layer for one sample."""
        return tuple(self.reward(i, confidence, row[-1]) for i, confidence in enumerate(row, 1))

    def cost(self, i: int, heads: int, offloaded: bool) -> float:
        """The cost that is reported, unlike the reward's: layers 1..i, `heads` exits evaluated, perhaps offloaded."""
        own = (1 - self.exit_share) * self.depths[i - 1] + self.exit_share * heads
        return self.layer_cost * own + self.offload_cost * offloaded


@dataclass(frozen=True, slots=True)
class Play:
    """What was done with one sample."""

    arm: int | None  # that was played, from 1; None of a rule that plays none
    exit: int  # whose prediction is the answer, from 1
    offloaded: bool
    cost: float  # as reported
    reward: float


def split_at(setting: Setting, i: int, row: Row, heads: int) -> Play:
    """Run layers 1..i on the device with `heads` exits evaluated; answer there or offload."""
    offloaded = not setting.answers(i, row[i - 1])
    at = setting.exits if offloaded else i
    return Play(i, at, offloaded, setting.cost(i, heads, offloaded), setting.reward(i, row[i - 1], row[-1]))


@dataclass(frozen=True, slots=True)
class FixedSplit:
    """Always split at exit `at`: in hindsight, the best of these is what regret is measured against."""

    at: int

    def play(self, setting: Setting, row: Row, rng: random.Random) -> Play:
        return split_at(setting, self.at, row, heads=1)


@dataclass(frozen=True, slots=True)
class FinalExit:
    """All layers on the device, all exits evaluated: lambda d_L at lambda per layer, as the papers count it."""

    def play(self, setting: Setting, row: Row, rng: random.Random) -> Play:
        return split_at(setting, setting.exits, row, heads=setting.exits)


@dataclass(frozen=True, slots=True)
class RandomSplit:
    """A splitting layer drawn evenly for each sample."""

    def play(self, setting: Setting, row: Row, rng: random.Random) -> Play:
        return split_at(setting, rng.randint(1, setting.exits), row, heads=1)


@dataclass(frozen=True, slots=True)
class FirstConfident:
    """The first exit that is confident, all on the device, as ElasticBERT does; the code tries none before `least`."""

    least: int = 2

    def play(self, setting: Setting, row: Row, rng: random.Random) -> Play:
        deep = range(min(self.least, setting.exits), setting.exits + 1)
        at = next(i for i in deep if setting.answers(i, row[i - 1]))
        return Play(None, at, False, setting.cost(at, at, False), setting.reward(at, row[at - 1], row[-1]))


def best_split(setting: Setting, rows: Sequence[Row]) -> int:
    """The splitting layer with the highest mean reward in hindsight; of equals, the first."""
    means = mean_rewards([setting.rewards(row) for row in rows])
    return means.index(max(means)) + 1


def mean_rewards(rewards: Sequence[Sequence[float]]) -> list[float]:
    """The mean reward of every arm, of rewards per sample and arm."""
    return [math.fsum(column) / len(rewards) for column in zip(*rewards, strict=True)]


# ---- recordings


def readings(
    tables: Sequence[Sequence[Sequence[float]]], labels: Sequence[int]
) -> tuple[list[list[float]], list[list[bool]]]:
    """Confidences and correctness (samples x exits) of whole probability tables (samples x exits x classes).

    Raises ValueError, one line that names sample and exit (from 1), where a row is no distribution.
    """
    if len(tables) != len(labels):
        raise ValueError(f"{len(tables)} samples with probabilities, {len(labels)} labels; allowed: as many")
    for number, table in enumerate(tables, 1):
        for k, row in enumerate(table, 1):
            if not all(0 <= share <= 1 for share in row) or abs(math.fsum(row) - 1) > SUM_TOLERANCE:
                raise ValueError(
                    f"probabilities of sample {number}, exit {k}: {list(row)[:8]}; allowed: 0 to 1, adding up to 1"
                )
    confidences = [[float(max(row)) for row in table] for table in tables]
    said = [[max(range(len(row)), key=row.__getitem__) for row in table] for table in tables]
    return confidences, correctness(said, labels)


def correctness(predictions: Sequence[Sequence[int]], labels: Sequence[int]) -> list[list[bool]]:
    """Whether each exit was right, of predictions (samples x exits) and labels; raises ValueError."""
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} samples with predictions, {len(labels)} labels; allowed: as many")
    return [[bool(one == label) for one in row] for row, label in zip(predictions, labels, strict=True)]


def checked(
    confidences: Sequence[Row], correct: Sequence[Sequence[bool]] | None, setting: Setting
) -> list[tuple[float, ...]]:
    """The rows as plain numbers; raises ValueError naming sample and exit, both from 1."""
    rows = [tuple(float(value) for value in row) for row in confidences]
    if not rows:
        raise ValueError("confidences: no samples; allowed: 1 or more")
    if correct is not None and len(correct) != len(rows):
        raise ValueError(f"correct: {len(correct)} samples; allowed: {len(rows)}, as many as confidences")
    for number, row in enumerate(rows, 1):
        widths = [("confidences", len(row))] + ([] if correct is None else [("correct", len(correct[number - 1]))])
        for name, width in widths:
            if width != setting.exits:
                raise ValueError(f"{name} of sample {number}: {width} exits; allowed: {setting.exits}, one per depth")
        for k, value in enumerate(row, 1):
            if not 0 <= value <= 1:
                raise ValueError(f"confidence of sample {number}, exit {k}: {value}; allowed: 0 to 1")
    return rows
