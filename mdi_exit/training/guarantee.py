"""Exit thresholds with a guarantee, chosen on held-out data.

Learn then Test (Angelopoulos et al. 2021) with a fixed sequence of thresholds (sequence.py) that begins where nothing
leaves early. For each the hypothesis "images go wrong more often than may be" is tested with an exact binomial p-value;
the walk ends at the first that cannot be rejected, and the one before it is chosen. Because the sequence was fixed
before any of these images was looked at, no correction for the number of tests is needed: with probability 1 - risk
over the draw of the images the promise holds on data like them.

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
from mdi_exit.training import sequence
from mdi_exit.training.sequence import COMMON, PER_EXIT

LABELS, FULL = "labels", "full"  # an answer goes wrong: when it is wrong, or when it is and the last exit's is right
_RISK = 0.05
FIT_SHARE = 1 / 3  # of the held-out images: temperatures and sequence come from these, and are fixed for the rest


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be guaranteed; raises UserError for what cannot be."""

    target: float  # accuracy, or the share of images that leaving early must not spoil
    risk: float  # how probable it may be that the promise does not hold
    against: str = LABELS
    exits: str = PER_EXIT  # a threshold for each, or a common one

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise UserError(f"--target-accuracy {self.target:g}: allowed is a share above 0 and below 1")
        if not 0 < self.risk < 1:
            raise UserError(f"--risk {self.risk:g}: allowed is a probability above 0 and below 1")
        if self.against not in (LABELS, FULL):
            raise UserError(f"--against {self.against}: allowed are {LABELS}, {FULL}")
        if self.exits not in (PER_EXIT, COMMON):
            raise UserError(f"--thresholds {self.exits}: allowed are {PER_EXIT}, {COMMON}")


def wish_of(
    target: float | None, risk: float | None, confidence: float | None, against: str, exits: str = PER_EXIT
) -> Wish | None:
    """The wish that the command line expresses; raises UserError where it contradicts itself or is half of one."""
    if target is None:
        if risk is not None or confidence is not None or (against, exits) != (LABELS, PER_EXIT):
            words = "--risk, --confidence, --against and --thresholds are about --target-accuracy, which is missing"
            raise UserError(words)
        return None
    if risk is not None and confidence is not None:
        raise UserError(f"--risk {risk:g} --confidence {confidence:g}: one says the other; allowed is one of them")
    if confidence is not None and not 0 < confidence < 1:
        raise UserError(f"--confidence {confidence:g}: allowed is a probability above 0 and below 1")
    if risk is None:
        risk = _RISK if confidence is None else 1 - confidence
    return Wish(target, risk, against, exits)


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """What each of M thresholds of a sequence would have done with N images."""

    sequence: Floats  # (M, K-1)
    wrong: NDArray[np.bool_]  # (M, N): went wrong, as `against` says
    leaves: NDArray[np.int8]  # (M, N): at which exit it left, counted from 0

    def rows(self, chosen: NDArray[np.int64]) -> Walk:
        """Of these images only."""
        return Walk(self.sequence, self.wrong[:, chosen], self.leaves[:, chosen])


def goes_wrong(said: Logits, against: str) -> NDArray[np.bool_]:
    """(N, K): whether an image goes wrong that leaves at an exit."""
    wrong: NDArray[np.bool_] = said.prediction != said.label[:, None]
    return wrong & ~wrong[:, -1:] if against == FULL else wrong


def sequence_for(wish: Wish, fitted: Logits, temperatures: Sequence[float]) -> Floats:
    """The thresholds to try, of images that have no part in the choice: those the temperatures were fitted to, say."""
    if wish.exits == COMMON:
        return sequence.common(len(temperatures))
    return sequence.per_exit(fitted.confidence(temperatures), goes_wrong(fitted, wish.against))


