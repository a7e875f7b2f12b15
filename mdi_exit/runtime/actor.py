"""What the control plane can ask of a worker's process. Ray makes an actor of `WorkerProcess`; nothing here knows Ray.

The process comes up empty, also when it is restarted after a crash, and is then given a life: an experiment, its name
in it, an epoch. `watch` is asked once per life and answers when that life is over, so that whoever asks hears of the
end at once, and of a crash by the call failing.
"""

from __future__ import annotations

import concurrent.futures as futures
import copy
import gc
import operator
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from mdi_exit.compute import SegmentRunner
from mdi_exit.compute.pacing import PacedRunner
from mdi_exit.core.events import AdmissionOpened, ControllerEvent, RoutesChanged
from mdi_exit.core.types import Routes
from mdi_exit.errors import UserError
from mdi_exit.journal import SUFFIX
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.links import Address
from mdi_exit.runtime.node import LifeOver, Node
from mdi_exit.snapshots import NodeSnapshot
from mdi_exit.tally import NodeTally

LEASE_S = 10.0  # a worker that answers nothing for so long is ended, and comes back like one that died
_ANSWER_S = 2 * LEASE_S  # so that its process is gone before anybody hears that its loop hangs
_LINKED_STEP_S = 0.01
_COLLECT_AFTER = 20_000  # objects more, in place of 700

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker listens and can compute."""

    address: Address
    pid: int


@dataclass(frozen=True, slots=True)
class Status:
    """How a worker stands. Its tally so far is there for all but the source: should it be killed, this is what is left
    of it, while without the source the run is over anyway."""

    snapshot: NodeSnapshot
    tally: NodeTally | None


@dataclass(frozen=True, slots=True)
class Ended:
    """A life is over: the controller has finished, or something went wrong, in one line and with its traceback."""

    failure: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Closed:
    """What a worker leaves behind."""

    tally: NodeTally
    bytes_sent: int
    rss_bytes: int
    processor_s: float  # of all threads, since admission opened or this life began
    computing_s: tuple[float, ...]  # of it, in segments 1..K
    pace_missed: float | None  # share of the computations
    notes: tuple[str, ...]
    journals: Mapping[str, bytes]  # by file name, when they have to travel
    ended: Ended = Ended()  # how; what went wrong after the last outcome, or in closing, is told here alone


class WorkerProcess:
    """One worker's process. `watch` needs a thread of its own."""

    def __init__(self, owns_process: bool = False) -> None:
        """`owns_process`: nothing else goes on in it."""
        self._owns_process = owns_process
        self._node: Node | None = None
        self._runner: SegmentRunner | None = None
        self._used_s = 0.0  # processor time of this process when it began to count
        self._computing_s: tuple[float, ...] = ()  # of it, that of segments 1..K

    def open(self, life: Life, host: str) -> Opened:
        """Begin a life: load the slice, listen on `host`. Raises UserError, and no subclass: it has to travel."""
        if self._node is not None:  # given up for dead, but this process lived
            self._node.stop()
        try:
            self._runner = life.runner()
            self._node = Node(life, self._runner, host)
        except UserError as error:
            raise UserError(str(error)) from None
        self._count_from_now(self._node)
        opened = Opened(self._node.links.address, os.getpid())  # before the links are the loop's thread's
        if self._owns_process:
            collect_seldom()
        self._node.start()
        return opened

    def address(self) -> str:
        """Return the address by which the cluster knows this machine."""
        import ray.util

        utilities: Any = ray.util  # without annotations
        return str(utilities.get_node_ip_address())

    def connect(self, addresses: Mapping[str, Address], routes: Routes) -> None:
        """Know these neighbours and these routes from now on."""
        node = self._living()

        def change() -> None:
            node.links.set_neighbours(addresses)
            node.feed("worker", RoutesChanged(routes))

        self._ask(change)

    def linked(self, within_s: float) -> list[str]:
        """Wait until every neighbour can be reached; return those that cannot."""
        links, until_s = self._living().links, time.monotonic() + within_s
        while (missing := self._ask(lambda: links.missing)) and time.monotonic() < until_s:
            time.sleep(_LINKED_STEP_S)
        return missing

    def begin(self) -> None:
        """Admission opens: from now on it counts how busy the worker is."""
        node = self._living()
        self._ask(lambda: node.tally.begin(node.now()))
        self._count_from_now(node)

    def tell(self, event: ControllerEvent) -> None:
        """Tell the controller, at the source."""
        node = self._living()
        if isinstance(event, AdmissionOpened):
            self._count_from_now(node)
        self._ask(lambda: node.feed("controller", event))

    def status(self) -> Status:
        """Return how the worker stands."""
        node = self._living()

        def look() -> Status:
            node.tally.close(node.now())
            return Status(node.tally.snapshot(node.now()), None if node.life.is_source else copy.deepcopy(node.tally))

        return self._ask(look)

    def watch(self) -> Ended:
        """Return when this life is over."""
        node = self._living()
        node.ended.wait()
        return _how_ended(node)

    def close(self) -> Closed:
        """End this life."""
        node = self._living()
        node.stop()
        runner = self._runner
        missed = runner.pace_missed / runner.paced if isinstance(runner, PacedRunner) and runner.paced else None
        refused = node.exchange.refused.items()
        return Closed(
            tally=node.tally,
            bytes_sent=sum(node.exchange.bytes_sent.values()),
            rss_bytes=psutil.Process().memory_info().rss,
            processor_s=time.process_time() - self._used_s,
            computing_s=tuple(map(operator.sub, node.computer.used_s, self._computing_s)),
            pace_missed=missed,
            notes=tuple(
                f"{node.life.name} dropped {n} bad messages of {m}, the last: {why}" for m, (n, why) in refused
            ),
            journals=_carry_off(node.life),
            ended=_how_ended(node),
        )

    def _count_from_now(self, node: Node) -> None:
        self._used_s, self._computing_s = time.process_time(), tuple(node.computer.used_s)

    def _living(self) -> Node:
        assert self._node is not None, "asked of a worker that has not begun"
        return self._node

    def _ask(self, function: Callable[[], Answer]) -> Answer:
        node = self._living()
        try:
            return node.call(function).result(_ANSWER_S)
        except futures.TimeoutError:
            raise LifeOver(f"{node.life.name} did not answer within {_ANSWER_S:.0f} s") from None


def collect_seldom() -> None:
    """Look for garbage that holds itself less often than Python does, in a process that is all one worker's.

    What is there now, Ray and all modules, stays; what comes is tasks and numbers, which hold no cycles. Looking
    through them took 12 to 25 % of what handling a datum takes beside its network.
    """
    gc.unfreeze()
    gc.collect()  # of an earlier life, which was frozen
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 10, 10)


def _how_ended(node: Node) -> Ended:
    if node.failure is None:
        return Ended()
    if isinstance(node.failure, UserError):
        return Ended(f"{node.life.name}: {node.failure}")
    line = "".join(traceback.format_exception_only(node.failure)).strip().splitlines()[-1]
    return Ended(f"{node.life.name}: {line}", "".join(traceback.format_exception(node.failure)))


def _carry_off(life: Life) -> dict[str, bytes]:
    """The journals of all lives of this worker on this machine, when its folder is not the launcher's."""
    if life.journals is None or not life.journals_travel:
        return {}
    files = {path.name: path.read_bytes() for path in sorted(life.journals.glob(f"{life.name}-*{SUFFIX}"))}
    shutil.rmtree(life.journals, ignore_errors=True)
    return files
