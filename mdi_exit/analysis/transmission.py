"""Early exit over noisy channels on recorded answers: what each transmission decision is worth (papers.md section 4).

A recording holds what the exit in front of the cut said of each image, and what the last exit answered after the
feature crossed the channel at each of some mean SNRs, once per image and SNR. Every rule can then be judged without the
network: an image is right when the exit was right and it stayed, or the far side was right and it was transmitted.
Torch-free.
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdi_exit.channel import FADINGS
from mdi_exit.core.types import ExitReading
from mdi_exit.errors import UserError
from mdi_exit.policies.transmission import SnrThreshold, TransmissionPolicy
from mdi_exit.softmax import entropy, log_softmax

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_PARTS = ("validation", "test")


class RecordingError(UserError):
    """A recording that is missing, damaged or contradicts itself."""


@dataclass(frozen=True, eq=False)
class Sent:
    """N images, each sent once at each of S mean SNRs over a channel with one kind of fading."""

    confidence: Floats  # (N,) of the exit in front of the cut
    entropy: Floats  # (N,) nats
    prediction: NDArray[np.int64]  # (N,) its class
    label: NDArray[np.int64]  # (N,)
    mean_db: Floats  # (S,)
    snr_db: Floats  # (S, N), as each transmission met it
    far: NDArray[np.int64]  # (S, N), the class that the last exit answered

    @property
    def early_right(self) -> Bools:
        """(N,)"""
        right: Bools = self.prediction == self.label
        return right

    @property
    def far_right(self) -> Bools:
        """(S, N)"""
        right: Bools = self.far == self.label
        return right

    @property
    def gain(self) -> Floats:
        """(S, N): 1 where only the far side is right, -1 where only the exit is, else 0."""
        return self.far_right.astype(np.float64) - self.early_right.astype(np.float64)

    @cached_property
    def readings(self) -> list[ExitReading]:
        """What the exit said, as the device knows it."""
        columns = (self.confidence.tolist(), self.prediction.tolist(), self.entropy.tolist())
        return [ExitReading(*row) for row in zip(*columns, strict=True)]

    def accuracy(self, transmitted: Bools) -> Floats:
        """Per SNR, for decisions (S, N)."""
        share: Floats = np.where(transmitted, self.far_right, self.early_right).mean(axis=1)
        return share

    def scores(self, policy: TransmissionPolicy, seed: int, mean_only: bool = False) -> Floats:
        """A rule's scores (S, N). With `mean_only` the device knows the mean SNR alone, not how this one faded."""
        rng = random.Random(seed)
        known = np.broadcast_to(self.mean_db[:, None], self.snr_db.shape) if mean_only else self.snr_db
        rows = [
            [policy.score(reading, snr_db, rng) for reading, snr_db in zip(self.readings, row, strict=True)]
            for row in known.tolist()
        ]
        return np.array(rows)


