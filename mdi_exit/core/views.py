"""What a policy may look at, and the questions it answers. Read-only protocols over a core's live state.

The design asks for frozen views. Copying queues for every decision would cost more than the decision, so the core
passes itself under a protocol whose members are all read-only properties: mypy --strict refuses a policy that writes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar

from mdi_exit.core.types import Arrival, ExitReading, Result, Side, Task, Verdict, Way


class QueueView(Protocol):
    """One side's waiting tasks, oldest first within each segment."""

    @property
    def length(self) -> int:
        """How many wait."""

    @property
    def counts(self) -> Sequence[int]:
        """How many wait, per segment 1..K."""

    def hops(self, k: int) -> int:
        """How many links the oldest task for segment k has crossed since the segment before was computed."""

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
    def input_queue(self) -> int:
        """I_m, plus what was handed to m since its last report."""

    @property
    def compute_delay_s(self) -> float:
        """Gamma_m."""

    @property
    def transfer_delay_s(self) -> float:
        """D_nm, seconds for one task."""

    @property
    def quarantined(self) -> bool:
        """It failed a delivery lately, and is left alone for a while."""

    @property
    def backlogs(self) -> Sequence[int]:
        """Q[m][k], k = 1..K: tasks that wait at m on either side, as last reported."""

    @property
    def handed(self) -> Sequence[int]:
        """Tasks on their way there, per segment 1..K."""

    def segment_delay_s(self, k: int) -> float:
        """D[n->m][k], seconds for one task; 0 before anything was sent."""


class WorkerView(Protocol):
    """Worker n as its offloading policy sees it."""

    @property
    def name(self) -> str: ...
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

    def segment_delay_s(self, k: int) -> float:
        """Gamma[n][k], seconds per task."""

    @property
    def beside_s(self) -> float:
        """What all but computing takes of this worker's processor while it has something to compute, for each task that
        comes, is computed or is handed over; 0 where it was not measured."""

    def continuation(self, k: int) -> float:
        """c[k]: of the data whose segment k is computed here, the share that goes on; 1 before anything was."""

    @property
    def backlogs(self) -> Sequence[int]:
        """Q[n][k], k = 1..K: tasks waiting here, on whichever side."""

    def prices(self, worker: str) -> Sequence[float]:
        """pi[worker][k], k = 1..K, of this worker or a neighbour; 0 before the first prices."""

    def group(self, k: int) -> int:
        """How many tasks for segment k are computed together, if as many wait."""

    def since_oldest(self, k: int) -> int:
        """Tasks that came here since the one for segment k that the processor has let wait longest; 0 without one."""

    def way(self, neighbour: str) -> Way | None:
        """What prices say of the link to a neighbour; None where they say nothing."""

    def air_use(self, channel: str) -> tuple[float, float]:
        """How long this worker's hand-overs under way keep a radio channel busy; the longest of the round trips to
        neighbours that it is used for."""

    def dealt(self, worker: str, k: int) -> tuple[float, float]:
        """Tasks for segment k that were disposed of here within about a second: handed to a neighbour, or computed by
        this worker itself; and in all. Counted while prices say something of its links."""

    @property
    def memo(self) -> dict[str, tuple[float, int | None]]:
        """For what a policy works out of the queues; it is emptied when they change."""

    def neighbours_toward(self, k: int) -> tuple[NeighbourView, ...]:
        """Neighbours to which a task for segment k may be handed."""


class ExitView(Protocol):
    """One reading and what it is judged by."""

    @property
    def exits(self) -> int:
        """K."""

    def threshold(self, k: int) -> float:
        """T_e^k for k = 1..K-1."""

    @property
    def backlogs(self) -> Sequence[int]:
        """Q[n][k], k = 1..K: tasks waiting here, on whichever side."""


