"""Which exit thresholds a guarantee tries, in which order: fixed before it looks at the images it is chosen on.

A sequence is an array (M, K-1), a row of thresholds for all exits but the last; the first row is all ones, where
nothing leaves early. One threshold for all exits needs no data. One per exit is sought on images of its own, as in
Pareto testing (Laufer-Goldshtein et al. 2023), the search being ours: for ever dearer computing, those with the lowest

    share of images that go wrong + price of computing * mean share of the segments that an image takes

found exit by exit, which is exact for one exit when the others are held, and with straight steps between.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdi_exit.analysis.calibrated import Floats

COMMON, PER_EXIT = "common", "per-exit"
LEVELS = tuple(round(1 - step / 200, 3) for step in range(191))  # 1.000, 0.995, ... 0.050
# Of all segments of an image, in images gone wrong: from where hardly anything leaves to where nearly all do.
_PRICES = np.geomspace(1e-3, 3.0, 120)
_STRIDE = 2  # levels at once on the way from one price's thresholds to the next one's
_ROUNDS_MAX = 20  # over the exits at one price; it settles in a few


def common(exits: int) -> Floats:
    """The same threshold at every exit, ever lower."""
    return np.repeat(np.array(LEVELS)[:, None], exits - 1, axis=1)


def per_exit(confidence: Floats, wrong: NDArray[np.bool_]) -> Floats:
    """A threshold for each exit, sought on images with confidences (N, K) that go `wrong` (N, K) if they leave there.

    An image leaves at the first exit where its confidence is above the threshold, as in the cores.
    """
    exits = confidence.shape[1]
    levels = np.array(LEVELS)
    # the number of the first level below the confidence: from there on the image may leave
    below = np.searchsorted(-levels, -confidence[:, : exits - 1], side="right")
    at = np.zeros(exits - 1, dtype=np.int64)  # thresholds, as numbers of levels
    found = [at]
    for price in _PRICES:
        loss = wrong + price * np.arange(1, exits + 1) / exits
        for _ in range(_ROUNDS_MAX):
            before = at
            at = _round(below, loss, at)
            if np.array_equal(before, at):
                break
        found += _between(found[-1], at)
    chosen: Floats = levels[np.array(found)]
    return chosen


def _round(below: NDArray[np.int64], loss: Floats, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """The best level of each exit in turn, from the last to the first, the other exits' being as they are."""
    at = at.copy()
    beyond = loss[:, -1]  # what an image costs that does not leave at exit k or before
    for k in reversed(range(len(at))):
        here = ~(below[:, :k] <= at[:k]).any(axis=1)
        gains = np.bincount(below[here, k], (loss[:, k] - beyond)[here], minlength=len(LEVELS) + 1)
        at[k] = np.argmin(np.cumsum(gains[: len(LEVELS)]))
        beyond = np.where(below[:, k] <= at[k], loss[:, k], beyond)
    return at


def _between(start: NDArray[np.int64], end: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Straight steps after `start` up to and including `end`; none when they are the same."""
    steps = -(-int(np.abs(end - start).max()) // _STRIDE)
    return [np.round(start + (end - start) * step / steps).astype(np.int64) for step in range(1, steps + 1)]
