"""What the runtime itself takes of a device's time: for a datum at the source, for a task computed, for a hand-over.

Measured with the loop, cores, links and encryption of a run, by segments that take no time: a node alone whose data all
leave at the first exit, the same whose data go through every segment, and two nodes of which the second computes all
segments but the first. What counts is the processor time of the whole process, whoever waits for whom, times how long
a second of processor time takes here: one second where nobody else wants the processor, ten where a control group gives
a tenth of it. Groups and windows are those of the experiment. Design: ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdi_exit import assembly
from mdi_exit.compute.base import FeatureShapes
from mdi_exit.config import Experiment
from mdi_exit.core.events import AdmissionOpened, RoutesChanged
from mdi_exit.core.types import ExitReading, Routes
from mdi_exit.devices import Overhead
from mdi_exit.policies.backpressure import BackPressure
from mdi_exit.policies.control import FillQueue
from mdi_exit.policies.exit import NeverExit, ThresholdExit
from mdi_exit.runtime.images import Images
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.links import Address
from mdi_exit.runtime.node import Node
from mdi_exit.topology import Link, Topology

_HOST = "127.0.0.1"
_FIRST, _SECOND = "first", "second"
_WARM_UP = 0.25  # of the time, in which queues fill
_LOOKS = 60.0  # so many times longer than it should take, somebody may wait for a device's first answers
_STEP_S = 0.02


def measure(life: Life, seconds: float) -> Overhead:
    """Measure on this machine for so long, or until there are answers. Raises UserError when nothing can listen."""
    exits, each_s, stretch = life.experiment.exits, seconds / 4, _stretch(seconds / 4)
    every = tuple(range(1, exits + 1))

    def datum_s(hosted: Mapping[str, tuple[int, ...]], deep: bool) -> float:
        return stretch * processor_s(life, hosted, deep, each_s)

    shallow_s = datum_s({_FIRST: every}, False)
    if exits == 1:
        return Overhead(datum_s=shallow_s)
    deep_s = datum_s({_FIRST: every}, True)
    apart_s = datum_s({_FIRST: every[:1], _SECOND: every[1:]}, True)
    return apart(shallow_s, deep_s, apart_s, exits)


def apart(shallow_s: float, deep_s: float, apart_s: float, exits: int) -> Overhead:
    """What a datum, a task and a hand-over take, of what a datum takes that leaves at the first exit, that goes through
    `exits` > 1 segments, and that does so on two nodes. What noise makes negative is none.
    """
    task_s = max(0.0, (deep_s - shallow_s) / (exits - 1))
    return Overhead(max(0.0, shallow_s - task_s), task_s, max(0.0, (apart_s - deep_s) / 2))


class _NoTime:
    """A SegmentRunner whose segments take no time."""

    def __init__(self, hosted: tuple[int, ...], features: FeatureShapes) -> None:
        self.hosted, self.exits, self._features = hosted, features.exits, features
        self._answers = {k: np.zeros((1, *features.shape(k)), np.float32) for k in hosted if k < features.exits}

    def feature_shape(self, k: int) -> tuple[int, ...]:
        return self._features.shape(k)

    def feature_bytes(self, k: int) -> int:
        return self._features.size_bytes(k)

    def run(self, k: int, batch: NDArray[Any]) -> tuple[list[ExitReading], NDArray[np.float32] | None]:
        answer = self._answers.get(k)
        readings = [ExitReading(0.5, 0, 0.5)] * len(batch)
        return readings, None if answer is None else np.repeat(answer, len(batch), axis=0)


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


def processor_s(life: Life, hosted: Mapping[str, tuple[int, ...]], deep: bool, seconds: float) -> float:
    """Processor seconds that one datum takes nodes that host these and are given as many as they take."""
    given = life.experiment
    experiment = dataclasses.replace(
        given,
        topology=Topology("overhead", _FIRST, tuple(hosted), (Link(_FIRST, _SECOND),) if len(hosted) > 1 else ()),
        hosted=hosted,
        devices=dict.fromkeys(hosted),
        thresholds=(0.0,) * (given.exits - 1),
        exit=NeverExit() if deep else ThresholdExit(),
        offloading=BackPressure(),
        admission=FillQueue(),
        arrivals=None,
        worker_options=dict.fromkeys(hosted, given.worker_options[life.name]),
        churn=(),
        data_max=None,
        runtime=dataclasses.replace(given.runtime, port_base=None),
    )
    with _nodes(life, experiment) as nodes:
        source = nodes[_FIRST]
        _connect(experiment, nodes)
        source.call(lambda: source.feed("controller", AdmissionOpened())).result()
        time.sleep(_WARM_UP * seconds)
        began_s, before = _answered(source, 0, _LOOKS * seconds)
        time.sleep((1 - _WARM_UP) * seconds)
        ended_s, after = _answered(source, before, _LOOKS * seconds)
        return (ended_s - began_s) / max(1, after - before)


@contextlib.contextmanager
def _nodes(life: Life, experiment: Experiment) -> Iterator[dict[str, Node]]:
    nodes: dict[str, Node] = {}
    try:
        for name, hosted in experiment.hosted.items():
            own = _Life(experiment, life.prepared, name, 0, time.time())
            nodes[name] = Node(own, _NoTime(hosted, life.prepared.features), _HOST)
        yield nodes
    finally:
        for node in nodes.values():
            node.stop()


def _connect(experiment: Experiment, nodes: Mapping[str, Node]) -> None:
    addresses = {name: node.links.address for name, node in nodes.items()}
    for name, routes in assembly.routes_for(experiment, list(nodes), 1).items():
        others = {peer: addresses[peer] for peer in routes.peers}
        nodes[name].start()
        nodes[name].call(functools.partial(_know, nodes[name], others, routes)).result()


def _know(node: Node, others: Mapping[str, Address], routes: Routes) -> None:
    node.links.set_neighbours(others)
    node.feed("worker", RoutesChanged(routes))


def _answered(source: Node, more_than: int, within_s: float) -> tuple[float, int]:
    """The processor time used, and how many data were answered by then: more than so many, unless it takes too long."""

    def look() -> tuple[float, int]:
        return time.process_time(), source.tally.source.completed if source.tally.source else 0

    until_s = time.monotonic() + within_s
    while (found := source.call(look).result())[1] <= more_than and time.monotonic() < until_s:
        time.sleep(_STEP_S)
    return found


def _stretch(seconds: float) -> float:
    """How long a second of processor time takes here."""
    began_s, used_s = time.monotonic(), time.thread_time()
    until_s = began_s + seconds
    while time.monotonic() < until_s:
        pass
    return max(1.0, (time.monotonic() - began_s) / max(1e-6, time.thread_time() - used_s))
