"""Exit thresholds with a guarantee, chosen on held-out data.

Learn then Test (Angelopoulos et al. 2021) with a fixed sequence of common thresholds, from 1, where nothing leaves
early, downwards. For each the hypothesis "images go wrong more often than may be" is tested with an exact binomial
p-value; the walk ends at the first that cannot be rejected, and the lowest threshold before it is chosen. Because the
sequence was fixed before any of these images was looked at, no correction for the number of tests is needed: with
probability 1 - risk over the draw of the images the promise holds on data like them.

The promise is about data drawn like the held-out ones, about one network with the temperatures it was made with, and
about all answers together, not those of one exit or class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mdi_exit.analysis.calibrated import Floats, Logits
from mdi_exit.errors import UserError
from mdi_exit.models.card import Promise

LABELS, FULL = "labels", "full"  # an answer goes wrong: when it is wrong, or when it is and the last exit's is right
THRESHOLDS = tuple(round(1 - step / 200, 3) for step in range(191))  # 1.000, 0.995, ... 0.050
_RISK = 0.05
FIT_SHARE = 1 / 3  # of the held-out images the temperatures are fitted to, so that the sequence is fixed for the rest


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be guaranteed; raises UserError for what cannot be."""

    target: float  # accuracy, or the share of images that leaving early must not spoil
    risk: float  # how probable it may be that the promise does not hold
    against: str = LABELS

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise UserError(f"--target-accuracy {self.target:g}: allowed is a share above 0 and below 1")
        if not 0 < self.risk < 1:
            raise UserError(f"--risk {self.risk:g}: allowed is a probability above 0 and below 1")
        if self.against not in (LABELS, FULL):
            raise UserError(f"--against {self.against}: allowed are {LABELS}, {FULL}")


def wish_of(target: float | None, risk: float | None, confidence: float | None, against: str) -> Wish | None:
    """The wish that the command line expresses; raises UserError where it contradicts itself or is half of one."""
    if target is None:
        if risk is not None or confidence is not None or against != LABELS:
            raise UserError("--risk, --confidence and --against are about --target-accuracy, which is missing")
        return None
    if risk is not None and confidence is not None:
        raise UserError(f"--risk {risk:g} --confidence {confidence:g}: one says the other; allowed is one of them")
    if confidence is not None and not 0 < confidence < 1:
        raise UserError(f"--confidence {confidence:g}: allowed is a probability above 0 and below 1")
    if risk is None:
        risk = _RISK if confidence is None else 1 - confidence
    return Wish(target, risk, against)


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """What every threshold of the sequence would have done with N images."""

    wrong: NDArray[np.bool_]  # (thresholds, N): went wrong, as `against` says
    leaves: NDArray[np.int8]  # (thresholds, N): at which exit it left, counted from 0

    def rows(self, chosen: NDArray[np.int64]) -> Walk:
        """Of these images only."""
        return Walk(self.wrong[:, chosen], self.leaves[:, chosen])


def walk(said: Logits, temperatures: Sequence[float], against: str) -> Walk:
    """Send the images through the exits at every threshold; compared strictly, in double precision, as the cores do."""
    confidence: Floats = said.confidence(temperatures)
    right = said.prediction == said.label[:, None]
    last = right.shape[1] - 1
    images = np.arange(len(right))
    wrong = np.empty((len(THRESHOLDS), len(right)), dtype=np.bool_)
    leaves = np.empty(wrong.shape, dtype=np.int8)
    for number, threshold in enumerate(THRESHOLDS):
        sure = confidence[:, :last] > threshold
        leaves[number] = np.where(sure.any(axis=1), sure.argmax(axis=1), last)
        wrong[number] = ~right[images, leaves[number]]
        if against == FULL:
            wrong[number] &= right[:, last]
    return Walk(wrong, leaves)


def p_values(wrong: NDArray[np.bool_], limit: float) -> Floats:
    """For each threshold: how probable so few wrong answers are if they were more frequent than `limit`."""
    return np.asarray(stats.binom.cdf(wrong.sum(axis=1), wrong.shape[1], limit), dtype=np.float64)


def choose(walked: Walk, wish: Wish) -> int | None:
    """The number in THRESHOLDS of the lowest that keeps the promise, or None when not even the first does."""
    kept = p_values(walked.wrong, 1 - wish.target) <= wish.risk
    return None if not kept[0] else len(kept) - 1 if kept.all() else int(np.argmin(kept)) - 1


def best_reachable(walked: Walk, wish: Wish) -> float:
    """The highest target for which a threshold would be found: the first one's exact (Clopper-Pearson) bound."""
    count, wrong = walked.wrong.shape[1], int(walked.wrong[0].sum())
    if wrong == count:
        return 0.0
    return 1 - float(stats.beta.ppf(1 - wish.risk, wrong + 1, count - wrong))


def promise(said: Logits, temperatures: Sequence[float], wish: Wish, data: str) -> Promise:
    """Choose the threshold; raises UserError that says the best reachable when none keeps the promise."""
    walked = walk(said, temperatures, wish.against)
    number = choose(walked, wish)
    if number is None:
        best = math.floor(10_000 * best_reachable(walked, wish)) / 10_000
        raise UserError(
            f"--target-accuracy {wish.target:g}: no threshold reaches it with confidence {1 - wish.risk:g} on "
            f"{len(said.label)} images; the best reachable is {best:.4f}"
        )
    threshold = THRESHOLDS[number]
    return Promise(
        thresholds=(threshold,) * (len(said.logits) - 1),
        target=wish.target,
        risk=wish.risk,
        against=wish.against,
        data=data,
        images=len(said.label),
        found=1 - float(walked.wrong[number].mean()),
        exits=exit_shares(walked, number),
    )


def kept(said: Logits, temperatures: Sequence[float], made: Promise) -> tuple[float, tuple[float, ...]]:
    """Of other images: the share that did not go wrong under the promise's thresholds, and who left at which exit."""
    walked = walk(said, temperatures, made.against)
    number = THRESHOLDS.index(made.thresholds[0])
    return 1 - float(walked.wrong[number].mean()), exit_shares(walked, number)


def in_words(made: Promise) -> str:
    """One line that says what is promised, and what it rests on."""
    what = "of all answers are right" if made.against == LABELS else "of all answers are not spoilt by leaving early"
    here = outcome(made.against, made.found, made.exits)
    return (
        f"Threshold {made.thresholds[0]:g}: with confidence {1 - made.risk:g}, at least {100 * made.target:g} % {what} "
        f"(on the {made.images} images it was chosen on: {here})."
    )


def outcome(against: str, share: float, exits: Sequence[float]) -> str:
    """What happened to images, in words."""
    leaving = ", ".join(f"{100 * each:.1f}" for each in exits)
    return f"{100 * share:.2f} % {'right' if against == LABELS else 'not spoilt'}; leaving at exits {leaving} %"


def exit_shares(walked: Walk, number: int) -> tuple[float, ...]:
    """The share of images that leave at each exit."""
    exits = int(walked.leaves[0].max()) + 1  # at a threshold of 1 all go to the last
    counts = np.bincount(walked.leaves[number], minlength=exits)
    return tuple(float(count) / walked.leaves.shape[1] for count in counts)
