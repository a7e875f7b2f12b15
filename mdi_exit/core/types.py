"""The nouns of the decision core. Standard library only; every value that crosses a boundary is frozen.

Names follow the MDI-Exit paper (Colocrese, Koyuncu, Seferoglu 2024); each symbol is given once, where it belongs.
Exits and segments are numbered k = 1..K everywhere, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

TaskKey = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What exit k said of a datum: p_k and class_k of papers.md 3.2."""

    k: int
    prediction: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Task:
    """Run segment k on datum d: tau_k(d). The tensor it needs stays with the driver, under `key`."""

    data_id: int  # d
    attempt: int  # 0 at first; counts up each time the source submits the datum again
    k: int  # the segment to run, 1..K
    payload_bytes: int  # size of a_{k-1}(d), what travels when the task is handed over
    hops: int = 0  # links crossed since it was last computed
    arm: int = 0  # which of its choices the source made for this datum, 1, 2, ...; 0 where it makes none
    seen: tuple[Verdict, ...] = ()  # what the exit policy remembers of the exits passed; at most K

    @property
    def key(self) -> TaskKey:
        return (self.data_id, self.attempt, self.k)


@dataclass(frozen=True, slots=True)
class ExitReading:
    """What an exit said of one datum: C_k(d), argmax b_k(d), and the entropy of softmax(b_k(d)) in nats."""

    confidence: float
    prediction: int
    entropy: float


@dataclass(frozen=True, slots=True)
class Result:
    """The end of one attempt at a datum, on its way to the source. `error` is None, or why there is no prediction."""

    data_id: int
    attempt: int
    k: int  # the exit it left by, or the segment that failed
    prediction: int  # of that exit, unless an earlier one's is more to be trusted: `seen`
    confidence: float
    error: str | None = None
    seen: tuple[Verdict, ...] = ()  # what the exit policy remembered; the last of them answered


class Outcome(str, Enum):
    """What became of a datum, exactly one each. Conservation: offered = the sum of all four."""

    COMPLETED = "completed"
    SHED = "shed"  # refused at the door because the source was full
    FAILED = "failed"  # could not be read or computed, also not after retries
    LOST = "lost"  # no answer within every deadline, or by the end of the run


class Arrival(Enum):
    """How a task came to need a place to wait."""

    ADMITTED = "admitted"  # a fresh datum at the source
    RECEIVED = "received"  # from a neighbour
    CONTINUED = "continued"  # its previous segment was computed here and did not exit
    OFFLOADED = "offloaded"  # as CONTINUED, and the exit policy wants it to go on elsewhere
    RETURNED = "returned"  # it could not be delivered, or came back


class Side(Enum):
    """Where a task waits: to be computed here, to be handed to a neighbour, or for whichever is free first."""

    INPUT = "input"  # I_n
    OUTPUT = "output"  # O_n
    EITHER = "either"


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker tells its neighbours of itself, on acknowledgements and as gossip."""

    worker: str
    sequence: int  # grows with every report of one epoch of this worker; an older one is ignored
    epoch: int  # grows when the worker restarts
    waiting: tuple[int, ...]  # tasks waiting to be computed there, per segment 1..K (sum = I_m)
    output: tuple[int, ...]  # tasks waiting to be handed on there, per segment (sum = O_m)
    compute_delay_s: float  # Gamma_m
    thresholds_version: int
    prices_version: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a worker tells the source of what it has measured, for the prices."""

    worker: str
    epoch: int
    sequence: int  # grows with every measurement of one epoch; an older one is ignored
    compute_s: tuple[float, ...]  # Gamma[n][k], k = 1..K; 0 where nothing was computed
    links: tuple[tuple[str, tuple[float, ...]], ...]  # (neighbour m, D[n->m][k]); 0 where nothing was sent
    computed: tuple[float, ...]  # tasks per segment, the older the less they count
    went_on: tuple[float, ...]  # of those, how many did not leave at exit k


