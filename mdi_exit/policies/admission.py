"""Admission policies at the source: Algorithm 3 (find the rate), Algorithm 4 (find the threshold), always admit.

Both algorithms compare Q with two queue thresholds every period and multiply. Which constant stands in which branch is
not known of the paper (papers.md 1.6, 1.7); the branches are options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mdi_exit.core.views import AdmissionDecision, SourceView

Signal = Literal["source_queues", "in_flight"]


def _congestion(signal: Signal, view: SourceView) -> int:
    return view.in_flight if signal == "in_flight" else view.input_queue + view.output_queue


def _check(alpha: float, beta: float, queue_low: int, queue_high: int, period_s: float) -> None:
    if not 0 < beta < alpha < 1:
        raise ValueError("0 < beta < alpha < 1 is wanted")
    if not 0 < queue_low < queue_high:
        raise ValueError("0 < queue_low < queue_high is wanted")
    if not period_s > 0:
        raise ValueError("period_s must be above 0")


@dataclass(frozen=True, slots=True)
class RateAdaptation:
    """Algorithm 3: thresholds fixed, the interarrival time mu follows the source's queues.

    Q < T_Q1: mu (1 - alpha); Q < T_Q2: mu (1 - beta) or unchanged; else mu (1 + beta) or (1 + alpha).
    `signal` is Q: I_s + O_s as in the paper, or the data in flight (which also sees queues elsewhere). T_Q1, T_Q2,
    alpha, beta as recalled of the paper (10, 30, 0.2, 0.1); s = 1 s and mu's start and bounds are ours.
    """

    wants_arrivals: ClassVar[bool] = False
    fill_to: ClassVar[int] = 0
    queue_max: ClassVar[int] = 0  # a source that holds its data sheds none

    first_interarrival_s: float = 0.1
    period_s: float = 1.0  # s
    queue_low: int = 10  # T_Q1
    queue_high: int = 30  # T_Q2
    alpha: float = 0.2
    beta: float = 0.1
    middle: Literal["speed_up", "unchanged"] = "speed_up"
    congested: Literal["beta", "alpha"] = "beta"
    signal: Signal = "source_queues"
    interarrival_min_s: float = 1e-4
    interarrival_max_s: float = 60.0

    def __post_init__(self) -> None:
        _check(self.alpha, self.beta, self.queue_low, self.queue_high, self.period_s)
        if not 0 < self.interarrival_min_s <= self.first_interarrival_s <= self.interarrival_max_s:
            raise ValueError("0 < interarrival_min_s <= first_interarrival_s <= interarrival_max_s is wanted")

    def adapt(self, view: SourceView) -> AdmissionDecision:
        queue = _congestion(self.signal, view)
        if queue < self.queue_low:
            factor = 1 - self.alpha
        elif queue < self.queue_high:
            factor = 1 - self.beta if self.middle == "speed_up" else 1.0
        else:
            factor = 1 + (self.alpha if self.congested == "alpha" else self.beta)
        interarrival_s = view.interarrival_s * factor
        bounded = min(max(interarrival_s, self.interarrival_min_s), self.interarrival_max_s)
        return AdmissionDecision(bounded, view.thresholds)


@dataclass(frozen=True, slots=True)
class ThresholdAdaptation:
    """Algorithm 4: the rate comes from an arrival process, the thresholds T_e^k follow the source's queues.

    Q < T_Q1: T (1 + alpha); Q < T_Q2: T (1 + beta) or unchanged; else T (1 - beta) or (1 - alpha); within
    [threshold_min (T_e^min), threshold_max]. One value for all exits, or, when they start apart, each by the same
    factor. T_e^min = 0.5 and the period are ours; the rest as in `RateAdaptation`. Arrivals beyond `queue_max` waiting
    data are shed.
    """

    wants_arrivals: ClassVar[bool] = True
    fill_to: ClassVar[int] = 0
    first_interarrival_s: ClassVar[float] = 0.0

    period_s: float = 1.0  # s
    queue_low: int = 10  # T_Q1
    queue_high: int = 30  # T_Q2
    alpha: float = 0.2
    beta: float = 0.1
    middle: Literal["raise", "unchanged"] = "raise"
    congested: Literal["beta", "alpha"] = "beta"
    signal: Signal = "source_queues"
    threshold_min: float = 0.5  # T_e^min
    threshold_max: float = 1.0
    queue_max: int = 200

    def __post_init__(self) -> None:
        _check(self.alpha, self.beta, self.queue_low, self.queue_high, self.period_s)
        if not 0 < self.threshold_min <= self.threshold_max <= 1:
            raise ValueError("0 < threshold_min <= threshold_max <= 1 is wanted")
        if self.queue_max < self.queue_high:
            raise ValueError("queue_max must not be below queue_high")

    def adapt(self, view: SourceView) -> AdmissionDecision:
        queue = _congestion(self.signal, view)
        if queue < self.queue_low:
            factor = 1 + self.alpha
        elif queue < self.queue_high:
            factor = 1 + self.beta if self.middle == "raise" else 1.0
        else:
            factor = 1 - (self.alpha if self.congested == "alpha" else self.beta)
        thresholds = tuple(min(max(t * factor, self.threshold_min), self.threshold_max) for t in view.thresholds)
        return AdmissionDecision(view.interarrival_s, thresholds)


@dataclass(frozen=True, slots=True)
class AlwaysAdmit:
    """Admit whatever arrives, adapt nothing, shed at a bounded queue. A baseline."""

    wants_arrivals: ClassVar[bool] = True
    fill_to: ClassVar[int] = 0
    first_interarrival_s: ClassVar[float] = 0.0

    period_s: float = 1.0  # how often the run's series is sampled
    queue_max: int = 200

    def __post_init__(self) -> None:
        if not self.period_s > 0 or self.queue_max < 1:
            raise ValueError("period_s and queue_max must be above 0")

    def adapt(self, view: SourceView) -> AdmissionDecision:
        return AdmissionDecision(view.interarrival_s, view.thresholds)
