"""How one direction of a link behaves, in real time (what holds frames back) and in virtual time alike.

Frames leave one after the other, each takes its size over the bandwidth of its moment, and arrive the link's latency
later. Links on one radio channel take turns: while a frame of one is in the air no other begins. That is an ideal
channel, first come first served, without collisions or back-off. A frame that is lost is sent again after a
retransmission timeout, as TCP does, which carries our links: nothing vanishes, but it comes later, and what was sent
behind it waits for it at the other end. Links off a channel have two independent directions. Whatever is sent counts
with the size it really has: tasks with their tensors, acknowledgements, results, reports.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from mdi_exit import codec
from mdi_exit.channel import Channel
from mdi_exit.compiled import remade

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # of a worker or a channel: safe in file names and link labels
NAMES = "letters, digits, '-', '_' and '.', at most 64, a letter or digit first"
# Frames that one direction holds back. Link windows keep far below; beyond it they are dropped, as a router would.
BACKLOG_MAX = 1_000
_RETRANSMIT_S = 0.2  # the least that Linux waits before it sends a lost segment again
_REPEATS_MAX = 15  # as many as Linux tries by default
# On top of what the link needs: a busy machine may leave a process waiting this long, and giving up too early makes
# work twice. A neighbour that died is noticed without it.
_ACKNOWLEDGE_WITHIN_S = 2.0
_SMALL_BYTES = 256  # an acknowledgement with its report


@dataclass(frozen=True, slots=True)
class BandwidthTrace:
    """A bandwidth that changes: so many seconds at so many bit/s, and so on, over and over. Raises ValueError."""

    steps: tuple[tuple[float, float], ...]  # (seconds, bit/s); 0 bit/s is an outage
    file: str = field(default="", compare=False)  # where it was read, for people
    _ends_s: tuple[float, ...] = field(init=False, repr=False, compare=False)  # of the steps, within a period
    _ends_bits: tuple[float, ...] = field(init=False, repr=False, compare=False)  # carried until then

    def __post_init__(self) -> None:
        fine = self.steps and all(0 < s < math.inf and 0 <= bps < math.inf for s, bps in self.steps)
        if not fine or not any(bps for _, bps in self.steps):
            raise ValueError(
                "a bandwidth trace wants lines of a duration above 0 s and "
                "a bandwidth of 0 bit/s or more, not all of them 0"
            )
        object.__setattr__(self, "_ends_s", tuple(itertools.accumulate(s for s, _ in self.steps)))
        object.__setattr__(self, "_ends_bits", tuple(itertools.accumulate(s * bps for s, bps in self.steps)))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return remade(self)

    @property
    def mean_bps(self) -> float:
        return self._ends_bits[-1] / self._ends_s[-1]

    def finish_s(self, start_s: float, bits: float) -> float:
        """When `bits` that begin to leave at `start_s` have left."""
        periods, into_s = divmod(start_s, self._ends_s[-1])
        step = min(bisect.bisect_right(self._ends_s, into_s), len(self.steps) - 1)
        until_s, bps = self._ends_s[step], self.steps[step][1]
        carried = self._ends_bits[step] - (until_s - into_s) * bps  # since the period began
        more, wanted = divmod(carried + bits, self._ends_bits[-1])
        if wanted == 0:  # the last bit leaves at the end of the period's last step that carries any
            more, wanted = more - 1, self._ends_bits[-1]
        step = bisect.bisect_left(self._ends_bits, wanted)
        left_s = self._ends_s[step] - (self._ends_bits[step] - wanted) / self.steps[step][1]
        return max(start_s, (periods + more) * self._ends_s[-1] + left_s)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a link is like, each of its directions for itself. Raises ValueError for what contradicts itself."""

    bandwidth_bps: float | None = None  # None: as fast as the machine can
    latency_s: float = 0.0
    loss: float = 0.0  # probability that a frame has to be sent again, each time anew
    bandwidth_trace: BandwidthTrace | None = None  # in the stead of one bandwidth
    channel: str | None = None  # the radio channel that it shares with others; None: a medium of its own
    snr_db: float | None = None  # mean SNR at which codes of an analog link arrive; None: as they were sent
    fading: str = "none"  # of that link, anew for each transmission
    encoding: str = codec.FP32  # how features are written on it, of codec.CHOICES

    def __post_init__(self) -> None:
        if self.bandwidth_bps is not None and (not self.bandwidth_bps > 0 or self.bandwidth_trace is not None):
            raise ValueError("bandwidth_bps above 0, or a bandwidth_trace, or neither is wanted")
        if not (self.latency_s >= 0 <= self.loss < 1):
            raise ValueError("latency_s 0 or more and loss within [0, 1) are wanted")
        if self.snr_db is None and self.fading != "none":
            raise ValueError("fading of a link without snr_db; allowed: both, or neither")
        if self.encoding not in codec.CHOICES:
            raise ValueError(f"encoding is {self.encoding[:80]!r}; allowed: {', '.join(codec.CHOICES)}")
        if self.snr_db is not None and self.encoding != codec.FP32:
            raise ValueError("encoding of a link with snr_db, whose codes are symbols; allowed: one of them")
        _ = self.noise
        if self.channel is not None and not NAME.fullmatch(self.channel):
            raise ValueError(f"a channel cannot be called {self.channel[:80]!r}; {NAMES} are wanted")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return remade(self)

    @property
    def noise(self) -> Channel | None:
        """What is done to the symbols of an analog link; None when nothing is."""
        return None if self.snr_db is None else Channel(self.snr_db, self.fading)

    @property
    def mean_bps(self) -> float | None:
        """The bandwidth in the long run; None when it is unlimited."""
        return self.bandwidth_trace.mean_bps if self.bandwidth_trace else self.bandwidth_bps

    @property
    def transparent(self) -> bool:
        """Nothing is to be held back."""
        return self.mean_bps is None and self.latency_s == 0 and self.loss == 0

    def chosen(self, payload_bytes: int) -> str:
        """The encoding of a feature of so many bytes of fp32; `auto` goes by the bandwidth, without one it is fp32."""
        if self.encoding == codec.AUTO:
            return codec.fastest(payload_bytes // 4, self.mean_bps)
        return self.encoding

    def travels_bytes(self, k: int, payload_bytes: int) -> int:
        """What of a task for segment k with such a payload travels: images (k = 1) as they are, features coded."""
        if k == 1 or self.encoding == codec.FP32:
            return payload_bytes
        return codec.size_bytes(self.chosen(payload_bytes), payload_bytes // 4)

    def transmission_s(self, size_bytes: float) -> float:
        """How long a frame of this size keeps the link busy, in the long run."""
        return size_bytes * 8 / self.mean_bps if self.mean_bps else 0.0

    def finish_s(self, start_s: float, size_bytes: float) -> float:
        """When a frame that begins to leave at `start_s` has left."""
        if self.bandwidth_trace is not None:
            return self.bandwidth_trace.finish_s(start_s, size_bytes * 8)
        return start_s + size_bytes * 8 / self.bandwidth_bps if self.bandwidth_bps else start_s

    def answer_within_s(self, size_bytes: int, arrives_s: float) -> float:
        """How long to wait for the answer to a frame once it is there: generously, in both ways."""
        there_s = self.finish_s(arrives_s, size_bytes) - arrives_s
        back_s = self.finish_s(arrives_s + there_s, _SMALL_BYTES) - arrives_s - there_s
        return _ACKNOWLEDGE_WITHIN_S + 3 * (there_s + back_s + 2 * self.latency_s)


class Medium(Protocol):
    """What can carry one frame at a time."""

    def occupy(self, now: float, shape: Shape, size_bytes: int) -> float:
        """Carry a frame as soon as those before it have left; return when it has left."""


class OwnMedium:
    """A medium that this process knows all the traffic of: a link of its own, or a channel in virtual time."""

    __slots__ = ("free_s",)

    def __init__(self) -> None:
        self.free_s = 0.0  # when the last frame has left

    def occupy(self, now: float, shape: Shape, size_bytes: int) -> float:
        self.free_s = shape.finish_s(max(self.free_s, now), size_bytes)
        return self.free_s


class Shaper:
    """One direction of a link: when each frame given to it arrives. The caller's clock, the caller's generator."""

    def __init__(self, shape: Shape, rng: random.Random, medium: Medium | None = None) -> None:
        self.shape = shape
        self.dropped = 0  # for want of room
        self._rng, self._medium = rng, medium or OwnMedium()
        self._arrivals: deque[float] = deque()  # of the frames under way, oldest first

    def release_s(self, size_bytes: int, now: float) -> float | None:
        """Take a frame in at `now`; return when it arrives, or None when it never does."""
        arrivals = self._arrivals
        while arrivals and arrivals[0] <= now:
            arrivals.popleft()
        if len(arrivals) >= BACKLOG_MAX:
            self.dropped += 1
            return None
        left_s, late_s = self._medium.occupy(now, self.shape, size_bytes), self.shape.latency_s
        for _ in range(_REPEATS_MAX if self.shape.loss else 0):
            if self._rng.random() >= self.shape.loss:
                break
            left_s = self._medium.occupy(now, self.shape, size_bytes)  # again, but not while nobody knows of the loss
            late_s += max(_RETRANSMIT_S, 2 * self.shape.latency_s)
        arrives_s = left_s + late_s
        if arrivals and arrivals[-1] > arrives_s:
            arrives_s = arrivals[-1]
        arrivals.append(arrives_s)
        return arrives_s
