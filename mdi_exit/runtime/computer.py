"""The thread that computes: one group of tasks at a time, while the node's loop goes on talking to neighbours."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mdi_exit.compute import ComputeError, SegmentRunner
from mdi_exit.core.types import ExitReading, Task
from mdi_exit.wire import Tensor


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
    """Runs segments in a thread of its own; `done` holds what has ended, `wake` is called when something was added."""

    def __init__(self, runner: SegmentRunner, wake: Callable[[], None]) -> None:
        self.done: deque[Computed | BaseException] = deque()  # an exception is a bug of ours
        self._runner, self._wake = runner, wake
        self._jobs: queue.SimpleQueue[tuple[int, tuple[Task, ...], list[Tensor]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    def submit(self, k: int, tasks: tuple[Task, ...], payloads: list[Tensor]) -> None:
        """Compute segment k on these; the core never asks for two groups at once."""
        self._jobs.put((k, tasks, payloads))

    def stop(self, within_s: float) -> None:
        """End the thread after the group it is at; one that takes longer is left to die with the process."""
        self._jobs.put(None)
        self._thread.join(within_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self.done.append(self._compute(*job))
            except BaseException as error:  # the loop raises it: a bug must end the run and not just this thread
                self.done.append(error)
            self._wake()

    def _compute(self, k: int, tasks: tuple[Task, ...], payloads: list[Tensor]) -> Computed:
        started_s = time.monotonic()
        batch = payloads[0][np.newaxis] if len(payloads) == 1 else np.stack(payloads)
        try:
            readings, features = self._runner.run(k, batch)
        except ComputeError as error:
            return Computed(k, tasks, (), None, time.monotonic() - started_s, str(error))
        return Computed(k, tasks, tuple(readings), features, time.monotonic() - started_s)