def walk(said: Logits, temperatures: Sequence[float], against: str, thresholds: Floats) -> Walk:
    """Send the images through the exits at each of (M, K-1) thresholds; compared strictly, in doubles, as in cores."""
    confidence: Floats = said.confidence(temperatures)
    goes = goes_wrong(said, against)
    last = goes.shape[1] - 1
    images = np.arange(len(goes))
    wrong = np.empty((len(thresholds), len(goes)), dtype=np.bool_)
    leaves = np.empty(wrong.shape, dtype=np.int8)
    for number, row in enumerate(thresholds):
        sure = confidence[:, :last] > row
        leaves[number] = np.where(sure.any(axis=1), sure.argmax(axis=1), last)
        wrong[number] = goes[images, leaves[number]]
    return Walk(thresholds, wrong, leaves)


def p_values(wrong: NDArray[np.int64], images: int, limit: float) -> Floats:
    """How probable so few wrong answers (any shape) among these images are if they were more frequent than `limit`."""
    table = stats.binom.cdf(np.arange(images + 1), images, limit)
    return np.asarray(table[wrong], dtype=np.float64)


def choose(walked: Walk, wish: Wish) -> int | None:
    """The number in the sequence of the last that keeps the promise, or None when not even the first does."""
    (number,) = choose_each(walked.wrong.sum(axis=1)[:, None], walked.wrong.shape[1], wish)
    return None if number < 0 else int(number)


def choose_each(wrong: NDArray[np.int64], images: int, wish: Wish) -> NDArray[np.int64]:
    """The same for each of S draws of so many images, of how many go wrong at each threshold (M, S); -1 for None."""
    kept = p_values(wrong, images, 1 - wish.target) <= wish.risk
    numbers: NDArray[np.int64] = np.where(kept.all(axis=0), len(kept), kept.argmin(axis=0)) - 1
    return numbers


def best_reachable(walked: Walk, wish: Wish) -> float:
    """The highest target for which a threshold would be found: the first one's exact (Clopper-Pearson) bound."""
    count, wrong = walked.wrong.shape[1], int(walked.wrong[0].sum())
    if wrong == count:
        return 0.0
    return 1 - float(stats.beta.ppf(1 - wish.risk, wrong + 1, count - wrong))


def promise(said: Logits, temperatures: Sequence[float], wish: Wish, thresholds: Floats, data: str) -> Promise:
    """Choose of (M, K-1) thresholds; raises UserError that says the best reachable when none keeps the promise."""
    walked = walk(said, temperatures, wish.against, thresholds)
    number = choose(walked, wish)
    if number is None:
        best = math.floor(10_000 * best_reachable(walked, wish)) / 10_000
        raise UserError(
            f"--target-accuracy {wish.target:g}: no thresholds reach it with confidence {1 - wish.risk:g} on "
            f"{len(said.label)} images; the best reachable is {best:.4f}"
        )
    return Promise(
        thresholds=tuple(walked.sequence[number].tolist()),
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
    walked = walk(said, temperatures, made.against, np.array([made.thresholds]))
    return 1 - float(walked.wrong[0].mean()), exit_shares(walked, 0)


def in_words(made: Promise) -> str:
    """One line that says what is promised, and what it rests on."""
    what = "of all answers are right" if made.against == LABELS else "of all answers are not spoilt by leaving early"
    here = outcome(made.against, made.found, made.exits)
    chosen = as_words(made.thresholds)
    return (
        f"{'Thresholds' if len(chosen) > 1 else 'Threshold'} {', '.join(chosen)}: with confidence {1 - made.risk:g}, "
        f"at least {100 * made.target:g} % {what} "
        f"(on the {made.images} images of the choice: {here})."
    )


def as_words(thresholds: Sequence[float]) -> list[str]:
    """The numbers; one where it is the same for all exits."""
    return [f"{each:g}" for each in (thresholds[:1] if len(set(thresholds)) == 1 else thresholds)]


def outcome(against: str, share: float, exits: Sequence[float]) -> str:
    """What happened to images, in words."""
    leaving = ", ".join(f"{100 * each:.1f}" for each in exits)
    return f"{100 * share:.2f} % {'right' if against == LABELS else 'not spoilt'}; leaving at exits {leaving} %"


def exit_shares(walked: Walk, number: int) -> tuple[float, ...]:
    """The share of images that leave at each exit."""
    counts = np.bincount(walked.leaves[number], minlength=walked.sequence.shape[1] + 1)
    return tuple(float(count) / walked.leaves.shape[1] for count in counts)
