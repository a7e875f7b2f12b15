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
class NeverExit:
    """Leave only at the last exit: model-distributed inference without early exits, a baseline."""

    def leaves(self, k: int, reading: ExitReading, view: ExitView) -> bool:
        return False
