"""The fluid problem: what limits the rate of data through a network of workers, in plain arrays.

Rates f[l][k], at which tasks for segment k cross the direction l of a link, and p[n][k], at which worker n computes
segment k (papers.md section 1.3 for fixed thresholds; derived there, the paper's own statement is unknown): tasks that
come to a worker are computed there or go on, no worker computes for more than one second per second, no direction of a
link, and no radio channel that links share, is busy for more than that.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdi_exit.config import Experiment
from mdi_exit.core.types import ExitReading, Task
from mdi_exit.core.views import ExitDecision, ExitPolicy
from mdi_exit.devices import Overhead
from mdi_exit.errors import UserError
from mdi_exit.models.card import Card
from mdi_exit.topology import Link, Topology, routes
from mdi_exit.trace import ExitTrace

Array = NDArray[np.float64]
_SHORTEST_S = 1e-9
UNKNOWN_S = 1e6  # stands for a time that nobody knows; no segment takes that long


class OptimumError(UserError):
    """What no bound can be computed for."""


@dataclass(frozen=True, slots=True, eq=False)
class FluidProblem:
    """What the bound depends on. N workers, K segments, L directions of links; inf stands for "not possible".

    A direction may be limited twice: a task keeps it busy for `send_s`, and takes `wait_s` of the time that its window
    grants per second (a window of one task is stop-and-wait: a round trip). Results travel free without `result_s`.
    Raises OptimumError for what contradicts itself.
    """

    workers: tuple[str, ...]
    source: str
    compute_s: Array  # (N, K), Gamma[n][k]; inf where n does not host k
    links: tuple[tuple[str, str], ...]  # (from, to)
    send_s: Array  # (L, K), D: seconds of the medium for one task; inf where l carries no task for k
    continuation: tuple[float, ...]  # c[k], k = 1..K-1: the share of what segment k computed that goes on
    wait_s: Array | None = None  # (L, K); None: no window limits anything
    result_s: Array | None = None  # (L,), seconds of the medium for one result
    channels: tuple[str | None, ...] = ()  # per direction, the radio channel that it is on; () and None: on none
    hop_s: tuple[float, ...] = ()  # per worker, of its time for each task that it hands over or is handed; (): none
    datum_s: float = 0.0  # of the source's time, for each datum

    def __post_init__(self) -> None:
        shape, known = (len(self.links), len(self.continuation) + 1), set(self.workers)
        if self.source not in known or any(end not in known for link in self.links for end in link):
            raise OptimumError("the source and the ends of links must be among the workers")
        if self.channels and len(self.channels) != len(self.links):
            raise OptimumError(f"channels must have {len(self.links)} entries, one per direction of a link, or none")
        if self.hop_s and len(self.hop_s) != len(self.workers):
            raise OptimumError(f"hop_s must have {len(self.workers)} entries, one per worker, or none")
        if self.compute_s.shape != (len(self.workers), shape[1]) or len(known) != len(self.workers):
            raise OptimumError(f"compute_s must be workers x {shape[1]} for {shape[1]} segments, each worker once")
        for name, times, wanted in (
            ("send_s", self.send_s, shape),
            ("wait_s", self.wait_s, shape),
            ("result_s", self.result_s, shape[:1]),
        ):
            if times is not None and (times.shape != wanted or not np.all(times >= 0)):
                raise OptimumError(f"{name} must have {' x '.join(map(str, wanted))} entries, none negative")
        known_s = self.compute_s[np.isfinite(self.compute_s)]
        if not np.all(self.compute_s > 0) or not known_s.size:
            raise OptimumError("compute_s must be above 0, and finite somewhere")
        if known_s.min() < _SHORTEST_S or known_s.max() > UNKNOWN_S:
            raise OptimumError(f"compute_s must be within {_SHORTEST_S:g} and {UNKNOWN_S:g} s, for the solver's sake")
        if not all(0 <= share <= 1 for share in self.continuation):
            raise OptimumError(f"continuation is {self.continuation}; allowed: shares within 0..1")

    @property
    def exits(self) -> int:
        """K."""
        return len(self.continuation) + 1


# ---- the data


def continuation(trace: ExitTrace, thresholds: Sequence[float]) -> tuple[float, ...]:
    """c[k], k = 1..K-1: of the data that reach exit k, the share that goes on when T_e^k are the thresholds.

    0 where no datum comes. Raises OptimumError when there are not K-1 thresholds.
    """
    return _shares(trace, leaving(trace, thresholds))


def leaving(trace: ExitTrace, thresholds: Sequence[float]) -> NDArray[np.intp]:
    """At which exit each datum leaves, counted from 0; compared as the cores do: strictly, in double precision.

    Raises OptimumError when there are not K-1 thresholds.
    """
    if len(thresholds) != trace.exits - 1:
        raise OptimumError(f"{len(thresholds)} thresholds for a trace of {trace.exits} exits; allowed: one less")
    return _first(trace.confidence[:, :-1].astype(np.float64) > np.asarray(thresholds, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class _Thresholds:
    """An ExitView."""

    exits: int
    values: tuple[float, ...]

    def threshold(self, k: int) -> float:
        return self.values[k - 1]

    @property
    def backlogs(self) -> tuple[int, ...]:
        return (0,) * self.exits  # a fluid does not queue


def _policy_leaving(trace: ExitTrace, policy: ExitPolicy, thresholds: tuple[float, ...]) -> NDArray[np.intp]:
    """As `leaving`, by asking an exit policy about each reading."""
    view = _Thresholds(trace.exits, thresholds)
    readings = zip(trace.confidence.tolist(), trace.prediction.tolist(), trace.entropy.tolist(), strict=True)
    leaves = [
        [
            policy.decide(Task(0, 0, k, 0), ExitReading(*said), view) is ExitDecision.LEAVE
            for k, said in enumerate(list(zip(*row, strict=True))[:-1], 1)
        ]
        for row in readings
    ]
    return _first(np.array(leaves, dtype=np.bool_).reshape(len(trace), trace.exits - 1))


def _first(leaves: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The first exit with a yes, or the last one, which always exits."""
    exits: NDArray[np.intp] = np.column_stack([leaves, np.ones(len(leaves), dtype=np.bool_)]).argmax(axis=1)
    return exits