@dataclass(frozen=True, slots=True, eq=False)
class RecordedLink:
    """What an analog link does to one network's answers: on images to tune with and on others to report on."""

    validation: dict[str, Sent]  # by fading
    test: dict[str, Sent]
    clean_accuracy: float  # of the last exit on the test images with no channel in between, and no encoder or decoder
    cut: int  # the segment after which the feature is sent
    uses: int  # B
    feature_bytes: int  # of the feature in front of the encoder, in fp32
    card: str  # `Card.identity` of the checkpoint

    @classmethod
    def load(cls, path: Path) -> RecordedLink:
        """Read a file; raises RecordingError in one line that names it and what is wrong."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                held, test = ({fading: _sent(content, part, fading) for fading in FADINGS} for part in _PARTS)
                clean = float(content["clean_accuracy"])
                cut, uses, size = (int(content[name]) for name in ("cut", "uses", "feature_bytes"))
                return cls(held, test, clean, cut, uses, size, str(content["card"]))
        except FileNotFoundError as error:
            raise RecordingError(f"{path}: no such file; `noisy_channel.py --train` writes one") from error
        except RecordingError as error:
            raise RecordingError(f"{path}: {error}") from error
        except KeyError as error:
            raise RecordingError(f"{path}: {error.args[0]}") from error
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise RecordingError(f"{path}: not readable ({error})") from error


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Write a recording's arrays (named as `_sent` reads them) as a compressed npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def _sent(content: Any, part: str, fading: str) -> Sent:
    logits = content[f"{part}_exit_logits"].astype(np.float32)
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise RecordingError(f"{part}_exit_logits: N x classes finite numbers are wanted")
    shares = log_softmax(logits, float(content["temperature"]))
    label = content[f"{part}_label"].astype(np.int64)
    mean_db = content["mean_db"].astype(np.float64)
    snr_db = content[f"{part}_{fading}_snr_db"].astype(np.float64)
    far = content[f"{part}_{fading}_far"].astype(np.int64)
    if not np.isfinite(snr_db).all() or not np.isfinite(mean_db).all() or (np.diff(mean_db) <= 0).any():
        raise RecordingError("mean_db and snr_db: finite numbers are wanted, mean_db from low to high")
    if far.shape != (len(mean_db), len(label)) or snr_db.shape != far.shape or label.shape != logits.shape[:1]:
        raise RecordingError(f"{part}, {fading}: far {far.shape}, snr_db {snr_db.shape}, {len(label)} labels disagree")
    confidence = np.exp(shares.max(axis=1)).clip(0.0, 1.0)
    return Sent(confidence, entropy(shares), logits.argmax(axis=1), label, mean_db, snr_db, far)


def best_limit(doubt: Floats, gain: Floats, price: float = 0.0) -> float:
    """The limit on `doubt` above which transmitting earns most in all, when each transmission costs `price`.

    `doubt` and `gain` have one shape. Infinity when nothing is worth transmitting. Exact: every limit between two
    neighbouring doubts is tried; among equals the one with fewest transmissions.
    """
    order = np.argsort(-doubt, axis=None, kind="stable")
    ranked = doubt.ravel()[order]
    earned = np.concatenate([[0.0], np.cumsum(gain.ravel()[order] - price)])
    ends = np.concatenate([[True], np.append(ranked[1:] < ranked[:-1], True)])  # equal doubts go together
    count = int(np.argmax(np.where(ends, earned, -np.inf)))
    if count == 0:
        return float("inf")
    return float(ranked[count - 1] + ranked[count]) / 2 if count < len(ranked) else float("-inf")


def tuned(sent: Sent, price: float = 0.0) -> SnrThreshold:
    """A confidence threshold for each mean SNR of a recording, the best there at that price of a transmission."""
    found = []
    for gain in sent.gain:
        limit = best_limit(1.0 - sent.confidence, gain, price)
        found.append(float(np.clip(1.0 - limit, 0.0, 1.0)))
    return SnrThreshold(tuple(sent.mean_db.tolist()), tuple(found))


def trade_off(scores: Floats, sent: Sent, shares: Sequence[float]) -> list[float]:
    """Accuracy over all data and SNRs when the `share` of highest score is transmitted, for each share.

    `scores` is (S, N), or (1, N) with a recording of one SNR. Equal scores are taken in the order they are in.
    """
    order = np.argsort(-scores, axis=None, kind="stable")
    base = float(np.broadcast_to(sent.early_right, scores.shape).mean())
    earned = np.concatenate([[0.0], np.cumsum(sent.gain.ravel()[order])]) / scores.size
    return [base + float(earned[round(share * scores.size)]) for share in shares]


def at(sent: Sent, number: int) -> Sent:
    """The recording at its mean SNR of that number alone."""
    one = slice(number, number + 1)
    said = (sent.confidence, sent.entropy, sent.prediction, sent.label)
    return Sent(*said, sent.mean_db[one], sent.snr_db[one], sent.far[one])


def some(sent: Sent, images: NDArray[np.int64]) -> Sent:
    """The recording of those images alone, each as often as it is named."""
    confidence, entropy = sent.confidence[images], sent.entropy[images]
    said = (confidence, entropy, sent.prediction[images], sent.label[images])
    return Sent(*said, sent.mean_db, sent.snr_db[:, images], sent.far[:, images])


def enough(scores: Floats, sent: Sent, wanted: float) -> float | None:
    """The limit on the scores of one SNR (1, N) with fewest transmissions whose accuracy is `wanted` or more."""
    order = np.argsort(-scores, axis=None, kind="stable")
    ranked = scores.ravel()[order]
    base = float(sent.early_right.mean())
    shares = base + np.concatenate([[0.0], np.cumsum(sent.gain.ravel()[order])]) / scores.size
    reached = np.flatnonzero(shares >= wanted - 1e-12)
    if not reached.size:
        return None
    count = int(reached[0])
    if count == 0:
        return float("inf")
    return float(ranked[count - 1] + ranked[count]) / 2 if count < len(ranked) else float("-inf")
