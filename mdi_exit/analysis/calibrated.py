"""Calibrated edge offloading on recorded logits: who is answered at the edge, how rightly, how fast.

Source: papers.md section 3.

The first `edge` branches run on the device. A datum whose calibrated confidence reaches the target at one of them is
answered there. Of all others the feature goes up and the far side runs to the end; when its last exit stays below the
target too, the most confident verdict of all exits counts. Torch-free: what calibrates is `training.calibrate`.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdi_exit.errors import UserError
from mdi_exit.softmax import softmax

ECE_BINS = 15
_ARRAYS = ("validation_logits", "validation_label", "test_logits", "test_label", "payload_bytes", "model", "card")

Floats = NDArray[np.float64]


class LogitsError(UserError):
    """Recorded logits that are missing, damaged or contradict themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """What K exits said of N images: logits (K, N, classes) and the right class of each image (N,)."""

    logits: NDArray[np.float32]
    label: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.logits.ndim != 3 or self.logits.shape[1:2] != self.label.shape or not self.label.size:
            raise LogitsError(f"logits {self.logits.shape} and labels {self.label.shape}: K x N x classes and N wanted")
        if not np.isfinite(self.logits).all():
            raise LogitsError("a logit is not a number")
        if self.label.min() < 0 or self.label.max() >= self.logits.shape[2]:
            raise LogitsError(f"labels must lie in 0..{self.logits.shape[2] - 1}")

    def at_most(self, images: int, seed: int) -> Logits:
        """The same of no more than so many images, drawn without order."""
        if images >= len(self.label):
            return self
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.label))[:images])
        return Logits(self.logits[:, chosen], self.label[chosen])

    @property
    def prediction(self) -> NDArray[np.int64]:
        """(N, K)."""
        classes: NDArray[np.int64] = self.logits.argmax(axis=2).T
        return classes

    def confidence(self, temperatures: Sequence[float]) -> Floats:
        """(N, K): the largest softmax share of each exit's logits, divided by the exit's temperature."""
        said = zip(self.logits, temperatures, strict=True)
        return np.stack([softmax(each, temperature).max(axis=1) for each, temperature in said], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class RecordedLogits:
    """One network's logits on images to calibrate with and on others to report on, kept in 16 bits."""

    validation: Logits  # held out of the training
    test: Logits  # nothing is fitted to these or chosen by them
    payload_bytes: tuple[int, ...]  # K+1; [0] the raw image, [k] what segment k hands on, [K] is 0
    model: str  # "architecture@pixels"
    card: str  # `Card.identity`

    def save(self, path: Path) -> None:
        """Write a compressed npz; the same logits give the same bytes."""
        arrays: dict[str, Any] = {
            "payload_bytes": np.array(self.payload_bytes, dtype=np.int64),
            "model": np.array(self.model, dtype=np.str_),
            "card": np.array(self.card, dtype=np.str_),
        }
        for name, part in (("validation", self.validation), ("test", self.test)):
            arrays[f"{name}_logits"] = part.logits.astype(np.float16)
            arrays[f"{name}_label"] = part.label.astype(np.int16)
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> RecordedLogits:
        """Read a file; raises LogitsError in one line that names it and what is wrong."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                if missing := [name for name in _ARRAYS if name not in content]:
                    raise LogitsError(f"array {missing[0]} is missing")
                validation, test = (
                    Logits(content[f"{name}_logits"].astype(np.float32), content[f"{name}_label"].astype(np.int64))
                    for name in ("validation", "test")
                )
                sizes = tuple(int(size) for size in content["payload_bytes"])
                return cls(validation, test, sizes, str(content["model"]), str(content["card"]))
        except FileNotFoundError as error:
            raise LogitsError(f"{path}: no such file; `mdi-exit calibrate --keep-logits N` writes one") from error
        except LogitsError as error:
            raise LogitsError(f"{path}: {error}") from error
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise LogitsError(f"{path}: not readable ({error})") from error


def bins_of(confidence: Floats) -> NDArray[np.int64]:
    """Into which of ECE_BINS equal bins each confidence falls; a bin holds its upper end."""
    return np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)


def expected_calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Mean distance of accuracy and confidence over the bins, weighted by how many fall into each."""
    number = bins_of(confidence)
    confidence_sum = np.bincount(number, confidence, ECE_BINS)
    correct_sum = np.bincount(number, correct.astype(float), ECE_BINS)
    return float(np.abs(correct_sum - confidence_sum).sum() / len(confidence))


def reliability(confidence: Floats, correct: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """A reliability diagram: (mean confidence, accuracy, how many) of each bin that is not empty."""
    number = bins_of(confidence)
    filled = [number == b for b in range(ECE_BINS) if np.any(number == b)]
    return [(float(confidence[at].mean()), float(correct[at].mean()), int(at.sum())) for at in filled]


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """What became of N data."""

    branch: NDArray[np.int64]  # (N,): the edge branch that answered, counted from 0; `edge` where the far side did
    correct: NDArray[np.bool_]  # (N,)
    edge: int  # so many branches run at the edge

    @property
    def at_edge(self) -> NDArray[np.bool_]:
        return self.branch < self.edge

    @property
    def edge_share(self) -> float:
        """Share answered at the edge."""
        return float(self.at_edge.mean())

    @property
    def edge_accuracy(self) -> float | None:
        """Of those answered at the edge; None when there are none."""
        return float(self.correct[self.at_edge].mean()) if self.at_edge.any() else None

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


def decide(said: Logits, temperatures: Sequence[float], edge: int, target: float) -> Decisions:
    """The decision rule of papers.md 3.2 for every datum; raises ValueError unless 1 <= edge < K."""
    exits = len(said.logits)
    if not 1 <= edge < exits:
        raise ValueError(f"{edge} branches at the edge of {exits} exits; at least one, and one stays for the far side")
    confidence = said.confidence(temperatures)
    reaches = confidence[:, :edge] >= target
    branch = np.where(reaches.any(axis=1), reaches.argmax(axis=1), edge)
    beyond = np.where(confidence[:, -1] >= target, exits - 1, confidence.argmax(axis=1))
    answering = np.where(branch < edge, branch, beyond)
    right = said.prediction == said.label[:, None]
    return Decisions(branch, right[np.arange(len(branch)), answering], edge)


def latencies_s(
    decisions: Decisions,
    device_s: Sequence[float],
    far_s: Sequence[float],
    payload_bytes: Sequence[int],
    uplink_bps: float,
) -> Floats:
    """Seconds of each datum (N,): the device's segments so far, and beyond the edge the upload and the far segments.

    The model of papers.md 3.1; the way back, queues and the link's own delay are not in it.
    """
    edge = decisions.edge
    took = [math.fsum(device_s[: k + 1]) for k in range(edge)]
    took.append(took[-1] + 8 * payload_bytes[edge] / uplink_bps + math.fsum(far_s[edge:]))
    return np.array(took)[decisions.branch]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over rounds with its 95 % interval; rounds shuffle the same data, so other data may differ by more."""

    mean: float
    low: float
    high: float


def outage(decisions: Decisions, target: float, batch: int, rounds: int, seed: int) -> Estimate:
    """Share of batches whose accuracy at the edge is below the target; one without an answer there is no outage."""
    found: list[float] = []
    for rows in _batches(len(decisions.branch), batch, rounds, seed):
        at_edge = decisions.at_edge[rows]
        count = at_edge.sum(axis=1)
        right = (decisions.correct[rows] & at_edge).sum(axis=1)
        found.append(float(((count > 0) & (right / np.maximum(count, 1) < target)).mean()))
    return _estimate(found)


def missed_deadlines(
    decisions: Decisions,
    took_s: Floats,
    target: float,
    deadlines_s: Sequence[float],
    batch: int,
    rounds: int,
    seed: int,
) -> list[Estimate]:
    """For each deadline: the share of batches that take longer on average, or whose accuracy is below the target."""
    found: list[list[float]] = [[] for _ in deadlines_s]
    for rows in _batches(len(took_s), batch, rounds, seed):
        wrong = decisions.correct[rows].mean(axis=1) < target
        mean_s = took_s[rows].mean(axis=1)
        for shares, deadline_s in zip(found, deadlines_s, strict=True):
            shares.append(float((wrong | (mean_s > deadline_s)).mean()))
    return [_estimate(shares) for shares in found]


def _batches(count: int, batch: int, rounds: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Shuffle and cut, each round anew: (batches, batch) rows; what fills no batch is left out of that round."""
    if not 1 <= batch <= count:
        raise ValueError(f"batches of {batch} of {count} data")
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        yield generator.permutation(count)[: count // batch * batch].reshape(-1, batch)


def _estimate(values: Sequence[float]) -> Estimate:
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Estimate(mean, mean, mean)
    reach = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, max(0.0, mean - reach), min(1.0, mean + reach))
