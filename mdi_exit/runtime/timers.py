"""What is to happen when: named timers over one heap, for a loop that asks how long it may sleep."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


class Timers(Generic[Name]):
    """Setting a name again replaces it. Cancelled entries stay in the heap until their time and are then ignored."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Name]] = []
        self._valid: dict[Name, int] = {}
        self._sequence = itertools.count()

    def set(self, name: Name, at_s: float) -> None:
        """Let `name` be due at `at_s`."""
        number = next(self._sequence)
        self._valid[name] = number
        heapq.heappush(self._heap, (at_s, number, name))

    def cancel(self, name: Name) -> None:
        """Let `name` not be due after all; nothing happens when it is not set."""
        self._valid.pop(name, None)

    def due(self, now: float) -> Iterator[Name]:
        """Yield the names due by `now`, in order of their time; each only once."""
        while self._heap and self._heap[0][0] <= now:
            _, number, name = heapq.heappop(self._heap)
            if self._valid.get(name) == number:
                del self._valid[name]
                yield name

    def wait_s(self, now: float, at_most_s: float) -> float:
        """Seconds until something is due, or `at_most_s`."""
        while self._heap and self._valid.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        return min(at_most_s, max(0.0, self._heap[0][0] - now)) if self._heap else at_most_s
