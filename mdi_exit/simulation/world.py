"""A world in virtual time: a heap of (time, sequence, node, epoch, event) around the very cores that devices run.

Effects are performed by scheduling the events that end them. A crash raises the node's epoch, so that whatever was on
its way to the old one is dropped on arrival. Ties are broken by the sequence number and every component draws from a
generator of its own, so a seed gives one history.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.controller import ControllerCore
from mdi_exit.core.types import NO_PRICES, ExitReading, Prices, Task
from mdi_exit.core.worker import WorkerCore
from mdi_exit.shaping import OwnMedium, Shaper
from mdi_exit.simulation.frames import FrameSizes, header_bytes
from mdi_exit.topology import Topology

CONTROLLER: Final = "(controller)"  # the node that it is; no worker may be called so


@dataclass(frozen=True, slots=True)
class Faults:
    """What a network may do to frames beside what its links' shapes say; TCP would hide it from a real worker."""

    loss: float = 0.0  # probability that a frame vanishes for good
    duplication: float = 0.0  # probability that it arrives twice
    jitter_s: float = 0.0  # a further delay, uniform up to this; frames may overtake each other


NO_FAULTS = Faults()


def shapers(topology: Topology, seed: int) -> dict[tuple[str, str], Shaper]:
    """Both directions of every link (answers flow against a one-way link); those on one radio channel share it."""
    media = {channel: OwnMedium() for channel in topology.channels()}
    shapes = {(link.a, link.b): link.shape for link in topology.links}
    shapes.update({(link.b, link.a): link.shape for link in topology.links if not link.one_way})
    for link in topology.links:  # against a one-way link, unless another one leads that way
        shapes.setdefault((link.b, link.a), link.shape)
    return {
        (a, b): Shaper(shape, random.Random(f"{seed}/link {a} {b}/0"), media.get(shape.channel or ""))
        for (a, b), shape in shapes.items()
    }


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
    prices: Callable[[fx.SolvePrices], Prices] = lambda asked: NO_PRICES