class SourceView(Protocol):
    """The source as its admission policy sees it."""

    @property
    def input_queue(self) -> int:
        """I_s."""

    @property
    def output_queue(self) -> int:
        """O_s."""

    @property
    def in_flight(self) -> int:
        """Data admitted and not yet answered."""

    @property
    def interarrival_s(self) -> float:
        """mu, as last decided."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """T_e^k for k = 1..K-1, as last decided."""

    @property
    def memory(self) -> tuple[float, ...]:
        """What the policy asked to be reminded of; () at first."""


NeighbourT = TypeVar("NeighbourT", bound=NeighbourView)


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """What Algorithms 3 and 4 decide every period."""

    interarrival_s: float  # mu
    thresholds: tuple[float, ...]  # T_e^k, k = 1..K-1
    memory: tuple[float, ...] = ()  # what the policy wants to be reminded of next time


class ExitDecision(Enum):
    """What becomes of a datum at an exit k < K."""

    LEAVE = "leave"
    GO_ON = "go on"
    OFFLOAD = "offload"  # go on, elsewhere


class ExitPolicy(Protocol):
    """Whether a datum leaves at exit k < K; at K it always does. `reading` is what exit task.k says."""

    def decide(self, task: Task, reading: ExitReading, view: ExitView) -> ExitDecision: ...

    def remember(self, task: Task, reading: ExitReading, view: ExitView) -> tuple[Verdict, ...]:
        """What is to go with the datum, of task.seen and this reading, k <= K; at most K.

        If it leaves here, the last of them answers; when there is none, this reading does.
        """


class SplitLearner(Protocol):
    """What the source chooses for each datum, an arm 1, 2, ..., and learns from its answer."""

    def begin(self, exits: int) -> Any:
        """All that is remembered, at first; the core keeps it."""

    def choose(self, state: Any) -> int:
        """The arm for the next datum."""

    def learn(self, state: Any, arm: int, result: Result) -> tuple[float, float]:
        """Take in an answer; return what the datum cost, and what it earned."""


class OffloadingPolicy(Protocol):
    """Where a task waits, what the idle processor runs next, what a free link takes next.

    Asked only about tasks that could be computed here and be handed over; where there is no choice the core decides.
    """

    @property
    def retry_s(self) -> float:
        """When a neighbour was declined, how long until it is considered again; 0: at every event."""

    @property
    def uses_prices(self) -> bool:
        """Workers measure, the source solves the fluid problem every now and then, and all are told its prices."""

    @property
    def may_rest(self) -> bool:
        """It may leave a task waiting, although the processor is idle, whose outcome would only lengthen a queue for
        links."""

    @property
    def takes_back(self) -> bool:
        """An idle worker computes what waits to be sent; else only what cannot be."""

    def place(self, view: WorkerView, task: Task, arrival: Arrival, rng: random.Random) -> Side: ...

    def next_to_run(self, view: WorkerView) -> int | None:
        """A segment with a task on the input or the either side; None when both are empty, or to rest."""

    def next_to_send(self, view: WorkerView, neighbour: NeighbourView, rng: random.Random) -> int | None:
        """A segment with a task on the output or the either side that the neighbour accepts, or None."""

    def order(self, view: WorkerView, free: Sequence[NeighbourT], rng: random.Random) -> list[NeighbourT]:
        """In which order free neighbours are considered."""


class AdmissionPolicy(Protocol):
    """How fast data enter, and how confident is confident enough."""

    @property
    def wants_arrivals(self) -> bool:
        """Data come from an arrival process rather than at the pace decided here."""

    @property
    def fill_to(self) -> int:
        """Data are admitted as long as fewer tasks than this wait for segment 1 at the source; 0: at a pace instead."""

    @property
    def first_interarrival_s(self) -> float: ...
    @property
    def period_s(self) -> float: ...
    @property
    def queue_max(self) -> int:
        """With arrivals: tasks that may wait for segment 1 at the source before further data are shed."""

    def adapt(self, view: SourceView) -> AdmissionDecision: ...


class ArrivalProcess(Protocol):
    """When data come from outside."""

    @property
    def mean_interarrival_s(self) -> float: ...
    def gaps(self, rng: random.Random) -> Iterator[float]:
        """Seconds between one arrival and the next, from the first gap on; may end."""
