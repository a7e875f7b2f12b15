"""Ctrl-C and termination as something to look at, not something that happens in the middle of a line."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """While entered, signals are counted: the first asks a run to end and say what it has, the second to hurry.

    Nothing can be left half cleaned up by them. Only the main thread can be asked; in another, nothing changes.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Somebody wants this to end."""
        return self.count > 0

    @property
    def urgent(self) -> bool:
        """Somebody wants this to end now."""
        return self.count > 1

    def check(self) -> None:
        """Raise KeyboardInterrupt if somebody wants this to end."""
        if self.requested:
            raise KeyboardInterrupt

    def __enter__(self) -> Interrupt:
        self._before = {}
        self.take()
        return self

    def take(self) -> None:
        """Take the signals (again, after somebody else did), remembering whose they were at first."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                previous = signal.signal(number, self._handle)
                self._before.setdefault(number, previous)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, previous in self._before.items():
            signal.signal(number, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
