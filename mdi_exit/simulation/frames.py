"""How large the frames on a link are: as large as `wire` makes them.

Within the kinds that make up the traffic, numbers differ by a few bytes from frame to frame; one frame stands for all
of its kind and number of parts, so that little has to be encoded while a world runs.
"""

from __future__ import annotations

import numpy as np

from mdi_exit.core import effects as fx
from mdi_exit.core.types import Result, Task, Verdict
from mdi_exit.wire import LinkMessage, encode, pack

_NUMBER, _SHARE = 1_000, 0.1  # of data, hand-overs: three bytes, as most are within a run
_PAYLOAD = np.zeros(1 << 12, dtype=np.uint8)  # small ones travel in one frame, described once
VERDICT_BYTES = len(pack(Verdict(1, 1, _SHARE)))  # each one that goes with a task or a result takes so many more


class FrameSizes:
    """Bytes of frames, payloads and verdicts left out; `name` stands for every worker's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: dict[int, int] = {}  # by how many; group_max and results_max bound both
        self._results: dict[int, int] = {}
        self._told: dict[type, int] = {}  # of acknowledgements and reports, as the first one was

    def tasks(self, count: int) -> int:
        """Of a hand-over of so many tasks, without their payloads."""
        if count not in self._tasks:
            tasks = (Task(_NUMBER, 0, 1, len(_PAYLOAD), 1),) * count
            self._tasks[count] = header_bytes(fx.SendTasks(self._name, _NUMBER, tasks), count)
        return self._tasks[count]

    def results(self, count: int) -> int:
        """Of so many results."""
        if count not in self._results:
            self._results[count] = header_bytes(fx.SendResults(self._name, (Result(_NUMBER, 0, 1, 1, _SHARE),) * count))
        return self._results[count]

    def told(self, message: fx.Acknowledge | fx.SendReport) -> int:
        """Of a message that says how a worker stands."""
        kind = type(message)
        if kind not in self._told:
            self._told[kind] = header_bytes(message)
        return self._told[kind]


def header_bytes(message: LinkMessage, tensors: int = 0) -> int:
    """Of just this message."""
    return len(encode(message, [_PAYLOAD] * tensors)[0])
