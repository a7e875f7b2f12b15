"""What the runtime itself takes of a device's time: for a datum at the source, for a task computed, for a hand-over.

Measured with the loop, cores, links and encryption of a run: a node alone whose data all leave at the first exit, the
same whose data go through every segment, and two nodes of which the second computes all segments but the first. What
counts is the processor time of the whole process, whoever waits for whom, less that of computing, times how long a
second of processor time takes here: one second where nobody else wants the processor, ten where a control group gives a
tenth of it. Groups and windows are those of the experiment. Design: ours.

Every segment is stood in for by the first one, which any worker can hold: it has to be computed, as a loop that does
nothing else finds all it needs in the processor's caches and has its groups full, and then a task or a hand-over takes
less than in a run. The data in flight are bounded: the first of two nodes has
less to do for a datum, and what it worked ahead would be charged to the few that are answered. All is measured in turns
and the median taken, since a node that has just begun, or a busy moment of the machine, can cost twice as much.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdi_exit import assembly, compute
from mdi_exit.compute.base import FeatureShapes
from mdi_exit.config import Experiment
from mdi_exit.core.events import AdmissionOpened, RoutesChanged
from mdi_exit.core.types import ExitReading, Routes
from mdi_exit.devices import Overhead
from mdi_exit.policies.control import FillQueue
from mdi_exit.policies.exit import NeverExit, ThresholdExit
from mdi_exit.policies.offloading import NeverOffload
from mdi_exit.runtime.images import Images
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.links import Address
from mdi_exit.runtime.node import Node
from mdi_exit.topology import Link, Topology

_HOST = "127.0.0.1"
_FIRST, _SECOND = "first", "second"
_TURNS = 3  # an odd number, of which the median is one of them
_WARM_UP = 0.25  # of the time, in which queues fill
_LOOKS = 60.0  # so many times longer than it should take, somebody may wait for a device's first answers
_STEP_S = 0.02
# Where one of two nodes computes, an idle one looks for messages every so many turns only: apart it would sleep, and
# looks would be charged to it. A judgement: how often a run's node looks is not known.
_PASSED_OVER = 4
_IDLE_S = 0.001  # where neither of two nodes computes, one waits so long while the other's messages may come
_QUEUED = 12  # data waiting for the first segment; as many more may be in flight as two windows of groups hold


def measure(life: Life, seconds: float) -> Overhead:
    """Measure on this machine for so long, or until there are answers. Raises UserError when nothing can listen."""
    exits, each_s = life.experiment.exits, seconds / (4 * _TURNS)
    every, first = tuple(range(1, exits + 1)), FirstSegment(life)
    settings: list[tuple[dict[str, tuple[int, ...]], bool]] = [({_FIRST: every}, False)]
    if exits > 1:
        settings += [({_FIRST: every}, True), ({_FIRST: every[:1], _SECOND: every[1:]}, True)]
    spells, found = list[tuple[float, float]](), list[list[float]]()
    for _ in range(_TURNS):
        spells.append(_spell(each_s))
        found.append([processor_s(life, first, hosted, deep, each_s) for hosted, deep in settings])
    # Of all spells together: what a device does follows its mean share of the processor. The mean of their stretches
    # counts a spell in which others had the processor several times over, and then all that was measured is too long.
    passed_s, used_s = (sum(times) for times in zip(*spells, strict=True))
    stretch = max(1.0, passed_s / max(1e-6, used_s))
    taken = [stretch * statistics.median(times) for times in zip(*found, strict=True)]
    return apart(taken[0], taken[1], taken[2], exits) if exits > 1 else Overhead(datum_s=taken[0])


def apart(shallow_s: float, deep_s: float, apart_s: float, exits: int) -> Overhead:
    """What a datum, a task and a hand-over take, of what a datum takes that leaves at the first exit, that goes through
    `exits` > 1 segments, and that does so on two nodes. What noise makes negative is none.
    """
    task_s = max(0.0, (deep_s - shallow_s) / (exits - 1))
    return Overhead(max(0.0, shallow_s - task_s), task_s, max(0.0, (apart_s - deep_s) / 2))


class FirstSegment:
    """The first segment, opened once for all nodes, each of which may compute in a thread of its own."""

    def __init__(self, life: Life) -> None:
        self._runner = compute.open_runner(life.prepared, (1,), device=life.experiment.runtime.device)
        self._one_at_a_time = threading.Lock()

    def run(self, count: int) -> None:
        with self._one_at_a_time:
            self._runner.run(1, np.zeros((count, *self._runner.feature_shape(0)), np.uint8))


class _StandIn:
    """A SegmentRunner that computes the first segment whatever is asked for, and counts the processor time of that and
    of the answer: what it does in a run's stead is none of the runtime's."""

    def __init__(self, hosted: tuple[int, ...], features: FeatureShapes, first: FirstSegment) -> None:
        self.hosted, self.exits = hosted, features.exits
        self._features, self._first = features, first
        self.used_s = 0.0
        self._answers = {k: np.zeros((1, *features.shape(k)), np.float32) for k in hosted if k < features.exits}

    def feature_shape(self, k: int) -> tuple[int, ...]:
        return self._features.shape(k)

    def feature_bytes(self, k: int) -> int:
        return self._features.size_bytes(k)

    def run(self, k: int, batch: NDArray[Any]) -> tuple[list[ExitReading], NDArray[np.float32] | None]:
        began_s = time.thread_time()
        self._first.run(len(batch))
        answer = self._answers.get(k)
        readings = [ExitReading(0.5, 0, 0.5)] * len(batch)
        features = None if answer is None else np.repeat(answer, len(batch), axis=0)
        self.used_s += time.thread_time() - began_s
        return readings, features


class _SameImage(Images):
    """One image for every datum: a device need not have the data set."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._image = np.zeros(shape, np.uint8)

    def label(self, data_id: int) -> int:
        return 0

    def image(self, data_id: int) -> NDArray[np.uint8]:
        return self._image

    def close(self) -> None:
        pass


