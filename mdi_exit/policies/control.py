"""Admission that comes close to the optimum: fill a short queue to find the rate, a PI controller to find the
threshold. Ours, beside the paper's Algorithms 3 and 4 in `admission`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdi_exit.core.views import AdmissionDecision, SourceView


@dataclass(frozen=True, slots=True)
class FillQueue:
    """Thresholds fixed; a datum is admitted whenever fewer than `queue_target` tasks wait for segment 1 at the source.

    With back-pressure behind it the rate is then whatever the network takes. The interarrival time is only measured.
    """

    wants_arrivals: ClassVar[bool] = False
    queue_max: ClassVar[int] = 0
    first_interarrival_s: ClassVar[float] = 0.0

    queue_target: int = 9  # V; fewer do not reach across several links
    period_s: float = 0.5  # how often the run's series is sampled

    def __post_init__(self) -> None:
        if not 1 <= self.queue_target <= 1000 or not self.period_s > 0:
            raise ValueError("queue_target must be within 1..1000 and period_s above 0")

    @property
    def fill_to(self) -> int:
        return self.queue_target

    def adapt(self, view: SourceView) -> AdmissionDecision:
        return AdmissionDecision(view.interarrival_s, view.thresholds)


@dataclass(frozen=True, slots=True)
class PiControl:
    """The rate comes from an arrival process; one threshold for all exits follows the data in flight.

    N = data in flight, N* = rate * target_latency_s, e = (N* - N) / N* within -1..1. Every period
    I += gain_integral e and T_e = I + gain e, both kept within threshold_min..threshold_max. By Little's law N = N* is
    a mean latency of target_latency_s. `threshold_max` is best set to the threshold that is most accurate on
    calibration data: above it more work is done for less.
    """

    wants_arrivals: ClassVar[bool] = True
    fill_to: ClassVar[int] = 0
    first_interarrival_s: ClassVar[float] = 0.0

    period_s: float = 0.1
    target_latency_s: float = 0.2
    gain: float = 0.1
    gain_integral: float = 0.02
    threshold_min: float = 0.05
    threshold_max: float = 1.0
    queue_max: int = 200

    def __post_init__(self) -> None:
        if not min(self.period_s, self.target_latency_s, self.gain, self.gain_integral) > 0 or self.queue_max < 1:
            raise ValueError("period_s, target_latency_s, gain, gain_integral and queue_max must be above 0")
        if not 0 < self.threshold_min <= self.threshold_max <= 1:
            raise ValueError("0 < threshold_min <= threshold_max <= 1 is wanted")

    def adapt(self, view: SourceView) -> AdmissionDecision:
        first = sum(view.thresholds) / len(view.thresholds) if view.thresholds else 1.0
        integral = view.memory[0] if view.memory else first
        wanted = max(1.0, self.target_latency_s / view.interarrival_s)
        error = min(max((wanted - view.in_flight) / wanted, -1.0), 1.0)
        integral = self._within(integral + self.gain_integral * error)
        threshold = self._within(integral + self.gain * error)
        return AdmissionDecision(view.interarrival_s, (threshold,) * len(view.thresholds), (integral,))

    def _within(self, threshold: float) -> float:
        return min(max(threshold, self.threshold_min), self.threshold_max)
