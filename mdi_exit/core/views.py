"""What a policy may look at. Read-only protocols over a core's live state.

The design asks for frozen views. Copying queues for every decision would cost more than the decision, so the core
passes itself under a protocol whose members are all read-only properties: mypy --strict refuses a policy that writes.
"""

from __future__ import annotations

from typing import Protocol

from mdi_exit.core.types import ExitReading


class QueueView(Protocol):
    """One side's waiting tasks, oldest first within each segment."""

    def __len__(self) -> int: ...

    def count(self, k: int) -> int:
        """How many wait for segment k (1..K)."""

    def oldest(self, segments: tuple[int, ...]) -> int | None:
        """The segment, among `segments`, of the task that has waited longest; None when none waits."""


class NeighbourView(Protocol):
    """What is known of a neighbour m, from its last report and from measured hand-overs."""

    @property
    def name(self) -> str: ...
    @property
    def accepts(self) -> tuple[int, ...]:
        """Segments k that m hosts or leads to (ascending)."""

    @property
    def waiting(self) -> tuple[int, ...]:
        """Tasks waiting at m per segment, as last reported."""

    @property
    def input_queue(self) -> int:
        """I_m, plus what was handed to m since its last report."""

    @property
    def output_queue(self) -> int:
        """O_m."""

    @property
    def compute_delay_s(self) -> float:
        """Gamma_m."""

    @property
    def transfer_delay_s(self) -> float:
        """D_nm, seconds for one task."""


class WorkerView(Protocol):
    """Worker n as its offloading policy sees it."""

    @property
    def exits(self) -> int:
        """K."""

    @property
    def hosted(self) -> tuple[int, ...]:
        """Segments computed here, ascending."""

    @property
    def input(self) -> QueueView:
        """I_n."""

    @property
    def output(self) -> QueueView:
        """O_n."""

    @property
    def either(self) -> QueueView: ...

    @property
    def computing(self) -> int:
        """Tasks being computed right now."""

    @property
    def compute_delay_s(self) -> float:
        """Gamma_n, seconds per task, over all segments."""

    def neighbours_toward(self, k: int) -> tuple[NeighbourView, ...]:
        """Neighbours to which a task for segment k may be handed."""


class ExitView(Protocol):
    """One reading and what it is judged by."""

    @property
    def exits(self) -> int:
        """K."""

    def threshold(self, k: int) -> float:
        """T_e^k for k = 1..K-1."""


class SourceView(Protocol):
    """The source as its admission policy sees it."""

    @property
    def input_queue(self) -> int:
        """I_s."""

    @property
    def output_queue(self) -> int:
        """O_s."""

    @property
    def first_segment(self) -> int:
        """Tasks at the source waiting for segment 1."""

    @property
    def in_flight(self) -> int:
        """Data admitted and not yet answered."""

    @property
    def interarrival_s(self) -> float:
        """mu, as last decided."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """T_e^k for k = 1..K-1, as last decided."""


__all__ = ["ExitReading", "ExitView", "NeighbourView", "QueueView", "SourceView", "WorkerView"]
