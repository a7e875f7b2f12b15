"""What happened. Events are past tense; `handle(event, now)` of a core is the only way its state changes.

Every effect that starts work has an event for each way it can end: RunSegment -> SegmentDone | SegmentFailed,
SendTasks -> TasksDelivered | TasksUndelivered | TasksRefused, SendResults -> ResultsUndelivered | nothing (a lost
result is caught by the datum's deadline), SetTimer -> TimerFired, SolvePrices -> PricesSolved,
Admit -> DatumUnreadable | a result | a deadline.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdi_exit.core.types import ExitReading, Measurement, Prices, Result, Routes, Task, WorkerReport

# ---- to a WorkerCore


@dataclass(frozen=True, slots=True)
class TasksArrived:
    """Tasks came, all of one segment: from a neighbour, or (sender None) admitted or resubmitted at the source."""

    tasks: tuple[Task, ...]
    sender: str | None
    transfer_id: int  # the sender's number for this hand-over; 0 when sender is None


@dataclass(frozen=True, slots=True)
class SegmentDone:
    """The compute thread ran segment k; one reading per task, in order. `duration_s`: computing alone, of the group;
    `beside_s`: what handling everything else took of the processor since the last one."""

    k: int
    tasks: tuple[Task, ...]
    readings: tuple[ExitReading, ...]
    feature_bytes: int  # size of a_k(d) for one datum; 0 after the last segment
    duration_s: float
    beside_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SegmentFailed:
    """The tasks could not be computed, and would not be again: a broken payload, a broken file."""

    k: int
    tasks: tuple[Task, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class TasksDelivered:
    """A neighbour acknowledged a hand-over `duration_s` after it was started, and said how it stands."""

    neighbour: str
    transfer_id: int
    duration_s: float
    report: WorkerReport


@dataclass(frozen=True, slots=True)
class TasksRefused:
    """A neighbour was full and did not take the tasks."""

    neighbour: str
    transfer_id: int
    report: WorkerReport


@dataclass(frozen=True, slots=True)
class TasksUndelivered:
    """No acknowledgement in time, or the link is down. The tasks may or may not have arrived."""

    neighbour: str
    transfer_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReportReceived:
    """A neighbour's gossip."""

    report: WorkerReport


@dataclass(frozen=True, slots=True)
class ResultsArrived:
    """Results from a neighbour (to relay, or to deliver at the source). The ControllerCore takes it too."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class ResultsUndelivered:
    """The way to that neighbour is known to be broken; the results are still ours."""

    neighbour: str
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class ThresholdsReceived:
    """New exit thresholds T_e^k, k = 1..K-1; `sender` is None at the source itself."""

    version: int
    thresholds: tuple[float, ...]
    sender: str | None


@dataclass(frozen=True, slots=True)
class PricesReceived:
    """New prices; `sender` is None at the source itself."""

    prices: Prices
    sender: str | None


@dataclass(frozen=True, slots=True)
class MeasurementsArrived:
    """Measurements from a neighbour, to pass on or to deliver at the source. The ControllerCore takes it too."""

    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class RoutesChanged:
    """Membership or topology changed; also the first thing a worker hears, which starts it."""

    routes: Routes


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer set by the core went off. To a ControllerCore it is always preceded by a SourceObserved."""

    name: str


# ---- to the ControllerCore


@dataclass(frozen=True, slots=True)
class SourceObserved:
    """The source worker's queues just now."""

    input_queue: int  # I_s
    output_queue: int  # O_s
    first_segment: int  # tasks waiting for segment 1, on either side


@dataclass(frozen=True, slots=True)
class DatumUnreadable:
    """An admitted datum could not be read."""

    data_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class PricesSolved:
    """The answer to SolvePrices; its version is the controller's to give."""

    prices: Prices


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died, with whatever it held."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerLeft:
    """A worker takes no more tasks; what it holds it still works off."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker is there (again), with empty queues."""

    worker: str


@dataclass(frozen=True, slots=True)
class AdmissionOpened:
    """The run begins: every worker is up and linked."""


@dataclass(frozen=True, slots=True)
class AdmissionClosed:
    """No further data; finish what is in flight."""


@dataclass(frozen=True, slots=True)
class DrainExpired:
    """Waiting for what is in flight took too long; what is left is lost."""


WorkerEvent = (
    TasksArrived
    | SegmentDone
    | SegmentFailed
    | TasksDelivered
    | TasksRefused
    | TasksUndelivered
    | ReportReceived
    | ResultsArrived
    | ResultsUndelivered
    | ThresholdsReceived
    | PricesReceived
    | MeasurementsArrived
    | RoutesChanged
    | TimerFired
)
ControllerEvent = (
    SourceObserved
    | TimerFired
    | ResultsArrived
    | MeasurementsArrived
    | PricesSolved
    | DatumUnreadable
    | WorkerLost
    | WorkerLeft
    | WorkerJoined
    | AdmissionOpened
    | AdmissionClosed
    | DrainExpired
)
Event = WorkerEvent | ControllerEvent
