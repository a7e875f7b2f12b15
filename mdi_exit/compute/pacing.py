"""Be as slow as another device: run the real network for the answer, then wait until the device would have had it.

How honest that is is counted: a step that the host finished later than the device would have is in `pace_missed`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdi_exit.compute.base import SegmentRunner
from mdi_exit.core.types import ExitReading
from mdi_exit.devices import drawn_s


class PacedRunner:
    """A runner that takes `segment_s[k-1]` seconds for one datum at segment k, and n times that for n.

    With `spread`, these times vary (`devices.drawn_s`).
    """

    def __init__(
        self,
        runner: SegmentRunner,
        segment_s: Sequence[float],
        spread: float,
        rng: random.Random,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        assert len(segment_s) == runner.exits and min(segment_s) > 0 and spread >= 0
        self._runner, self._segment_s, self._spread, self._rng = runner, tuple(segment_s), spread, rng
        self._clock, self._sleep = clock, sleep
        self._due = float("-inf")  # when the device had its last answer
        self._overslept_s = 0.0  # how much later than that we said so
        self.paced = 0  # steps run
        self.pace_missed = 0  # of them, those in which the host was too slow

    @property
    def hosted(self) -> tuple[int, ...]:
        return self._runner.hosted

    @property
    def exits(self) -> int:
        return self._runner.exits

    def feature_shape(self, k: int) -> tuple[int, ...]:
        return self._runner.feature_shape(k)

    def feature_bytes(self, k: int) -> int:
        return self._runner.feature_bytes(k)

    def run(self, k: int, batch: NDArray[Any]) -> tuple[list[ExitReading], NDArray[np.float32] | None]:
        """Run segment k and return when the device would; a refused batch raises at once and takes no time.

        Sleeping always takes a little too long. That much earlier the next step is taken to have started, never
        before the last one was due, so the error does not add up. A missed pace is not made up for: the emulated
        device was slower in that step, and the count says so.
        """
        start = max(self._due, self._clock() - self._overslept_s)
        answer = self._runner.run(k, batch)
        self._due = start + drawn_s(self._segment_s[k - 1], len(batch), self._spread, self._rng)
        self.paced += 1
        if self._clock() > self._due:
            self.pace_missed += 1
            self._overslept_s = 0.0
            return answer
        while (remaining_s := self._due - self._clock()) > 0:  # a sleep may also end early
            self._sleep(remaining_s)
        self._overslept_s = -remaining_s
        return answer