def _see_nothing(now: float, node: str, event: ev.Event, effects: list[Any]) -> None:
    return None


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
        observe: Callable[[float, str, ev.Event, list[Any]], None] = _see_nothing,
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
        self._heap: list[tuple[float, int, str, int, Any]] = []  # the last is a _Scheduled
        self._sequence = 0
        self._timers: dict[tuple[str, str], int] = {}  # (node, name) -> sequence of the valid one
        self._fired: dict[str, ev.TimerFired] = {}  # by name: they are all alike
        self._sent_s: dict[tuple[str, str, int], float] = {}  # hand-overs not yet acknowledged
        self._perform: dict[type, Callable[[str, Any], None]] = {
            fx.RunSegment: self._compute,
            fx.SendTasks: self._send_tasks,
            fx.Acknowledge: self._acknowledge,
            fx.SendResults: self._send_results,
            fx.SendReport: self._send_report,
            fx.SendThresholds: self._send_thresholds,
            fx.SendPrices: self._send_prices,
            fx.SendMeasurements: self._send_measurements,
            fx.DeliverMeasurements: self._deliver_measurements,
            fx.SetTimer: self._set_timer,
            fx.DeliverResults: self._deliver_results,
            fx.Admit: self._admit,
            fx.SetThresholds: self._set_thresholds,
            fx.SolvePrices: self._solve_prices,
            fx.SetPrices: self._set_prices,
            fx.Finish: self._finish,
        }  # the others are for whoever observes

    # ---- running

    def schedule(self, delay_s: float, node: str, event: _Scheduled) -> int:
        """Deliver `event` to a worker or CONTROLLER after `delay_s`; return its sequence number."""
        return self._at(self.now + delay_s, node, event)

    def _at(self, time_s: float, node: str, event: _Scheduled) -> int:
        self._sequence += 1
        heapq.heappush(self._heap, (time_s, self._sequence, node, self.epochs[node], event))
        return self._sequence

    def run(self, until_s: float, stop_when_finished: bool = False) -> None:
        """Handle everything scheduled up to `until_s`, and stand there; or where the controller finished."""
        heap, epochs, timers, pop = self._heap, self.epochs, self._timers, heapq.heappop
        while heap and heap[0][0] <= until_s and not (stop_when_finished and self.finished):
            self.now, sequence, node, epoch, event = pop(heap)
            if epoch != epochs[node]:
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

    def crash(self, node: str) -> None:
        """Take a worker away with all it holds."""
        self.epochs[node] += 1
        del self.workers[node]
        self._sent_s = {key: sent_s for key, sent_s in self._sent_s.items() if key[0] != node}

    def restart(self, node: str, core: WorkerCore) -> None:
        """Bring a worker back with a fresh core; it still needs its RoutesChanged."""
        self.workers[node] = core

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
        self._observe(self.now, node, event, effects)
        perform = self._perform
        for effect in effects:
            if (do := perform.get(type(effect))) is not None:
                do(node, effect)
        if node == self.source and self.controller.watches(self.workers[node]):
            self._handle(CONTROLLER, self.workers[node].observe())

    # ---- effects

    def _compute(self, node: str, effect: fx.RunSegment) -> None:
        k, tasks, network = effect.k, effect.tasks, self._network
        duration_s = network.compute_s(node, k, len(tasks))
        readings = tuple([network.reading(task.data_id, k) for task in tasks])
        self._at(self.now + duration_s, node, ev.SegmentDone(k, tasks, readings, network.payload_bytes[k], duration_s))

    def _send_tasks(self, node: str, effect: fx.SendTasks) -> None:
        to, tasks, transfer_id = effect.to, effect.tasks, effect.transfer_id
        size_bytes = self._sizes.tasks(len(tasks))
        for task in tasks:
            size_bytes += task.payload_bytes
        arrives_s = self._transmit(node, to, size_bytes, ev.TasksArrived(tasks, node, transfer_id))
        self._sent_s[node, to, transfer_id] = self.now
        patience_s = self.links[node, to].shape.answer_within_s(size_bytes, arrives_s)
        self._at(arrives_s + patience_s, node, _TransferTimedOut(to, transfer_id))

    def _acknowledge(self, node: str, effect: fx.Acknowledge) -> None:
        self._transmit(node, effect.to, self._sizes.told(effect), _AcknowledgementArrived(node, effect))

    def _send_results(self, node: str, effect: fx.SendResults) -> None:
        self._transmit(node, effect.to, self._sizes.results(len(effect.results)), ev.ResultsArrived(effect.results))

    def _send_report(self, node: str, effect: fx.SendReport) -> None:
        self._transmit(node, effect.to, self._sizes.told(effect), ev.ReportReceived(effect.report))

    def _send_thresholds(self, node: str, effect: fx.SendThresholds) -> None:
        news = ev.ThresholdsReceived(effect.version, effect.thresholds, node)
        self._transmit(node, effect.to, header_bytes(effect), news)

    def _send_prices(self, node: str, effect: fx.SendPrices) -> None:
        self._transmit(node, effect.to, header_bytes(effect), ev.PricesReceived(effect.prices, node))

    def _send_measurements(self, node: str, effect: fx.SendMeasurements) -> None:
        self._transmit(node, effect.to, header_bytes(effect), ev.MeasurementsArrived(effect.measurements))

    def _deliver_measurements(self, node: str, effect: fx.DeliverMeasurements) -> None:
        self._at(self.now, CONTROLLER, ev.MeasurementsArrived(effect.measurements))

    def _solve_prices(self, node: str, effect: fx.SolvePrices) -> None:
        self._at(self.now, CONTROLLER, ev.PricesSolved(self._network.prices(effect)))

    def _set_prices(self, node: str, effect: fx.SetPrices) -> None:
        self._at(self.now, self.source, ev.PricesReceived(effect.prices, None))

    def _set_timer(self, node: str, effect: fx.SetTimer) -> None:
        name = effect.name
        if (event := self._fired.get(name)) is None:
            event = self._fired[name] = ev.TimerFired(name)
        self._timers[node, name] = self._at(self.now + effect.delay_s, node, event)

    def _deliver_results(self, node: str, effect: fx.DeliverResults) -> None:
        self._at(self.now, CONTROLLER, ev.ResultsArrived(effect.results))

    def _admit(self, node: str, effect: fx.Admit) -> None:
        task = Task(effect.data_id, effect.attempt, 1, self._network.payload_bytes[0])
        self._at(self.now, self.source, ev.TasksArrived((task,), None, 0))

    def _set_thresholds(self, node: str, effect: fx.SetThresholds) -> None:
        self._at(self.now, self.source, ev.ThresholdsReceived(effect.version, effect.thresholds, None))

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
            self._at(arrives_s, to, event)
            return arrives_s
        copies = 0 if self._rng.random() < faults.loss else 1 + (self._rng.random() < faults.duplication)
        for _ in range(copies):
            self._at(arrives_s + self._rng.random() * faults.jitter_s, to, event)
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
