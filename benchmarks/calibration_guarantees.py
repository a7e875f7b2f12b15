"""The part of benchmarks/calibration.py that breaks promises: exit thresholds with a guarantee, 200 times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdi_exit.analysis.calibrated import RecordedLogits
from mdi_exit.training import guarantee
from mdi_exit.training.sequence import COMMON, PER_EXIT

IMAGES, RISK = 1000, 0.05
DRAWS_PER_SPLIT = 10  # draws are cheap, and a rate near the risk wants many

Row = dict[str, Any]


def guarantees_of(
    name: str, recorded: RecordedLogits, temperatures: Sequence[float], splits: int, seed: int
) -> list[Row]:
    """A row per promise: how often it is broken when thresholds are chosen on few images and judged on all others.

    Thresholds are common to all exits, or one per exit, sought on held-out images. And, as the theory has it: on images
    drawn anew each time from the recorded ones, whose accuracy is then the truth. Naive: the last thresholds of the
    sequence that were good enough on the few.
    """
    test, held = recorded.test, recorded.validation
    whole = float((held.prediction[:, -1] == held.label).mean())
    # the targets follow from held-out images: one and two points below what the whole network reaches there
    targets = [(guarantee.LABELS, math.floor(100 * whole) / 100 - less) for less in (0.01, 0.02)]
    rows: list[Row] = []
    wanted = [*targets, (guarantee.FULL, 0.98), (guarantee.FULL, 0.95)]
    for (against, target), exits in itertools.product(wanted, (COMMON, PER_EXIT)):
        wish = guarantee.Wish(round(target, 2), RISK, against, exits)
        walked = guarantee.walk(test, temperatures, against, guarantee.sequence_for(wish, held, temperatures))
        row = {"measure": "guarantee", "network": name, **asdict(wish), "splits": splits}
        rows.append({**row, **_broken(walked, wish, splits, seed)})
    return rows


def _broken(walked: guarantee.Walk, wish: guarantee.Wish, splits: int, seed: int) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    count = walked.wrong.shape[1]
    few, drawn = np.zeros((count, splits)), np.zeros((count, DRAWS_PER_SPLIT * splits))
    for column in few.T:
        column[generator.permutation(count)[:IMAGES]] = 1
    for column in drawn.T:
        column += np.bincount(generator.integers(0, count, IMAGES), minlength=count)
    total = walked.wrong.sum(axis=1)
    wrong, wrong_drawn = (_times(walked.wrong, counted) for counted in (few, drawn))
    judged = 1 - (total[:, None] - wrong) / (count - IMAGES)  # accuracy on all others
    chosen, chosen_drawn = (guarantee.choose_each(each, IMAGES, wish) for each in (wrong, wrong_drawn))
    enough = 1 - wrong / IMAGES >= wish.target
    naive = len(enough) - 1 - enough[::-1].argmax(axis=0)
    found = np.flatnonzero(chosen >= 0)
    leaves = [walked.leaves[chosen[split], few[:, split] == 0] for split in found]
    last = walked.sequence.shape[1]
    return {
        "found": len(found) / splits,
        "leaves_early": float(np.mean([(each < last).mean() for each in leaves])) if leaves else 0.0,
        "segments": float(np.mean([each.mean() + 1 for each in leaves])) if leaves else float(last + 1),
        "broken": float((judged[chosen, np.arange(splits)] < wish.target)[found].sum()) / splits,
        "broken_drawn_anew": float(((1 - total / count)[chosen_drawn] < wish.target)[chosen_drawn >= 0].sum())
        / len(chosen_drawn),
        "broken_naive": float((enough.any(axis=0) & (judged[naive, np.arange(splits)] < wish.target)).mean()),
    }


def _times(wrong: NDArray[np.bool_], counted: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many go wrong at each threshold, of images counted so often; exact, as sums below 2^24 are in 32 bits."""
    return np.rint(wrong.astype(np.float32) @ counted.astype(np.float32)).astype(np.int64)
