"""Exit policies: does a datum leave at exit k < K? (MDI-Exit, Algorithm 1.) Those that learn are in learned.py."""

from __future__ import annotations

from dataclasses import dataclass

from mdi_exit.core.types import ExitReading, Task, Verdict
from mdi_exit.core.views import ExitDecision, ExitView


class _EachForItself:
    """The exit where a datum leaves answers; nothing goes with a datum."""

    __slots__ = ()

    def remember(self, task: Task, reading: ExitReading, view: ExitView) -> tuple[Verdict, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class ThresholdExit(_EachForItself):
    """Leave when the confidence exceeds the threshold, C_k(d) > T_e^k. Strict, so 1 switches an exit off."""

    def decide(self, task: Task, reading: ExitReading, view: ExitView) -> ExitDecision:
        return ExitDecision.LEAVE if reading.confidence > view.threshold(task.k) else ExitDecision.GO_ON


@dataclass(frozen=True, slots=True)
class DriftPlusPenalty(_EachForItself):
    """A threshold per exit that falls as tasks queue up behind it: leave when C_k(d) > min(T_e^k, 1 - Q[n][k+1] / V).

    Reconstructed from Lyapunov optimisation (Neely 2010). With the drift of half the squared queues, going on adds
    Q[n][k+1] to the drift and takes V times the accuracy gained from the penalty. A calibrated reading is right with
    probability C_k(d), so going on gains at most 1 - C_k(d): it pays when V (1 - C_k(d)) > Q[n][k+1].
    """

    v: float = 40.0  # V: tasks; the larger, the more accurate, and the longer the queues

    def __post_init__(self) -> None:
        if not self.v > 0:
            raise ValueError("v must be above 0")

    def decide(self, task: Task, reading: ExitReading, view: ExitView) -> ExitDecision:
        threshold = min(view.threshold(task.k), 1 - view.backlogs[task.k] / self.v)  # Q[n][k + 1]
        return ExitDecision.LEAVE if reading.confidence > threshold else ExitDecision.GO_ON


@dataclass(frozen=True, slots=True)
class NeverExit(_EachForItself):
    """Leave only at the last exit: model-distributed inference without early exits, a baseline."""

    def decide(self, task: Task, reading: ExitReading, view: ExitView) -> ExitDecision:
        return ExitDecision.GO_ON


@dataclass(frozen=True, slots=True)
class CalibratedOffloading:
    """Calibrated offloading (papers.md 3.2): the first `edge` exits run on the device, the others far away.

    With p_tar = T_e^k: the first of the device's exits with C_k(d) >= p_tar answers. Otherwise the datum is offloaded,
    with the most confident verdict so far, and runs to the end; when C_K(d) is below T_e^(K-1) as well, the most
    confident verdict of all exits answers, of equals the first. How well the confidences are calibrated is the
    checkpoint's affair.
    """

    edge: int = 1

    def __post_init__(self) -> None:
        if self.edge < 1:
            raise ValueError("edge must be 1 or more")

    def decide(self, task: Task, reading: ExitReading, view: ExitView) -> ExitDecision:
        if self._suffices(task, reading, view):
            return ExitDecision.LEAVE
        return ExitDecision.OFFLOAD if task.k == self.edge else ExitDecision.GO_ON

    def remember(self, task: Task, reading: ExitReading, view: ExitView) -> tuple[Verdict, ...]:
        best = task.seen and reading.confidence <= task.seen[0].confidence
        if best and not self._suffices(task, reading, view):
            return task.seen
        return (Verdict(task.k, reading.prediction, reading.confidence),)

    def _suffices(self, task: Task, reading: ExitReading, view: ExitView) -> bool:
        if self.edge < task.k < view.exits:
            return False
        return reading.confidence >= view.threshold(min(task.k, view.exits - 1))
