"""Compute one group of tasks at a time: in a thread of its own, so that the node's loop goes on talking to neighbours,
or, when the segment is done sooner than that pays, in the loop itself.

Handing work to another thread and being woken by it costs 0.1 to 0.2 ms of processor time on the machines this was
measured on, and a fifth of MobileNetV2 at 32x32 takes 0.4 ms. Neighbours can wait that long for an answer. A worker
that has none waits for nobody, so that it computes whole groups in the loop.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mdi_exit.compute import ComputeError, SegmentRunner
from mdi_exit.compute.pacing import PacedRunner
from mdi_exit.core.types import ExitReading, Task
from mdi_exit.wire import Tensor

_SHORT_S = 0.002  # a segment that took no longer last time is computed in the loop
_SHORT_ALONE_S = 0.05  # without neighbours; arrivals and the control plane wait so long

_Job = tuple[int, tuple[Task, ...], list[Tensor], bool]  # with whether it follows directly on the last one


@dataclass(frozen=True, slots=True)
class Computed:
    """How a group ended: with readings and (unless it was the last segment) features, or with a reason."""

    k: int
    tasks: tuple[Task, ...]
    readings: tuple[ExitReading, ...]
    features: Tensor | None
    duration_s: float
    reason: str = ""


class Computer:
    """Runs segments. `collect` gives what the thread has computed, and `wake` is called when there is something."""

    def __init__(self, runner: SegmentRunner, wake: Callable[[], None], alone: bool = False) -> None:
        """`alone`: the worker has no neighbours. An emulated device sleeps, which the loop must not."""
        self._runner, self._wake = runner, wake
        self._short_s = _SHORT_ALONE_S if alone and not isinstance(runner, PacedRunner) else _SHORT_S
        self._took_s: dict[int, float] = {}  # by segment: how long it took last
        self.used_s = [0.0] * runner.exits  # processor time of segments 1..K
        self._next: _Job | None = None  # to be computed in the loop
        self._thread_s = 0.0  # of the loop's thread, when a group was last computed
        self._follows = False  # the last group's end is being taken in just now
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: deque[Computed | BaseException] = deque()
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    @property
    def busy_here(self) -> bool:
        """`compute_here` has something to compute, so do not sleep."""
        return self._next is not None

    def submit(self, k: int, tasks: tuple[Task, ...], payloads: list[Tensor]) -> None:
        """Compute segment k on these; the core never asks for two groups at once."""
        if not self._follows:  # what the loop did while there was nothing to compute took nothing from computing
            self._thread_s = time.thread_time()
        job = (k, tasks, payloads, self._follows)
        if self._took_s.get(k, self._short_s) < self._short_s:
            self._next = job
        else:
            self._jobs.put(job)

    def collect(self, take: Callable[[Computed, float], None]) -> None:
        """Give `take` the group that the thread has computed, if it has, and the processor time that the loop's thread
        took for all else since the last group; raises whatever bug ended the thread's work.

        What is submitted while `take` runs follows directly on that group.
        """
        if self._done:
            done = self._done.popleft()
            if isinstance(done, BaseException):
                raise done
            self._give(take, done, time.thread_time() - self._thread_s)

    def compute_here(self, take: Callable[[Computed, float], None]) -> None:
        """Compute in the loop what is not worth another thread, if there is anything, and give it like `collect`."""
        if self._next is not None:
            beside_s = time.thread_time() - self._thread_s
            job, self._next = self._next, None
            self._give(take, self._compute(*job), beside_s)

    def _give(self, take: Callable[[Computed, float], None], done: Computed, beside_s: float) -> None:
        self._follows, self._thread_s = True, time.thread_time()
        take(done, beside_s)
        self._follows = False

    def stop(self, within_s: float) -> None:
        """End the thread after the group it is at; one that takes longer is left to die with the process."""
        self._jobs.put(None)
        self._thread.join(within_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._done.append(self._compute(*job))
            except BaseException as error:  # the loop raises it: a bug must end the run and not just this thread
                self._done.append(error)
            self._wake()

    def _compute(self, k: int, tasks: tuple[Task, ...], payloads: list[Tensor], follows: bool) -> Computed:
        started_s, used_s = time.monotonic(), time.thread_time()
        batch = _batch(payloads)
        try:
            if isinstance(self._runner, PacedRunner):
                readings, features = self._runner.run(k, batch, follows)
                duration_s = self._runner.took_s
            else:
                readings, features = self._runner.run(k, batch)
                duration_s = time.monotonic() - started_s
        except ComputeError as error:
            return Computed(k, tasks, (), None, time.monotonic() - started_s, str(error))
        self._took_s[k] = duration_s
        self.used_s[k - 1] += time.thread_time() - used_s
        return Computed(k, tasks, tuple(readings), features, duration_s)


def _batch(payloads: list[Tensor]) -> Tensor:
    """One array of them all, what numpy.stack does with half the steps."""
    if len(payloads) == 1:
        return payloads[0][np.newaxis]
    return np.concatenate(payloads).reshape(len(payloads), *payloads[0].shape)
