"""What it means to run a slice: images or features in, one reading per datum and the next features out.

Drivers know only `SegmentRunner`; behind it are ONNX Runtime (`onnx_runner`), torch (`torch_runner`) and the pacing of
an emulated device (`pacing`). What a peer sent is checked here, once, before any of them sees it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mdi_exit.core.types import ExitReading
from mdi_exit.errors import UserError
from mdi_exit.softmax import entropy, log_softmax


class ComputeError(UserError):
    """A segment that cannot be run: a batch that does not fit, a slice not hosted, a device not there."""


@dataclass(frozen=True, slots=True)
class FeatureShapes:
    """Shapes of a_0 (the image) to a_{K-1}, without the batch dimension; a_K has nobody to go to."""

    shapes: tuple[tuple[int, ...], ...]

    @property
    def exits(self) -> int:
        """K."""
        return len(self.shapes)

    def shape(self, k: int) -> tuple[int, ...]:
        """The shape of a_k for one datum: what segment k hands on, or the image for k = 0."""
        assert 0 <= k < self.exits, k
        return self.shapes[k]

    def size_bytes(self, k: int) -> int:
        """The size of a_k for one datum: the payload of a task at segment k+1. 0 after the last, as in a trace."""
        if k == self.exits:
            return 0
        return prod(self.shape(k)) * self.dtype(k).itemsize

    @staticmethod
    def dtype(k: int) -> np.dtype[Any]:
        """Images travel as they were stored, features as the networks compute them."""
        return np.dtype(np.uint8) if k == 0 else np.dtype(np.float32)


class SegmentRunner(Protocol):
    """Runs the segments of one worker's slice. Not for two threads at once."""

    @property
    def hosted(self) -> tuple[int, ...]:
        """The segments it can run."""

    @property
    def exits(self) -> int:
        """K, of the whole network."""

    def run(self, k: int, batch: NDArray[Any]) -> tuple[list[ExitReading], NDArray[np.float32] | None]:
        """Run segment k on a batch (N, ...) of a_{k-1}: N readings and the batch of a_k, None after the last.

        Images are uint8, features float32. Raises ComputeError for what a peer or the machine did wrong.
        """

    def feature_shape(self, k: int) -> tuple[int, ...]:
        """The shape of a_k for one datum, k = 0 (the image) to K-1."""

    def feature_bytes(self, k: int) -> int:
        """The size of a_k for one datum, k = 0 (the image) to K; 0 for K."""


class NetRunner(ABC):
    """What the real runners share: they differ in `_infer` alone."""

    def __init__(self, hosted: Sequence[int], features: FeatureShapes, temperatures: Sequence[float]) -> None:
        assert all(1 <= k <= features.exits for k in hosted), hosted
        assert len(temperatures) == features.exits, temperatures
        self.hosted = tuple(sorted(set(hosted)))
        self._features, self._temperatures = features, tuple(temperatures)

    @property
    def exits(self) -> int:
        return self._features.exits

    def feature_shape(self, k: int) -> tuple[int, ...]:
        return self._features.shape(k)

    def feature_bytes(self, k: int) -> int:
        return self._features.size_bytes(k)

    def run(self, k: int, batch: NDArray[Any]) -> tuple[list[ExitReading], NDArray[np.float32] | None]:
        self._check(k, batch)
        logits, feature = self._infer(k, batch)
        return readings(logits, self._temperatures[k - 1]), feature

    @abstractmethod
    def _infer(self, k: int, batch: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Logits (N, classes) of exit k, and the batch of a_k; the batch was checked."""

    def _check(self, k: int, batch: NDArray[Any]) -> None:
        if k not in self.hosted:
            raise ComputeError(f"segment {k} is not hosted here; hosted are {self.hosted}")
        shape, dtype = self._features.shape(k - 1), self._features.dtype(k - 1)
        if batch.ndim < 1 or len(batch) < 1 or batch.shape[1:] != shape or batch.dtype != dtype:
            wanted = ", ".join(map(str, ("N", *shape)))
            raise ComputeError(
                f"segment {k} was given {batch.dtype} {batch.shape}; it takes {dtype} ({wanted}), N at least 1"
            )


def readings(logits: NDArray[Any], temperature: float) -> list[ExitReading]:
    """What an exit says of each row of logits: C_k = max softmax(logits / temperature), argmax, entropy in nats.

    Raises ComputeError when a logit is not finite, because no comparison with a threshold would mean anything.
    """
    if not np.isfinite(logits).all():
        raise ComputeError("the network's answer is not finite; the feature or the weights are damaged")
    log_shares = log_softmax(logits, temperature)
    confidences, predictions = np.exp(log_shares.max(axis=1)), logits.argmax(axis=1)
    rows = zip(confidences.tolist(), predictions.tolist(), entropy(log_shares).tolist(), strict=True)
    return [ExitReading(*row) for row in rows]
