"""Hold messages back as a slower link would: the emulation of a radio or a long cable on one machine.

Messages leave one after the other, each taking its size over the bandwidth, and arrive the link's latency later. A
message that is lost is sent again after a retransmission timeout, as TCP does, which carries our links: nothing
vanishes, but it comes later, and what was sent behind it waits for it at the other end. A link's two directions are
independent, and whatever is sent counts with the size it really has: tasks with their tensors, acknowledgements,
results, reports.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from mdi_exit.topology import Link

# Messages that one direction holds back. Link windows keep far below; beyond it they are dropped, as a router would.
BACKLOG_MAX = 1_000
_RETRANSMIT_S = 0.2  # the least that Linux waits before it sends a lost segment again
_REPEATS_MAX = 15  # as many as Linux tries by default


@dataclass(frozen=True, slots=True)
class Shape:
    """How one direction of a link behaves."""

    bandwidth_bps: float | None = None  # None: as fast as the machine can
    latency_s: float = 0.0
    loss: float = 0.0  # probability that a message has to be sent again, each time anew

    @classmethod
    def of(cls, link: Link | None) -> Shape:
        """The shape of a topology's link; of none, a link without limits."""
        return cls(link.bandwidth_bps, link.latency_s, link.loss) if link else cls()

    @property
    def transparent(self) -> bool:
        """Nothing is to be held back."""
        return self.bandwidth_bps is None and self.latency_s == 0 and self.loss == 0

    def transmission_s(self, size_bytes: int) -> float:
        """How long a message of this size keeps the link busy."""
        return size_bytes * 8 / self.bandwidth_bps if self.bandwidth_bps else 0.0


class Shaper:
    """One direction of a link: when each message given to it may go on. The caller's clock, the caller's generator."""

    def __init__(self, shape: Shape, rng: random.Random) -> None:
        self.shape = shape
        self.dropped = 0  # for want of room
        self._rng = rng
        self._free_s = 0.0  # when the last message has left
        self._arrivals: deque[float] = deque()  # of the messages under way, oldest first

    def release_s(self, size_bytes: int, now: float) -> float | None:
        """Take a message in at `now`; return when it arrives, or None when it never does."""
        while self._arrivals and self._arrivals[0] <= now:
            self._arrivals.popleft()
        if len(self._arrivals) >= BACKLOG_MAX:
            self.dropped += 1
            return None
        transmission_s = self.shape.transmission_s(size_bytes)
        self._free_s = max(self._free_s, now) + transmission_s
        late_s = 0.0
        for _ in range(_REPEATS_MAX if self.shape.loss else 0):
            if self._rng.random() >= self.shape.loss:
                break
            self._free_s += transmission_s  # the link is used again, but not while nobody knows of the loss
            late_s += max(_RETRANSMIT_S, 2 * self.shape.latency_s)
        arrives_s = self._free_s + late_s + self.shape.latency_s
        self._arrivals.append(max(arrives_s, self._arrivals[-1]) if self._arrivals else arrives_s)
        return self._arrivals[-1]
