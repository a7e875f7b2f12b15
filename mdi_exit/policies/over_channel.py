"""The exit policy of a device in front of an analog link: answer, or transmit? (papers.md section 4.)"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mdi_exit.core.types import ExitReading, Task, Verdict
from mdi_exit.core.views import ExitDecision, ExitView
from mdi_exit.policies.transmission import ConfidenceTransmission, TransmissionPolicy


@dataclass(frozen=True, slots=True)
class TransmissionExit:
    """The exit rule of a device in front of an analog link: at exit `cut` answer, or transmit to the far side.

    Before the cut nothing leaves, behind it the far side runs to the last exit. The SNR that the device knows is the
    mean of its links', not how a single transmission will fade. A random decision is drawn by the experiment's seed
    and the datum's number.
    """

    decision: TransmissionPolicy = ConfidenceTransmission()  # noqa: RUF009 - frozen
    cut: int = 1
    known_db: float = 0.0
    seed: int = 0

    def decide(self, task: Task, reading: ExitReading, view: ExitView) -> ExitDecision:
        if task.k != self.cut:
            return ExitDecision.GO_ON
        rng = random.Random(f"{self.seed}/transmit {task.data_id}")
        transmits = self.decision.score(reading, self.known_db, rng) > 0
        return ExitDecision.OFFLOAD if transmits else ExitDecision.LEAVE

    def remember(self, task: Task, reading: ExitReading, view: ExitView) -> tuple[Verdict, ...]:
        return ()
