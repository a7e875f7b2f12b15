"""The queues of a worker: I_n, O_n, or one for both sides."""

from __future__ import annotations

from collections import deque

from mdi_exit.core.types import Task


class TaskQueue:
    """Tasks waiting on one side, first in first out, kept per segment so that groups form without searching.

    `order` is the worker's arrival count: it makes one order over all segments, and a task that could not be
    delivered returns to the place it had.
    """

    __slots__ = ("_all_sides", "_segments", "counts", "length")

    def __init__(self, exits: int, all_sides: list[int] | None = None) -> None:
        """`all_sides` is kept up, too: how many tasks wait per segment, over all sides."""
        self._segments: tuple[deque[tuple[int, Task]], ...] = tuple(deque() for _ in range(exits))
        self._all_sides = [0] * exits if all_sides is None else all_sides
        self.counts = [0] * exits  # of tasks that wait here, per segment 1..K: policies look at them at every event
        self.length = 0

    def oldest(self, segments: tuple[int, ...]) -> int | None:
        """Return the segment, among `segments`, whose head has waited longest; None when all are empty."""
        best: int | None = None
        best_order = 0
        for k in segments:
            waiting = self._segments[k - 1]
            if waiting and (best is None or waiting[0][0] < best_order):
                best, best_order = k, waiting[0][0]
        return best

    def first(self, k: int) -> int:
        """Return the place in line of the oldest task for segment k; beyond all places when there is none."""
        return self._segments[k - 1][0][0] if self._segments[k - 1] else 1 << 62

    def hops(self, k: int) -> int:
        """Return how many links the oldest task for segment k has crossed; 0 when there is none."""
        return self._segments[k - 1][0][1].hops if self._segments[k - 1] else 0

    def push(self, order: int, task: Task) -> None:
        """Add a task; one older than the segment's head goes before it."""
        waiting = self._segments[task.k - 1]
        if waiting and order < waiting[0][0]:
            waiting.appendleft((order, task))
        else:
            waiting.append((order, task))
        self._changed(task.k, 1)

    def take(self, k: int, limit: int) -> list[tuple[int, Task]]:
        """Remove and return up to `limit` of the oldest tasks for segment k, with their order."""
        waiting = self._segments[k - 1]
        taken = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
        self._changed(k, -len(taken))
        return taken

    def _changed(self, k: int, by: int) -> None:
        self.counts[k - 1] += by
        self._all_sides[k - 1] += by
        self.length += by
