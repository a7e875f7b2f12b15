"""A radio channel that several processes of one machine share: who has booked it until when, in a file between them.

Each frame books the channel from the moment it is free for as long as the frame takes; who books next comes after it.
Bookings are in the time of time.monotonic, which on Linux is the same for all processes of a boot: the second 0 that
each process derives from the wall clock is not, once somebody sets that clock.
"""

from __future__ import annotations

import fcntl
import math
import os
import struct
from pathlib import Path

from mdi_exit.shaping import NAME, Shape

_END_S = struct.Struct("<d")  # when the last frame of one process has left
_BYTES_MAX = 1_024 * _END_S.size  # places; no machine runs so many workers at once
_TURN = _BYTES_MAX  # the byte behind the places; who has it locked books


class RadioChannel:
    """A `shaping.Medium` of every process that names the same folder and channel; at most one of a channel in each.

    Each process has a place in the file, which it keeps locked as long as it lives. The system takes the lock from
    it when it dies, however it dies, and whoever finds the place unlocked leaves what was booked there out: the frames
    of the dead are never sent. What others booked behind those stays where it is.
    """

    def __init__(self, folder: Path, name: str, zero_s: float = 0.0) -> None:
        """`zero_s` is second 0 of the caller's clock by time.monotonic. Raises OSError where it cannot have a place."""
        assert NAME.fullmatch(name), name  # as every Shape's
        self._zero_s = zero_s
        self._file = os.open(folder / f"{name}.channel", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        free = (place for place in range(0, _BYTES_MAX, _END_S.size) if self._take(place))
        if (place := next(free, None)) is None:
            raise OSError(f"more than {_BYTES_MAX // _END_S.size} processes on channel {name}")
        self._place = place
        os.pwrite(self._file, _END_S.pack(-math.inf), self._place)

    def occupy(self, now: float, shape: Shape, size_bytes: int) -> float:
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _TURN)
        try:
            left_s = shape.finish_s(max(self._free_s(now + self._zero_s) - self._zero_s, now), size_bytes)
            os.pwrite(self._file, _END_S.pack(left_s + self._zero_s), self._place)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _TURN)
        return left_s

    def close(self) -> None:
        """Let go of the file, and of what is booked."""
        os.close(self._file)

    def _free_s(self, now_s: float) -> float:
        """When the last frame of a living process has left, or -inf when all have by `now_s`."""
        ends_s = _END_S.iter_unpack(os.pread(self._file, _BYTES_MAX, 0))
        booked = [(end_s, number * _END_S.size) for number, (end_s,) in enumerate(ends_s) if end_s > now_s]
        return next((end_s for end_s, place in sorted(booked, reverse=True) if self._lives(place)), -math.inf)

    def _lives(self, place: int) -> bool:
        if place == self._place or not self._take(place):
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN, _END_S.size, place)
        return False

    def _take(self, place: int) -> bool:
        """Lock a place unless another process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, _END_S.size, place)
        except BlockingIOError:
            return False
        return True
