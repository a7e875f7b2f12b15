"""Be as slow as another device: run the real network for the answer, then wait until the device would have had it.

How honest that is is counted: a step that the host finished later than the device would have is in `pace_missed`.

What it takes this host to hand an answer to the worker's loop and be asked for the next step, a third of a millisecond
or more where workers share cores, is no time of the device's. A device that has another task waiting goes on at once.
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

    With `spread`, these times vary (`devices.drawn_s`). The runtime takes the device another `task_s` per datum.
    """

    def __init__(
        self,
        runner: SegmentRunner,
        segment_s: Sequence[float],
        spread: float,
        rng: random.Random,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
        task_s: float = 0.0,
    ) -> None:
        assert len(segment_s) == runner.exits and min(segment_s) > 0 and spread >= 0
        self._runner, self._segment_s, self._spread, self._rng = runner, tuple(segment_s), spread, rng
        self._task_s = task_s
        self._clock, self._sleep = clock, sleep
        self._due = float("-inf")  # when the device had its last answer
        self._overslept_s = 0.0  # how much later than that we said so
        self._missed = True  # or was too late to
        self.took_s = 0.0  # the last step's computing, by the device's time
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

    def run(
        self, k: int, batch: NDArray[Any], follows: bool = False
    ) -> tuple[list[ExitReading], NDArray[np.float32] | None]:
        """Run segment k and return when the device would; a refused batch raises at once and takes no time.

        A step that `follows`, asked for in answer to the last one's end, starts when that one was due. Any other
        starts now, or rather earlier by as much as the last sleep took too long, which every sleep does. Either way
        the error does not add up, and nothing starts before the last step was due. A missed pace is not made up for:
        the emulated device was slower in that step, and the count says so.
        """
        now = self._clock()
        start = self._due if follows and not self._missed else max(self._due, now - self._overslept_s)
        answer = self._runner.run(k, batch)
        self.took_s = drawn_s(self._segment_s[k - 1], len(batch), self._spread, self._rng)
        self._due = start + self.took_s + len(batch) * self._task_s
        self.paced += 1
        done = self._clock()
        self._missed = done > self._due
        if self._missed:
            self.pace_missed += 1
            self._overslept_s, self.took_s = 0.0, done - start - len(batch) * self._task_s
            return answer
        while (remaining_s := self._due - self._clock()) > 0:  # a sleep may also end early
            self._sleep(remaining_s)
        self._overslept_s = -remaining_s
        return answer
