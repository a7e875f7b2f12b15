"""What a worker measures of itself: how long segments take, and how many data go on after each exit."""

from __future__ import annotations

from collections.abc import Iterable

from mdi_exit.core.neighbour import Neighbour
from mdi_exit.core.types import Measurement

_FORGET = 0.995  # weight of a count after the next one: thresholds change, so that old shares mean little


class Delays:
    """Running means of one worker. `delay_weight` is the weight of a new sample (reconstructed)."""

    def __init__(self, exits: int, delay_weight: float, first_s: float) -> None:
        self.compute_delay_s = first_s  # Gamma_n, over all segments
        # What a task that came, was computed or was sent took beside computing (0: not measured); how many since then.
        self.beside_s, self.handled = 0.0, 0
        self._weight = delay_weight
        self._segment_s = [0.0] * exits  # Gamma[n][k]; 0: not measured
        self._computed = [0.0] * exits
        self._went_on = [0.0] * exits
        self._sequence = 0

    def computed(self, k: int, tasks: int, went_on: int, sample_s: float, beside_s: float) -> None:
        """Note that segment k took `sample_s` per task, all else `beside_s`, and that so many of the tasks go on."""
        beside_s, self.handled = beside_s / (self.handled + tasks), 0
        self.beside_s = self.mean(self.beside_s or beside_s, beside_s)
        self.compute_delay_s = self.mean(self.compute_delay_s if any(self._segment_s) else sample_s, sample_s)
        self._segment_s[k - 1] = self.mean(self._segment_s[k - 1] or sample_s, sample_s)
        kept = _FORGET**tasks
        self._computed[k - 1] = self._computed[k - 1] * kept + tasks
        self._went_on[k - 1] = self._went_on[k - 1] * kept + went_on

    def mean(self, mean: float, sample: float) -> float:
        """The running mean with one more sample."""
        return mean + self._weight * (sample - mean)

    def segment_s(self, k: int) -> float:
        """Gamma[n][k]; the mean over all segments while this one was not computed."""
        return self._segment_s[k - 1] or self.compute_delay_s

    def continuation(self, k: int) -> float:
        """c[k] as seen here; 1 before anything was."""
        return self._went_on[k - 1] / self._computed[k - 1] if self._computed[k - 1] else 1.0

    def measurement(self, worker: str, epoch: int, neighbours: Iterable[Neighbour]) -> Measurement:
        """All of it, for the source."""
        self._sequence += 1
        links = tuple((m.name, tuple(m.segment_transfer_s)) for m in neighbours if any(m.segment_transfer_s))
        counts = (tuple(self._computed), tuple(self._went_on))
        return Measurement(worker, epoch, self._sequence, tuple(self._segment_s), links, *counts)