def _shares(trace: ExitTrace, left_at: NDArray[np.intp]) -> tuple[float, ...]:
    left = np.bincount(left_at, minlength=trace.exits)
    reached = (len(trace) - np.cumsum([0, *left[:-1]])).tolist()  # by exit
    return tuple(on / of if of else 0.0 for of, on in itertools.pairwise(reached))


# ---- the network


def problem_of(
    experiment: Experiment,
    card: Card,
    trace: ExitTrace,
    *,
    measured_s: Mapping[str, Sequence[float]] | None = None,
    header_bytes: int = 0,
    result_bytes: int | None = None,
) -> FluidProblem:
    """What limits an experiment. A task takes its worker's device profile's time, or `measured_s` (segments 1..K).

    The link window decides how much a direction carries: beside its bandwidth, link_window groups of group_max tasks
    per round trip (transmission, latency, acknowledgement, latency); a window of 1 is stop-and-wait. A frame has
    `header_bytes` beside its tasks, an acknowledgement nothing else; a lost frame is sent again. Tasks go only where
    `topology.routes` lets the cores send them. Results travel free, or as frames of `result_bytes`, by any way. On a
    radio channel the transmissions of all its links exclude each other, acknowledgements among them; latencies do not.
    A bandwidth that changes counts with its mean. Gossip, and what acknowledgements take of a link off a channel, are
    ignored: the bound stays one.

    Raises OptimumError when the trace has other exits than the model, or nothing is known of a worker's times.
    """
    if trace.exits != experiment.exits:
        raise OptimumError(f"the trace has {trace.exits} exits; allowed: {experiment.exits}, as many as the model")
    times_s = {worker: _seconds(experiment, card, worker, measured_s or {}) for worker in experiment.topology.workers}
    shares = going_on(experiment, trace)
    return placed(experiment, times_s, trace.payload_bytes, shares, header_bytes, result_bytes)


def going_on(experiment: Experiment, trace: ExitTrace) -> tuple[float, ...]:
    """c[k], k = 1..K-1, of a trace's data under the experiment's exit rule and thresholds."""
    return _shares(trace, _policy_leaving(trace, experiment.exit, experiment.thresholds))