ANY_SHARE = 2.0  # more than all: nothing holds a way to it, or favours it


@dataclass(frozen=True, slots=True)
class Way:
    """What prices say of one direction of a link."""

    sender: str
    receiver: str
    channel: str  # the radio channel that it is on, if that limits the rate; "" for a link of its own
    nu: float  # the price of a second of the channel
    air_s: tuple[float, ...]  # seconds of it that a task for segment k = 1..K takes; () without one
    # Of the tasks for segment k that the sender computes or hands on, the part that is best handed on this way. Where
    # none are expected there, ANY_SHARE on a channel and 0 on a link of its own.
    share: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Prices:
    """Duals of the fluid problem, in the worth of a fresh datum at the source: pi[source][1] = 1."""

    version: int  # 0: there are none yet
    workers: tuple[str, ...]
    pi: tuple[tuple[float, ...], ...]  # per worker and segment: what one more task there costs
    ways: tuple[Way, ...]  # all of a radio channel that limits the rate; of other links those worth a hand-over


NO_PRICES: Prices = Prices(0, (), (), ())


@dataclass(frozen=True, slots=True)
class Routes:
    """What one worker must know of the graph; computed by `topology`, replaced whole when membership changes."""

    version: int
    toward_segment: tuple[tuple[str, ...], ...]  # [k-1]: neighbours that host k or are nearer to a worker that does
    toward_source: tuple[str, ...]  # next hops for results, nearest first; empty at the source
    report_to: tuple[str, ...]  # neighbours that may hand tasks to this worker
    peers: tuple[str, ...]  # every neighbour, in either direction
    news_to: tuple[str, ...]  # neighbours that hear from this worker what the source makes known


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on everything that could grow, each with its reason."""

    waiting_max: int = 10_000  # tasks waiting at one worker; beyond it arrivals are refused and stay with the sender
    in_flight_max: int = 2_000  # data admitted and not yet answered; bounds the source's ledger and images in memory
    # Missed deadlines and errors of one datum; a fifth try is not worth it. Deaths of workers do not count.
    attempts_max: int = 4
    deadline_s: float = 30.0  # first deadline of a datum; doubles with each attempt. Long: a deadline is not a policy
    loss_grace_s: float = 2.0  # after a worker is lost, data still unanswered this much later are submitted again
    hops_max: int = 16  # links a task may cross without being computed; then it stays where it can be computed
    finished_max: int = 4_096  # keys of tasks computed here, remembered to drop duplicates of a repeated delivery
    results_max: int = 4_096  # results waiting for a route to the source; the oldest go first, deadlines catch them
    quarantine_s: float = 1.0  # a neighbour that failed a delivery is left alone; doubles up to quarantine_max_s
    quarantine_max_s: float = 8.0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works, apart from its policies."""

    group_max: int = 1  # tasks of one segment computed or sent together; 1 is the paper's behaviour
    group_s: float = 0.02  # a group is no larger than is computed in this time, as far as is known
    link_window: int = 1  # groups under way per link; 1 means a link is free again when the last one is acknowledged
    gossip_s: float = 0.05  # how often a changed report is sent to neighbours; sooner to whom the last one misleads
    measure_s: float = 1.0  # how often what was measured is sent to the source, where prices are used
    delay_weight: float = 0.1  # weight of a new sample in the running means Gamma_n and D_nm (reconstructed)
    compute_delay_s: float = 0.0  # first estimate of Gamma_n, before anything was measured

    def __post_init__(self) -> None:
        if not (1 <= self.group_max <= 1024 and 1 <= self.link_window <= 1024):
            raise ValueError("group_max and link_window must be within 1..1024")
        if not (min(self.group_s, self.gossip_s, self.measure_s) > 0 and 0 < self.delay_weight <= 1):
            raise ValueError("group_s, gossip_s and measure_s must be above 0, delay_weight within (0, 1]")
        if not self.compute_delay_s >= 0:
            raise ValueError("compute_delay_s must not be negative")
