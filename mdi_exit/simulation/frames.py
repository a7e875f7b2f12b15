"""How large the frames on a link are: as large as `wire` makes them, by kind and number of what they carry.

The numbers within differ by a few bytes from frame to frame; a message with typical ones stands for all of its kind,
so that nothing has to be encoded while a world runs.
"""

from __future__ import annotations

import numpy as np

from mdi_exit.core import effects as fx
from mdi_exit.core.types import Result, Task, WorkerReport
from mdi_exit.wire import LinkMessage, encode

_DATUM, _NUMBER, _FLOAT = 1_000, 1_000, 0.1  # three bytes each of the first two, as most are within a run
_PAYLOAD = np.zeros(1 << 12, dtype=np.uint8)  # any: only how it is described counts


class FrameSizes:
    """Bytes of frames, payloads left out; `name` stands for every worker's."""

    def __init__(self, exits: int, name: str) -> None:
        self._exits = exits
        self._name = name
        report = WorkerReport(name, _NUMBER, 0, (1,) * exits, 1, _FLOAT, 1)
        self.report = _header(fx.SendReport(name, report))
        self.acknowledgement = _header(fx.Acknowledge(name, _NUMBER, True, report))
        self.thresholds = _header(fx.SendThresholds(name, 1, (_FLOAT,) * (exits - 1)))
        self._tasks: dict[int, int] = {}  # by how many; group_max and results_max bound both
        self._results: dict[int, int] = {}

    def tasks(self, count: int) -> int:
        """Of a hand-over of so many tasks, without their payloads."""
        if count not in self._tasks:
            tasks = (Task(_DATUM, 0, 1, len(_PAYLOAD), 1),) * count
            self._tasks[count] = _header(fx.SendTasks(self._name, _NUMBER, tasks), count)
        return self._tasks[count]

    def results(self, count: int) -> int:
        """Of so many results."""
        if count not in self._results:
            self._results[count] = _header(fx.SendResults(self._name, (Result(_DATUM, 0, 1, 1, _FLOAT),) * count))
        return self._results[count]


def _header(message: LinkMessage, tensors: int = 0) -> int:
    return len(encode(message, [_PAYLOAD] * tensors)[0])