def network_of(
    experiment: Experiment, card: Card, payload_bytes: Sequence[int], lost: Collection[str] = ()
) -> FluidProblem:
    """As `problem_of`, of which nobody knows yet who goes on: continuation is 1. A worker whose times are not known
    has UNKNOWN_S for each segment that it hosts. `payload_bytes` are those of a_k, k = 0..K. Those `lost` compute and
    send nothing, and the others' routes lead around them.

    Raises OptimumError when nobody is left who hosts anything.
    """
    times_s = {}
    for worker, profile in experiment.devices.items():
        model = card.model
        known = profile.seconds(model.architecture, model.image_size, experiment.hosted[worker]) if profile else None
        times_s[worker] = known or (UNKNOWN_S,) * experiment.exits
    return placed(experiment, times_s, payload_bytes, (1.0,) * (experiment.exits - 1), 0, None, lost)


def placed(
    experiment: Experiment,
    times_s: Mapping[str, Sequence[float]],
    payload_bytes: Sequence[int],
    shares: tuple[float, ...],
    header_bytes: int = 0,
    result_bytes: int | None = None,
    lost: Collection[str] = (),
) -> FluidProblem:
    """As `problem_of`, of what is known beforehand: seconds of segments 1..K by worker, the bytes of a_k (k = 0..K),
    the shares that go on. Those `lost` compute and carry nothing, and the others' routes lead around them. What the
    runtime takes per datum, task and hand-over, the device profiles say: `times_s` are computing alone.
    """
    topology, hosted = experiment.topology, experiment.hosted
    profiles = experiment.devices
    runtimes = {w: known.runtime if (known := profiles[w]) else Overhead() for w in topology.workers}
    alive = [worker for worker in topology.workers if worker not in lost]
    compute_s = np.full((len(topology.workers), experiment.exits), np.inf)
    for n, worker in enumerate(topology.workers):
        here = [k - 1 for k in hosted[worker]] if worker in alive else []
        compute_s[n, here] = np.array(times_s[worker])[here] + runtimes[worker].task_s
    ways = _directions(topology)
    send_s = np.full((len(ways), experiment.exits), np.inf)
    wait_s, result_s = np.zeros_like(send_s), np.zeros(len(ways))
    allowed = routes(topology, hosted, experiment.exits, alive, version=0)
    for i, (a, b, link) in enumerate(ways):
        options, tries = experiment.worker_options[a], 1 / (1 - link.shape.loss)
        header_s = link.shape.transmission_s(header_bytes) / options.group_max
        answer_s = header_s if link.shape.channel else 0.0  # the other direction has a medium of its own elsewhere
        turn_s = 2 * link.shape.latency_s / options.group_max + header_s
        for k, size_bytes in enumerate(payload_bytes[:-1]):
            if a in allowed and b in allowed[a].toward_segment[k]:
                travels_bytes = link.shape.travels_bytes(k + 1, size_bytes)
                leaves_s = link.shape.transmission_s(travels_bytes) + header_s
                send_s[i, k] = tries * (leaves_s + answer_s)
                wait_s[i, k] = tries * (leaves_s + turn_s) / options.link_window
        up = a in allowed and b in allowed
        result_s[i] = tries * link.shape.transmission_s(result_bytes or 0) if up else np.inf
    return FluidProblem(
        topology.workers,
        topology.source,
        compute_s,
        tuple((a, b) for a, b, _ in ways),
        send_s,
        shares,
        wait_s,
        None if result_bytes is None else result_s,
        tuple(link.shape.channel for _, _, link in ways),
        tuple(runtime.hop_s for runtime in runtimes.values()),
        runtimes[topology.source].datum_s,
    )


def _directions(topology: Topology) -> list[tuple[str, str, Link]]:
    ways = []
    for link in topology.links:
        ways.append((link.a, link.b, link))
        if not link.one_way:
            ways.append((link.b, link.a, link))
    return ways


def _seconds(
    experiment: Experiment, card: Card, worker: str, measured_s: Mapping[str, Sequence[float]]
) -> Sequence[float]:
    profile = experiment.devices[worker]
    if worker in measured_s:
        seconds = measured_s[worker]
        if len(seconds) != experiment.exits:
            raise OptimumError(f"{worker}: {len(seconds)} measured times; allowed: one per segment, {experiment.exits}")
        return seconds
    if profile is None:
        raise OptimumError(f"{worker}: has no device profile; allowed: one for every worker, or measured times")
    return profile.seconds(card.model.architecture, card.model.image_size, experiment.hosted[worker])
