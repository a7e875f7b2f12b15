"""What to do. Effects are imperative; a driver (Ray actors, or the simulator) performs them and reports back."""

from __future__ import annotations

from dataclasses import dataclass

from mdi_exit.core.types import Measurement, Outcome, Prices, Result, Task, TaskKey, WorkerReport

# ---- of a WorkerCore


@dataclass(frozen=True, slots=True)
class RunSegment:
    """Compute segment k on these tasks; ends in SegmentDone or SegmentFailed. Never two at once per worker."""

    k: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class SendTasks:
    """Hand tasks and their payloads to a neighbour; ends in TasksDelivered, TasksRefused or TasksUndelivered.

    The payloads stay with the driver until the core discards them.
    """

    to: str
    transfer_id: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Answer a neighbour's hand-over; `accepted` is False when this worker is full."""

    to: str
    transfer_id: int
    accepted: bool
    report: WorkerReport


@dataclass(frozen=True, slots=True)
class SendResults:
    """Pass results on towards the source; ends in ResultsUndelivered or nothing."""

    to: str
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class DeliverResults:
    """Hand results to the controller; only the source's worker emits it."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class SendReport:
    """Gossip. May be lost: the next one repairs it."""

    to: str
    report: WorkerReport


@dataclass(frozen=True, slots=True)
class SendThresholds:
    """Pass new exit thresholds on. May be lost: a neighbour's next report shows an old version and it is sent again."""

    to: str
    version: int
    thresholds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SendPrices:
    """Pass new prices on, as thresholds are."""

    to: str
    prices: Prices


@dataclass(frozen=True, slots=True)
class SendMeasurements:
    """Pass measurements on towards the source. May be lost: the next ones repair it."""

    to: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class DeliverMeasurements:
    """Hand measurements to the controller; only the source's worker emits it."""

    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class DiscardPayloads:
    """Nobody here needs these tensors any more."""

    keys: tuple[TaskKey, ...]


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Deliver TimerFired(name) after `delay_s`. Setting a name again replaces it."""

    name: str
    delay_s: float


# ---- of the ControllerCore


@dataclass(frozen=True, slots=True)
class Admit:
    """Read datum `data_id` and give the source's worker the task (data_id, attempt, k=1, arm)."""

    data_id: int
    attempt: int
    arm: int = 0  # the task's


@dataclass(frozen=True, slots=True)
class Complete:
    """The one outcome of a datum. `k`, `prediction`, `confidence` are 0, -1, 0.0 unless it completed."""

    data_id: int
    outcome: Outcome
    k: int
    prediction: int
    confidence: float
    latency_s: float  # from its first admission; 0.0 when shed
    attempts: int
    reason: str = ""
    arm: int = 0  # where the source learns: the choice it made for this datum, what it cost, what it earned
    cost: float = 0.0
    reward: float = 0.0


@dataclass(frozen=True, slots=True)
class CountDuplicate:
    """A further result for a datum that already has its outcome."""

    data_id: int


@dataclass(frozen=True, slots=True)
class SetThresholds:
    """Give the source's worker new thresholds (as ThresholdsReceived with sender None); it spreads them."""

    version: int
    thresholds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SolvePrices:
    """Solve the fluid problem of the workers that are up with what they measured; ends in PricesSolved.

    Never two at once.
    """

    measurements: tuple[Measurement, ...]
    lost: tuple[str, ...]  # workers that are down


@dataclass(frozen=True, slots=True)
class SetPrices:
    """Give the source's worker new prices (as PricesReceived with sender None); it spreads them."""

    prices: Prices


@dataclass(frozen=True, slots=True)
class RecordControl:
    """The controller's state after an adaptation step, for the run report's series."""

    interarrival_s: float  # mu
    threshold: float  # T_e, the mean over exits 1..K-1
    input_queue: int
    output_queue: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Admission is closed and every datum has its outcome."""


WorkerEffect = (
    RunSegment
    | SendTasks
    | Acknowledge
    | SendResults
    | DeliverResults
    | SendReport
    | SendThresholds
    | SendPrices
    | SendMeasurements
    | DeliverMeasurements
    | DiscardPayloads
    | SetTimer
)
ControllerEffect = (
    SetTimer | Admit | Complete | CountDuplicate | SetThresholds | SolvePrices | SetPrices | RecordControl | Finish
)
Effect = WorkerEffect | ControllerEffect