class _Life(Life):
    """A life without a data set."""

    __slots__ = ()

    def images(self) -> Images:
        return _SameImage(self.prepared.features.shape(0))


def processor_s(
    life: Life, first: FirstSegment, hosted: Mapping[str, tuple[int, ...]], deep: bool, seconds: float
) -> float:
    """Processor seconds, without computing, of a datum for nodes that host these and are given as many as they take.

    Raises what ended a node, which is a UserError where the user can help it.
    """
    given = life.experiment
    options = given.worker_options[life.name]
    in_flight = _QUEUED + 2 * options.group_max * options.link_window
    experiment = dataclasses.replace(
        given,
        topology=Topology("overhead", _FIRST, tuple(hosted), (Link(_FIRST, _SECOND),) if len(hosted) > 1 else ()),
        hosted=hosted,
        devices=dict.fromkeys(hosted),
        thresholds=(0.0,) * (given.exits - 1),
        exit=NeverExit() if deep else ThresholdExit(),
        offloading=NeverOffload(),
        admission=FillQueue(_QUEUED),
        limits=dataclasses.replace(given.limits, in_flight_max=in_flight),
        arrivals=None,
        worker_options=dict.fromkeys(hosted, options),
        churn=(),
        data_max=None,
        runtime=dataclasses.replace(given.runtime, port_base=None),
    )
    runners = {name: _StandIn(segments, life.prepared.features, first) for name, segments in hosted.items()}
    with _nodes(life, experiment, runners) as nodes:
        source = nodes[_FIRST]

        def answered(more_than: int) -> tuple[float, int]:
            return _answered(source, runners.values(), more_than, _LOOKS * seconds)

        _connect(experiment, nodes)
        source.call(lambda: source.feed("controller", AdmissionOpened())).result()
        time.sleep(_WARM_UP * seconds)
        began_s, before = answered(0)
        time.sleep((1 - _WARM_UP) * seconds)
        ended_s, after = answered(before)
        return (ended_s - began_s) / max(1, after - before)


@contextlib.contextmanager
def _nodes(life: Life, experiment: Experiment, runners: Mapping[str, _StandIn]) -> Iterator[dict[str, Node]]:
    nodes: dict[str, Node] = {}
    ending, failures = threading.Event(), list[BaseException]()
    loops = threading.Thread(target=_turns, args=(nodes, ending, failures), name="nodes", daemon=True)
    try:
        for name, runner in runners.items():
            own = _Life(experiment, life.prepared, name, 0, time.time())
            nodes[name] = Node(own, runner, _HOST)
        loops.start()
        yield nodes
    finally:
        ending.set()
        if loops.ident is not None:
            loops.join()
        for node in nodes.values():
            node.stop()
        if failures:  # whoever called into the node was told no more than that it has ended
            raise failures[0]


def _turns(nodes: Mapping[str, Node], ending: threading.Event, failures: list[BaseException]) -> None:
    """The loops of all nodes in one thread: two would fight for the interpreter's lock, and those of a run do not.

    A node of a run that gives what it can has something to compute in most of its turns, and takes in then what has
    come meanwhile. So whoever has nothing to compute is passed over a few times while another has.
    """
    turn, busy = 0, dict.fromkeys(nodes, False)
    try:
        while not ending.is_set():
            turn += 1
            longest_s = 0.0 if any(busy.values()) else _IDLE_S
            for name, node in nodes.items():
                if busy[name] or longest_s or turn % _PASSED_OVER == 0:
                    busy[name] = node.turn(longest_s)
    except BaseException as error:  # whatever it is, it is raised where this is waited for
        failures.append(error)
    finally:
        for node in nodes.values():  # whoever calls into one then hears that it has ended
            node.stop()


def _connect(experiment: Experiment, nodes: Mapping[str, Node]) -> None:
    addresses = {name: node.links.address for name, node in nodes.items()}
    for name, routes in assembly.routes_for(experiment, list(nodes), 1).items():
        others = {peer: addresses[peer] for peer in routes.peers}
        nodes[name].call(functools.partial(_know, nodes[name], others, routes)).result()


def _know(node: Node, others: Mapping[str, Address], routes: Routes) -> None:
    node.links.set_neighbours(others)
    node.feed("worker", RoutesChanged(routes))


def _answered(source: Node, runners: Iterable[_StandIn], more_than: int, within_s: float) -> tuple[float, int]:
    """The processor time used beside computing, and how many data were answered by then: more than so many, unless it
    takes too long."""

    def look() -> tuple[float, int]:
        beside_s = time.process_time() - sum(runner.used_s for runner in runners)
        return beside_s, source.tally.source.completed if source.tally.source else 0

    until_s = time.monotonic() + within_s
    while (found := source.call(look).result())[1] <= more_than and time.monotonic() < until_s:
        time.sleep(_STEP_S)
    return found


def _spell(seconds: float) -> tuple[float, float]:
    """Seconds that passed, and seconds of processor time in them, for one who wants all there is."""
    began_s, used_s = time.monotonic(), time.thread_time()
    until_s = began_s + seconds
    while time.monotonic() < until_s:
        pass
    return time.monotonic() - began_s, time.thread_time() - used_s
