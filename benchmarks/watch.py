"""What a run took of the processors, for benchmarks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from mdi_exit.runtime import Progress


@dataclass(slots=True)
class Watch:
    """Observes a run: what its workers' processes, and all others, took of the processors while data were admitted.

    The first `after_s` are left out, in which a source decodes its images and a run finds its rate.
    """

    after_s: float = 0.0
    opened_s: float | None = None
    begun: tuple[float, float, float] | None = None
    last: tuple[float, float, float] | None = None
    pids: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, progress: Progress) -> None:
        if progress.phase == "run" and progress.pids:
            self.pids = progress.pids
            self.last = self._now()
            self.opened_s = self.last[0] if self.opened_s is None else self.opened_s
            if self.begun is None and self.last[0] >= self.opened_s + self.after_s:
                self.begun = self.last

    @property
    def workers_cpu(self) -> float:
        """Cores that the workers kept busy."""
        return self._share(1)

    @property
    def others_cpu(self) -> float:
        """Cores that everything else kept busy, Ray and this program included."""
        return self._share(2)

    def _share(self, which: int) -> float:
        assert self.begun is not None and self.last is not None
        return (self.last[which] - self.begun[which]) / max(self.last[0] - self.begun[0], 1e-9)

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy_s = times.user + times.system + times.nice + getattr(times, "softirq", 0.0)
        ours_s = sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in self.pids.values())
        return time.monotonic(), ours_s, busy_s - ours_s
