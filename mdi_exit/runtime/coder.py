"""In which encoding features go to one neighbour: the link's, or for `auto` the one that is there first.

Where the link's bandwidth is known, stated or measured by `mdi-exit profile`, `auto` goes by that, as a simulation
does. Otherwise it is measured: hand-overs take a time that grows with their bytes, by as much as the bandwidth says, on
top of what does not. A least-squares line through the last hundred or so tells the two apart, as long as sizes differ.
"""

from __future__ import annotations

import math

from mdi_exit import codec
from mdi_exit.core.types import Task
from mdi_exit.shaping import Shape

_MEMORY = 0.99  # of what is known, kept at each hand-over: the last hundred count
_ENOUGH = 16.0  # hand-overs before a slope is believed
_SURE = 2.0  # standard errors by which the slope must be above 0
_PROBE = 16  # every so many hand-overs one goes as fp16, which costs no accuracy, for the sake of another size


class Meter:
    """Seconds per byte, from hand-overs of (bytes, seconds)."""

    def __init__(self) -> None:
        self._sums = [0.0] * 6  # of the weights w, and of w x, w y, w x x, w x y, w y y

    def add(self, size_bytes: float, took_s: float) -> None:
        """A hand-over of so many bytes was answered after so many seconds."""
        news = (1.0, size_bytes, took_s, size_bytes**2, size_bytes * took_s, took_s**2)
        self._sums = [_MEMORY * old + new for old, new in zip(self._sums, news, strict=True)]

    @property
    def bandwidth_bps(self) -> float | None:
        """The most that the link may have, by what was seen; None while nothing says that it has a limit."""
        w, x, y, xx, xy, yy = self._sums
        if w < _ENOUGH:
            return None
        spread, fall = xx - x * x / w, yy - y * y / w
        if spread <= 1e-6 * xx:  # all of one size
            return None
        slope = (xy - x * y / w) / spread
        error = math.sqrt(max(fall - slope * slope * spread, 0.0) / (w * spread))
        least = slope - _SURE * error
        return 8 / least if least > 0 else None


class Coder:
    """The encoding on the way to one neighbour."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._meter = Meter() if shape.encoding == codec.AUTO and shape.mean_bps is None else None
        self._sent = 0

    def encoding(self, payload_bytes: int) -> str:
        """Of the next hand-over, of features of so many bytes of fp32 each; the same until one was `answered`."""
        if self._meter is None:
            return self._shape.chosen(payload_bytes)
        if self._sent % _PROBE == _PROBE - 1:
            return codec.FP16
        return codec.fastest(payload_bytes // 4, self._meter.bandwidth_bps)

    def travels_bytes(self, task: Task) -> int:
        """What of a task in the next hand-over travels, without headers."""
        if task.k == 1:  # an image
            return task.payload_bytes
        return codec.size_bytes(self.encoding(task.payload_bytes), task.payload_bytes // 4)

    def answered(self, size_bytes: int, took_s: float) -> None:
        """A hand-over of so many bytes was answered after so many seconds."""
        if self._meter is not None:
            self._sent += 1
            self._meter.add(size_bytes, took_s)
