"""What handing a task to a neighbour costs in processor time: two real nodes, each in a process, without Ray, and a
network that takes time but no processor.

The source runs segment 1, its neighbour segment 2, where everybody leaves; between them 16 KB cross the link. All that
both processes spend is counted, also on admission, dispatch to the compute thread, results and gossip, by the tasks
that crossed. So it is the cost of a hop and of everything around it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from bare import experiment_of
from numpy.typing import NDArray
from PIL import Image

from mdi_exit import assembly, compute
from mdi_exit.compute.base import FeatureShapes
from mdi_exit.core.events import AdmissionClosed, AdmissionOpened, RoutesChanged
from mdi_exit.core.types import ExitReading
from mdi_exit.runtime.actor import collect_seldom
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.node import Node

_FEATURE = (4, 32, 32)  # floats: 16 KB
_SEGMENT_S = 0.0004  # for one task, as a fifth of MobileNetV2 takes on one core
_IMAGES = 200
_WITHIN_S = 90.0
_DIED = "the process of a node ended before it answered; what it printed above says why"


class IdleNetwork:
    """Sleeps as long as a network would compute; everybody leaves at exit 2."""

    def __init__(self, hosted: Sequence[int], features: FeatureShapes) -> None:
        self.hosted, self.exits, self._features = tuple(hosted), features.exits, features
        self._feature = np.random.default_rng(0).standard_normal((1024, *_FEATURE), np.float32)

    def feature_shape(self, k: int) -> tuple[int, ...]:
        return self._features.shape(k)

    def feature_bytes(self, k: int) -> int:
        return self._features.size_bytes(k)

    def run(self, k: int, batch: NDArray[Any]) -> tuple[list[ExitReading], NDArray[np.float32] | None]:
        time.sleep(_SEGMENT_S * len(batch))
        return [ExitReading(float(k > 1), 0, 0.5)] * len(batch), self._feature[: len(batch)]


def cpu_us_per_hop(group: int, encrypt: bool, seed: int, seconds: float) -> float:
    """Microseconds of processor time of both ends per task that crossed, steady, at full load."""
    with tempfile.TemporaryDirectory() as folder:
        # Few, so that all are decoded before anything is counted, but as many as are in flight at once: else their
        # order would be drawn anew for every few of them, which no data set asks for.
        for number in range(_IMAGES):
            path = Path(folder, "cat", f"{number}.png")
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (number, 0, 0)).save(path)
        return _measure(group, encrypt, seed, seconds, folder)


def _measure(group: int, encrypt: bool, seed: int, seconds: float, images: str) -> float:
    experiment = experiment_of(
        "2-node",
        seed,
        dataset=images,
        placement={"n1": [1], "n2": "2-5"},
        **{"worker.group_max": group, "worker.link_window": 4, "runtime.encrypt": encrypt},
        **{"admission.queue_target": 4 * group, "duration_s": 10 * _WITHIN_S},
    )
    net = compute.prepare(experiment.model)
    shapes = (net.features.shape(0), _FEATURE, *net.features.shapes[2:])
    net = dataclasses.replace(net, features=FeatureShapes(shapes))
    context = multiprocessing.get_context("spawn")
    names = experiment.topology.workers
    ends, processes = dict[str, Connection](), []
    for name in names:
        ours, theirs = context.Pipe()
        life = Life(experiment, net, name, 0, time.time())
        process = context.Process(target=_serve, args=(life, theirs), daemon=True)
        process.start()
        theirs.close()
        ends[name] = ours
        processes.append(process)
    try:
        addresses = {name: _hear(ends[name]) for name in names}
        routes = assembly.routes_for(experiment, list(names), 1)
        for name in names:
            _tell(ends[name], ({m: addresses[m] for m in names if m != name}, routes[name]))
        for name in names:
            _hear(ends[name])
        _tell(ends[experiment.topology.source], "open")
        time.sleep(seconds / 4)
        before = _ask(ends, names)
        time.sleep(seconds)
        after = _ask(ends, names)
    finally:
        for end in ends.values():
            with contextlib.suppress(OSError):  # it has ended already
                end.send(None)
        for process in processes:
            process.join(_WITHIN_S)
    if not (tasks := after[0][1] - before[0][1]):
        raise RuntimeError("no task crossed the link")
    return 1e6 * sum(late[0] - early[0] for early, late in zip(before, after, strict=True)) / tasks


def _ask(ends: dict[str, Connection], names: Sequence[str]) -> list[tuple[float, int]]:
    """Processor time so far and tasks handed over so far, of each."""
    for name in names:
        _tell(ends[name], "count")
    return [_hear(ends[name]) for name in names]


def _tell(end: Connection, said: Any) -> None:
    try:
        end.send(said)
    except OSError as error:
        raise RuntimeError(_DIED) from error


def _hear(end: Connection) -> Any:
    """What a node says next. Raises RuntimeError when it says nothing, or has died."""
    if not end.poll(_WITHIN_S):
        raise RuntimeError("a node did not answer")
    try:
        return end.recv()
    except (EOFError, OSError) as error:
        raise RuntimeError(_DIED) from error


def _serve(life: Life, connection: Connection) -> None:
    """One node; in a process of its own."""
    node = Node(life, IdleNetwork(life.experiment.hosted[life.name], life.prepared.features), "127.0.0.1")
    connection.send(node.links.address)
    collect_seldom()  # as a worker's process does
    node.start()
    if (told := connection.recv()) is None:
        return
    addresses, routes = told

    def connect() -> None:
        node.links.set_neighbours(addresses)
        node.feed("worker", RoutesChanged(routes))

    node.call(connect).result(_WITHIN_S)
    while node.call(lambda: node.links.missing).result(_WITHIN_S):
        time.sleep(0.01)
    connection.send(None)
    while (said := connection.recv()) is not None:
        if said == "open":
            node.call(lambda: node.feed("controller", AdmissionOpened())).result(_WITHIN_S)
        else:
            handed_over = sum(link.tasks for link in node.tally.worker.links.values())
            connection.send((time.process_time(), handed_over))
    if life.is_source:
        node.call(lambda: node.feed("controller", AdmissionClosed())).result(_WITHIN_S)
    node.stop()
    if node.failure is not None:
        raise node.failure
