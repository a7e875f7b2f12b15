"""What every peer in benchmarks/peers.py shares: the same exported segments, run with ONNX Runtime's defaults, the same
exits, and the loops that feed a peer and time it.

A peer is given images in groups and answers with predictions. It is fed with as many groups ahead as suits it
(`window`); latency is taken with one image at a time, at a low constant rate.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mdi_exit.compute import PreparedNet
from mdi_exit.compute.onnx_runner import input_name
from mdi_exit.softmax import log_softmax

GOES_ON = -1  # where an answer would be, of an image that has not left yet


@dataclass(frozen=True, slots=True)
class Net:
    """What a process needs to run segments; small, the weights stay in their files."""

    models: tuple[str, ...]  # of segments 1..K
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]  # of exits 1..K-1; 1 switches an exit off

    @property
    def exits(self) -> int:
        return len(self.models)


def net_of(prepared: PreparedNet, threshold: float) -> Net:
    """The network of a checkpoint that was prepared for ONNX Runtime, with one threshold for all exits."""
    models = tuple(str(path) for path in prepared.models)
    return Net(models, tuple(prepared.card.temperatures), (threshold,) * (len(models) - 1))


class Stage:
    """Some segments of a network, one after the other, for a group at a time."""

    def __init__(self, net: Net, segments: Sequence[int], threads: int) -> None:
        """`threads` 0 leaves the number to ONNX Runtime: as many as there are cores."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        cpu = ["CPUExecutionProvider"]
        self._net = net
        self._sessions = {k: onnxruntime.InferenceSession(net.models[k - 1], options, providers=cpu) for k in segments}

    def run(self, batch: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any] | None]:
        """Answers (N,), GOES_ON for those that have not left, and the features of these, None when there are none."""
        answers: NDArray[np.int64] = np.full(len(batch), GOES_ON)
        here = np.arange(len(batch))
        for k, session in self._sessions.items():
            logits, *feature = session.run(None, {input_name(k): batch})
            if k == self._net.exits:
                answers[here] = logits.argmax(axis=1)
                return answers, None
            confidence = np.exp(log_softmax(logits, self._net.temperatures[k - 1]).max(axis=1))
            leaves = confidence > self._net.thresholds[k - 1]
            answers[here[leaves]] = logits[leaves].argmax(axis=1)
            if leaves.all():
                return answers, None
            batch = feature[0][~leaves] if leaves.any() else feature[0]
            here = here[~leaves]
        return answers, batch


def filled(answers: NDArray[np.int64], later: NDArray[np.int64]) -> NDArray[np.int64]:
    """Answers with those of the next stage where the first had none."""
    whole: NDArray[np.int64] = answers.copy()
    whole[whole == GOES_ON] = later
    return whole


class Peer(Protocol):
    """Another way to run the network, up and warm."""

    window: int  # groups that it is given ahead

    def submit(self, batch: NDArray[Any]) -> Any:
        """Hand a group (N, C, H, W) over."""

    def collect(self, ticket: Any) -> NDArray[np.int64]:
        """Wait for the group's predictions (N,)."""


@dataclass(frozen=True, slots=True)
class Fed:
    """What came of feeding a peer."""

    rate_per_s: float
    predictions: NDArray[np.int64]  # of image i, for all images that were answered once; GOES_ON for the others


def feed(peer: Peer, images: NDArray[Any], group: int, seconds: float) -> Fed:
    """Keep a peer busy for so long, over and over with the same images, and take all answers that come in that time.

    Raises RuntimeError when an image is answered differently the second time.
    """
    predictions = np.full(len(images), GOES_ON)
    starts = itertools.cycle(range(0, len(images) - group + 1, group))
    waiting: deque[tuple[int, Any]] = deque()
    answered, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        while len(waiting) < peer.window:
            start = next(starts)
            waiting.append((start, peer.submit(images[start : start + group])))
        answered += _take(peer, waiting, predictions, group)
    took_s = time.perf_counter() - began_s
    while waiting:
        _take(peer, waiting, predictions, group)
    return Fed(answered / took_s, predictions)


def _take(peer: Peer, waiting: deque[tuple[int, Any]], predictions: NDArray[np.int64], group: int) -> int:
    start, ticket = waiting.popleft()
    said = peer.collect(ticket)
    before = predictions[start : start + group]
    if ((before != GOES_ON) & (before != said)).any():
        raise RuntimeError(f"images {start} to {start + group - 1} were answered in two ways")
    predictions[start : start + group] = said
    return group


def latencies_s(peer: Peer, images: NDArray[Any], rate_per_s: float, seconds: float) -> list[float]:
    """How long a peer takes for one image, with one every 1 / `rate_per_s`."""
    took_s, began_s = [], time.perf_counter()
    for number in range(int(rate_per_s * seconds)):
        time.sleep(max(0.0, began_s + number / rate_per_s - time.perf_counter()))
        sent_s = time.perf_counter()
        at = number % len(images)
        peer.collect(peer.submit(images[at : at + 1]))
        took_s.append(time.perf_counter() - sent_s)
    return took_s
