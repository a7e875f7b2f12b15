"""Exit policies: does a datum leave at exit k < K? (MDI-Exit, Algorithm 1.)"""

from __future__ import annotations

from dataclasses import dataclass

from mdi_exit.core.types import ExitReading
from mdi_exit.core.views import ExitView


@dataclass(frozen=True, slots=True)
class ThresholdExit:
    """Leave when the confidence exceeds the threshold, C_k(d) > T_e^k. Strict, so 1 switches an exit off."""

    def leaves(self, k: int, reading: ExitReading, view: ExitView) -> bool:
        return reading.confidence > view.threshold(k)


@dataclass(frozen=True, slots=True)
class DriftPlusPenalty:
    """A threshold per exit that falls as tasks queue up behind it: leave when C_k(d) > min(T_e^k, 1 - Q[n][k+1] / V).

    Reconstructed from Lyapunov optimisation (Neely 2010). With the drift of half the squared queues, going on adds
    Q[n][k+1] to the drift and takes V times the accuracy gained from the penalty. A calibrated reading is right with
    probability C_k(d), so going on gains at most 1 - C_k(d): it pays when V (1 - C_k(d)) > Q[n][k+1].
    """

    v: float = 40.0  # V: tasks; the larger, the more accurate, and the longer the queues

    def __post_init__(self) -> None:
        if not self.v > 0:
            raise ValueError("v must be above 0")

    def leaves(self, k: int, reading: ExitReading, view: ExitView) -> bool:
        return reading.confidence > min(view.threshold(k), 1 - view.backlog(k + 1) / self.v)


@dataclass(frozen=True, slots=True)
class NeverExit:
    """Leave only at the last exit: model-distributed inference without early exits, a baseline."""

    def leaves(self, k: int, reading: ExitReading, view: ExitView) -> bool:
        return False
