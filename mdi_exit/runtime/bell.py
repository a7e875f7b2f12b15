"""What wakes a loop that waits for descriptors: any thread rings, the loop's own hears of it."""

from __future__ import annotations

import contextlib
import socket


class Bell:
    """`fileno` can be read from a ring on until it is `heard`; many rings at once are one."""

    def __init__(self) -> None:
        self._ear, self._rope = socket.socketpair()
        self._ear.setblocking(False)
        self._rope.setblocking(False)

    def fileno(self) -> int:
        """What to wait for."""
        return self._ear.fileno()

    def ring(self) -> None:
        """Wake the loop; for any thread."""
        # When the bell is full it is ringing, when it is gone there is nobody to wake.
        with contextlib.suppress(OSError):
            self._rope.send(b"!")

    def heard(self) -> None:
        """Be silent again."""
        self._ear.recv(4096)

    def close(self) -> None:
        """Wake nobody any more."""
        self._ear.close()
        self._rope.close()
