"""A world in virtual time: a heap of (time, sequence, node, epoch, event) around the very cores that devices run.

Effects are performed by scheduling the events that end them. A crash raises the node's epoch, so that whatever was on
its way to the old one is dropped on arrival. Ties are broken by the sequence number and every component draws from a
generator of its own, so a seed gives one history.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.controller import ControllerCore
from mdi_exit.core.types import ExitReading, Prices, Task
from mdi_exit.core.worker import WorkerCore
from mdi_exit.shaping import Shaper
from mdi_exit.simulation.frames import VERDICT_BYTES, FrameSizes, header_bytes
from mdi_exit.simulation.links import NO_FAULTS

CONTROLLER: Final = "(controller)"  # the node that it is; no worker may be called so


@dataclass(frozen=True, slots=True)
class _TransferTimedOut:
    neighbour: str
    transfer_id: int


@dataclass(frozen=True, slots=True)
class _AcknowledgementArrived:
    neighbour: str
    answer: fx.Acknowledge


_Scheduled = ev.Event | _TransferTimedOut | _AcknowledgementArrived


@dataclass(frozen=True, slots=True)
class Network:
    """The neural network, as far as a world must know it."""

    reading: Callable[[int, int], ExitReading]  # of (data_id, k), the same whenever it is asked
    compute_s: Callable[[str, int, int], float]  # seconds that (worker, k, tasks) take; drawn anew each time
    payload_bytes: tuple[int, ...]  # of a_k, k = 0..K
    loop_s: Callable[[str, ev.Event, list[Any]], float]  # seconds that a worker's step (event, effects) takes of it
    prices: Callable[[fx.SolvePrices], Prices]


class World:
    """Worker cores on nodes joined by links, a controller at the source, and nothing that takes real time."""

    def __init__(
        self,
        workers: Mapping[str, WorkerCore],
        source: str,
        controller: ControllerCore,
        links: Mapping[tuple[str, str], Shaper],
        network: Network,
        rng: random.Random,
        observe: Callable[[float, str, ev.Event, list[Any]], None],
    ) -> None:
        """`observe` sees every step: (now, worker or CONTROLLER, event, effects), before the effects are done.

        `rng` draws what `faults` do.
        """
        self.now = 0.0
        self.workers, self.source, self.controller = dict(workers), source, controller
        self.links = dict(links)
        self.faults = NO_FAULTS
        self.epochs = dict.fromkeys([*workers, CONTROLLER], 0)
        self.bytes_sent = dict.fromkeys(workers, 0)  # headers and payloads
        self.handled = 0  # events
        self.finished = False
        self._network, self._rng, self._observe = network, rng, observe
        self._sizes = FrameSizes(max(workers, key=len))
        # (time, sequence, node, epoch, event, who sent it); the event is a _Scheduled
        self._heap: list[tuple[float, int, str, int, Any, str]] = []
        self._sequence = 0
        self._timers: dict[tuple[str, str], int] = {}  # (node, name) -> sequence of the valid one
        self._fired: dict[str, ev.TimerFired] = {}  # by name: they are all alike
        self._sent_s: dict[tuple[str, str, int], float] = {}  # hand-overs not yet acknowledged
        # Until when a worker is busy with what its steps take, and what they have taken since its computation began, or
        # since the last one ended.
        self._busy_s, self._taken_s, self._beside_s = dict[str, float](), dict[str, float](), dict[str, float]()
        self._admitted: list[Task] = []  # in the present step of the controller
        self._perform: dict[type, Callable[[str, Any], object]] = {
            fx.RunSegment: self._compute,
            fx.SendTasks: self._send_tasks,
            fx.SendResults: self._send_results,
            fx.Acknowledge: lambda n, e: self._tell(n, e, _AcknowledgementArrived(n, e), self._sizes.told(e)),
            fx.SendReport: lambda n, e: self._tell(n, e, ev.ReportReceived(e.report), self._sizes.told(e)),
            fx.SendThresholds: lambda n, e: self._tell(n, e, ev.ThresholdsReceived(e.version, e.thresholds, n)),
            fx.SendPrices: lambda n, e: self._tell(n, e, ev.PricesReceived(e.prices, n)),
            fx.SendMeasurements: lambda n, e: self._tell(n, e, ev.MeasurementsArrived(e.measurements)),
            fx.SetTimer: self._set_timer,
            fx.Admit: self._admit,
            fx.SetThresholds: lambda n, e: self._at(
                self.now, source, ev.ThresholdsReceived(e.version, e.thresholds, None)
            ),
            fx.SetPrices: lambda n, e: self._at(self.now, source, ev.PricesReceived(e.prices, None)),
            fx.DeliverResults: lambda n, e: self._at(self.now, CONTROLLER, ev.ResultsArrived(e.results)),
            fx.DeliverMeasurements: lambda n, e: self._at(self.now, CONTROLLER, ev.MeasurementsArrived(e.measurements)),
            fx.SolvePrices: lambda n, e: self._at(self.now, CONTROLLER, ev.PricesSolved(network.prices(e))),
            fx.Finish: self._finish,
        }  # the others are for whoever observes

    # ---- running

    def schedule(self, delay_s: float, node: str, event: _Scheduled) -> int:
        """Deliver `event` to a worker or CONTROLLER after `delay_s`; return its sequence number."""
        return self._at(self.now + delay_s, node, event)

    def _at(self, time_s: float, node: str, event: _Scheduled, sender: str = "") -> int:
        self._sequence += 1
        heapq.heappush(self._heap, (time_s, self._sequence, node, self.epochs[node], event, sender))
        return self._sequence

    def run(self, until_s: float, stop_when_finished: bool = False) -> None:
        """Handle everything scheduled up to `until_s`, and stand there; or where the controller finished."""
        heap, epochs, timers, pop = self._heap, self.epochs, self._timers, heapq.heappop
        while heap and heap[0][0] <= until_s and not (stop_when_finished and self.finished):
            self.now, sequence, node, epoch, event, sender = pop(heap)
            if epoch != epochs[node] or (self._busy_s and (event := self._in_turn(node, event, sender)) is None):
                continue
            kind = type(event)
            if kind is ev.TimerFired:
                if timers[node, event.name] == sequence:
                    self._handle(node, event)
            elif kind is not _TransferTimedOut and kind is not _AcknowledgementArrived:
                self._handle(node, event)
            elif (translated := self._translate(node, event)) is not None:
                self._handle(node, translated)
        if not (stop_when_finished and self.finished):
            self.now = max(self.now, until_s)

    def _in_turn(self, node: str, event: Any, sender: str) -> Any:
        """Put off what a link brings, or a computation's end, until a worker has time for it: None, or the event.

        One server: what its steps take goes before its computing, which ends as much later.
        """
        late_s = 0.0
        if type(event) is ev.SegmentDone and (beside_s := self._beside_s.pop(node, 0.0)):
            late_s, event = self._taken_s.pop(node, 0.0), replace(event, beside_s=event.beside_s + beside_s)
        free_s = max(self.now + late_s, self._busy_s.get(node, 0.0))
        if free_s > self.now and (sender or type(event) in (ev.SegmentDone, _TransferTimedOut)):
            self._at(free_s, node, event, sender)
            return None
        return event

    def expects_tasks(self, node: str) -> bool:
        """Whether a worker holds anything, or tasks are on their way to it."""
        coming = (entry[2] == node and isinstance(entry[4], ev.TasksArrived) for entry in self._heap)
        return not self.workers[node].idle or any(coming)

    def crash(self, node: str) -> None:
        """Take a worker away with all it holds, and with what it has sent and is not there yet.

        As a process does that dies: what a shaped link holds back is in its memory.
        """
        self._heap[:] = [entry for entry in self._heap if entry[-1] != node]
        heapq.heapify(self._heap)
        self.leave(node)

    def leave(self, node: str) -> None:
        """Take a worker away; what it has sent arrives."""
        self.epochs[node] += 1
        del self.workers[node]
        for times_s in (self._busy_s, self._taken_s, self._beside_s):
            times_s.pop(node, None)
        self._sent_s = {key: sent_s for key, sent_s in self._sent_s.items() if key[0] != node}

    def restart(self, node: str, core: WorkerCore, links: Mapping[tuple[str, str], Shaper]) -> None:
        """Bring a worker back with a fresh core and fresh links from it; it still needs its RoutesChanged."""
        self.workers[node] = core
        self.links.update({way: shaper for way, shaper in links.items() if way[0] == node})

    def _handle(self, node: str, event: Any) -> None:
        if (core := self.workers.get(node)) is not None:
            effects: list[Any] = core.handle(event, self.now)
        elif node == CONTROLLER:
            if type(event) is ev.TimerFired:
                self._handle(node, self.workers[self.source].observe())
            effects = self.controller.handle(event, self.now)
        else:
            return
        self.handled += 1
        if taken_s := self._network.loop_s(node, event, effects):
            self._busy_s[node] = max(self.now, self._busy_s.get(node, 0.0)) + taken_s
            self._taken_s[node] = self._taken_s.get(node, 0.0) + taken_s
            self._beside_s[node] = self._beside_s.get(node, 0.0) + taken_s
        self._observe(self.now, node, event, effects)
        perform = self._perform
        for effect in effects:
            if (do := perform.get(type(effect))) is not None:
                do(node, effect)
        if self._admitted:
            self._at(self.now, self.source, ev.TasksArrived(tuple(self._admitted), None, 0))
            self._admitted.clear()
        if node == self.source and self.controller.watches(self.workers[node]):
            self._handle(CONTROLLER, self.workers[node].observe())

    # ---- effects

    def _compute(self, node: str, effect: fx.RunSegment) -> None:
        k, tasks, network = effect.k, effect.tasks, self._network
        duration_s = network.compute_s(node, k, len(tasks))
        readings = tuple([network.reading(task.data_id, k) for task in tasks])
        begins_s, self._taken_s[node] = max(self.now, self._busy_s.get(node, 0.0)), 0.0
        self._at(begins_s + duration_s, node, ev.SegmentDone(k, tasks, readings, network.payload_bytes[k], duration_s))

    def _send_tasks(self, node: str, effect: fx.SendTasks) -> None:
        to, tasks, transfer_id = effect.to, effect.tasks, effect.transfer_id
        size_bytes, shape = self._sizes.tasks(len(tasks)), self.links[node, to].shape
        for task in tasks:
            size_bytes += shape.travels_bytes(task.k, task.payload_bytes) + VERDICT_BYTES * len(task.seen)
        arrives_s = self._transmit(node, to, size_bytes, ev.TasksArrived(tasks, node, transfer_id))
        self._sent_s[node, to, transfer_id] = self.now
        patience_s = shape.answer_within_s(size_bytes, arrives_s)
        self._at(arrives_s + patience_s, node, _TransferTimedOut(to, transfer_id))  # its own: the epoch ends it

    def _send_results(self, node: str, effect: fx.SendResults) -> None:
        verdicts = sum([len(result.seen) for result in effect.results])
        size_bytes = self._sizes.results(len(effect.results)) + VERDICT_BYTES * verdicts
        self._transmit(node, effect.to, size_bytes, ev.ResultsArrived(effect.results))

    def _tell(self, node: str, effect: Any, event: _Scheduled, size_bytes: int = 0) -> None:
        self._transmit(node, effect.to, size_bytes or header_bytes(effect), event)

    def _set_timer(self, node: str, effect: fx.SetTimer) -> None:
        name = effect.name
        if (event := self._fired.get(name)) is None:
            event = self._fired[name] = ev.TimerFired(name)
        self._timers[node, name] = self._at(self.now + effect.delay_s, node, event)

    def _admit(self, node: str, effect: fx.Admit) -> None:
        self._admitted.append(Task(effect.data_id, effect.attempt, 1, self._network.payload_bytes[0], 0, effect.arm))

    def _finish(self, node: str, effect: fx.Finish) -> None:
        self.finished = True

    def _transmit(self, node: str, to: str, size_bytes: int, event: _Scheduled) -> float:
        """Send a frame; return when it is with the neighbour, as far as the sender knows."""
        arrives_s = self.links[node, to].release_s(size_bytes, self.now)
        if arrives_s is None:
            return self.now
        self.bytes_sent[node] += size_bytes
        faults = self.faults
        if faults is NO_FAULTS:
            self._at(arrives_s, to, event, node)
            return arrives_s
        copies = 0 if self._rng.random() < faults.loss else 1 + (self._rng.random() < faults.duplication)
        for _ in range(copies):
            self._at(arrives_s + self._rng.random() * faults.jitter_s, to, event, node)
        return arrives_s

    def _translate(self, node: str, event: _Scheduled) -> ev.Event | None:
        """Turn what only a driver knows of into the event the core waits for, or None when it is stale."""
        if isinstance(event, _TransferTimedOut):
            if self._sent_s.pop((node, event.neighbour, event.transfer_id), None) is None:
                return None
            return ev.TasksUndelivered(event.neighbour, event.transfer_id, "no acknowledgement in time")
        assert isinstance(event, _AcknowledgementArrived)
        answer = event.answer
        sent_s = self._sent_s.pop((node, event.neighbour, answer.transfer_id), None)
        if sent_s is None:  # too late: the core has been told otherwise, but the news in it is news
            return ev.ReportReceived(answer.report)
        if not answer.accepted:
            return ev.TasksRefused(event.neighbour, answer.transfer_id, answer.report)
        return ev.TasksDelivered(event.neighbour, answer.transfer_id, self.now - sent_s, answer.report)
