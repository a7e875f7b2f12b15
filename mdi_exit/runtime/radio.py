"""A radio channel that several processes of one machine share: when it is free again, in a file between them.

Each frame books the channel from the moment it is free for as long as the frame takes; who books next comes after it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from urllib.parse import quote

from mdi_exit.shaping import Shape

_FREE_S = struct.Struct("<d")  # seconds since the run began, by the clock that all processes of a machine share


class RadioChannel:
    """A `shaping.Medium` of every process that names the same folder and channel."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises OSError when the folder does not take the file."""
        self._file = os.open(folder / quote(name, safe=""), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def occupy(self, now: float, shape: Shape, size_bytes: int) -> float:
        fcntl.flock(self._file, fcntl.LOCK_EX)  # let go of by the system when its holder dies
        try:
            booked = os.pread(self._file, _FREE_S.size, 0)
            free_s = _FREE_S.unpack(booked)[0] if booked else 0.0
            left_s = shape.finish_s(max(free_s, now), size_bytes)
            os.pwrite(self._file, _FREE_S.pack(left_s), 0)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return left_s

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
