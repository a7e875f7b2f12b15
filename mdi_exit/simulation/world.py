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
from itertools import count
from typing import cast

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.controller import ControllerCore
from mdi_exit.core.types import ExitReading, Task, TaskKey
from mdi_exit.core.worker import WorkerCore
from mdi_exit.shaping import OwnMedium, Shaper
from mdi_exit.topology import Topology

_HEADER_BYTES = 64  # a frame without a payload: an acknowledgement, a report, a result


@dataclass(frozen=True, slots=True)
class Faults:
    """What a network may do to frames beside what its links' shapes say; TCP would hide it from a real worker."""

    loss: float = 0.0  # probability that a frame vanishes for good
    duplication: float = 0.0  # probability that it arrives twice
    jitter_s: float = 0.0  # a further delay, uniform up to this; frames may overtake each other


def shapers(topology: Topology, seed: int) -> dict[tuple[str, str], Shaper]:
    """Both directions of every link (answers flow against a one-way link); those on one radio channel share it."""
    media = {channel: OwnMedium() for channel in topology.channels()}
    directions = {}
    for link in topology.links:
        for way in ((link.a, link.b), (link.b, link.a)):
            carrier = topology.carrier(*way)
            assert carrier is not None
            medium = media.get(carrier.shape.channel) if carrier.shape.channel else None
            directions[way] = Shaper(carrier.shape, random.Random(f"{seed}/link {way[0]} {way[1]}/0"), medium)
    return directions


@dataclass(frozen=True, slots=True)
class _TransferTimedOut:
    neighbour: str
    transfer_id: int


@dataclass(frozen=True, slots=True)
class _AcknowledgementArrived:
    neighbour: str
    answer: fx.Acknowledge


_Scheduled = ev.Event | _TransferTimedOut | _AcknowledgementArrived
# What the world is asked about the network: one reading per (data_id, k), and the bytes of a_k, k = 0..K.
Oracle = Callable[[int, int], ExitReading]


class World:
    """Worker cores on nodes joined by links, a controller at the source, and nothing that takes real time."""

    def __init__(
        self,
        workers: Mapping[str, WorkerCore],
        source: str,
        controller: ControllerCore,
        links: Mapping[tuple[str, str], Shaper],
        compute_s: Callable[[str, int], float],
        oracle: Oracle,
        payload_bytes: tuple[int, ...],
        rng: random.Random,
        observe: Callable[[float, str, ev.Event, list[fx.Effect]], None] = lambda *step: None,
    ) -> None:
        self.now = 0.0
        self.workers, self.source, self.controller = dict(workers), source, controller
        self.links = dict(links)
        self.faults = Faults()
        self.epochs = dict.fromkeys(workers, 0)
        self.finished = False
        self._compute_s, self._oracle, self._payload_bytes, self._rng = compute_s, oracle, payload_bytes, rng
        self._observe = observe
        self._heap: list[tuple[float, int, str, int, _Scheduled]] = []
        self._sequence = count()
        self._timers: dict[tuple[str, str], int] = {}  # (node or "controller", name) -> sequence of the valid one
        self._sent_s: dict[tuple[str, str, int], float] = {}  # hand-overs not yet acknowledged
        # Which tensors a real driver would hold: needing one that was discarded is a bug of the core's.
        self._payloads: dict[str, set[TaskKey]] = {name: set() for name in workers}

    # ---- running

    def schedule(self, delay_s: float, node: str, event: _Scheduled) -> int:
        """Deliver `event` to a node (or "controller") after `delay_s`; return its sequence number."""
        sequence = next(self._sequence)
        entry = (self.now + delay_s, sequence, node, self.epochs.get(node, 0), event)
        heapq.heappush(self._heap, entry)
        return sequence

    def run(self, until_s: float) -> None:
        """Handle everything scheduled up to `until_s`, and stand there."""
        while self._heap and self._heap[0][0] <= until_s:
            self.step()
        self.now = max(self.now, until_s)

    def step(self) -> None:
        """Handle the next scheduled event."""
        self.now, sequence, node, epoch, event = heapq.heappop(self._heap)
        if epoch != self.epochs.get(node, 0):
            return
        if isinstance(event, ev.TimerFired) and self._timers.get((node, event.name)) != sequence:
            return
        translated = self._translate(node, event)
        if translated is not None:
            self._handle(node, translated)

    def crash(self, node: str) -> None:
        """Take a worker away with all it holds."""
        self.epochs[node] += 1
        self._payloads[node].clear()
        del self.workers[node]

    def restart(self, node: str, core: WorkerCore) -> None:
        """Bring a worker back with a fresh core; it still needs its RoutesChanged."""
        self.workers[node] = core

    def _handle(self, node: str, event: ev.Event) -> None:
        effects: list[fx.Effect]
        if node == "controller":
            if isinstance(event, ev.TimerFired):
                self._handle(node, self.workers[self.source].observe())
            effects = list(self.controller.handle(cast(ev.ControllerEvent, event), self.now))
        elif node in self.workers:
            self._keep_payloads(node, event)
            effects = list(self.workers[node].handle(cast(ev.WorkerEvent, event), self.now))
        else:
            return
        self._observe(self.now, node, event, effects)
        for effect in effects:
            self._perform(node, effect)

    def _keep_payloads(self, node: str, event: ev.Event) -> None:
        held = self._payloads[node]
        if isinstance(event, ev.TasksArrived):
            held.update(task.key for task in event.tasks)
        elif isinstance(event, ev.SegmentDone):
            held.difference_update(task.key for task in event.tasks)
            if event.k < self.workers[node].exits:
                held.update((task.data_id, task.attempt, task.k + 1) for task in event.tasks)

    # ---- effects

    def _perform(self, node: str, effect: fx.Effect) -> None:
        if isinstance(effect, fx.RunSegment | fx.SendTasks):
            assert all(task.key in self._payloads[node] for task in effect.tasks), f"{node} discarded what it needs"
        if isinstance(effect, fx.RunSegment):
            self._compute(node, effect)
        elif isinstance(effect, fx.SendTasks):
            self._send_tasks(node, effect)
        elif isinstance(effect, fx.DiscardPayloads):
            self._payloads[node].difference_update(effect.keys)
        elif isinstance(effect, fx.Acknowledge):
            self._transmit(node, effect.to, _HEADER_BYTES, _AcknowledgementArrived(node, effect))
        elif isinstance(effect, fx.SendResults):
            self._transmit(node, effect.to, _HEADER_BYTES, ev.ResultsArrived(effect.results))
        elif isinstance(effect, fx.SendReport):
            self._transmit(node, effect.to, _HEADER_BYTES, ev.ReportReceived(effect.report))
        elif isinstance(effect, fx.SendThresholds):
            news = ev.ThresholdsReceived(effect.version, effect.thresholds, node)
            self._transmit(node, effect.to, _HEADER_BYTES, news)
        elif isinstance(effect, fx.SetTimer):
            fired = self.schedule(effect.delay_s, node, ev.TimerFired(effect.name))
            self._timers[node, effect.name] = fired
        elif isinstance(effect, fx.DeliverResults):
            self.schedule(0.0, "controller", ev.ResultsArrived(effect.results))
        elif isinstance(effect, fx.Admit):
            task = Task(effect.data_id, effect.attempt, 1, self._payload_bytes[0])
            self.schedule(0.0, self.source, ev.TasksArrived((task,), None, 0))
        elif isinstance(effect, fx.SetThresholds):
            news = ev.ThresholdsReceived(effect.version, effect.thresholds, None)
            self.schedule(0.0, self.source, news)
        elif isinstance(effect, fx.Finish):
            self.finished = True

    def _compute(self, node: str, effect: fx.RunSegment) -> None:
        duration_s = self._compute_s(node, effect.k) * len(effect.tasks)
        readings = tuple(self._oracle(task.data_id, effect.k) for task in effect.tasks)
        done = ev.SegmentDone(effect.k, effect.tasks, readings, self._payload_bytes[effect.k], duration_s)
        self.schedule(duration_s, node, done)

    def _send_tasks(self, node: str, effect: fx.SendTasks) -> None:
        size_bytes = _HEADER_BYTES + sum(task.payload_bytes for task in effect.tasks)
        arrives_s = self._transmit(node, effect.to, size_bytes, ev.TasksArrived(effect.tasks, node, effect.transfer_id))
        self._sent_s[node, effect.to, effect.transfer_id] = self.now
        patience_s = self.links[node, effect.to].shape.answer_within_s(size_bytes, arrives_s)
        self.schedule(arrives_s - self.now + patience_s, node, _TransferTimedOut(effect.to, effect.transfer_id))

    def _transmit(self, node: str, to: str, size_bytes: int, event: _Scheduled) -> float:
        """Send a frame; return when it is with the neighbour, as far as the sender knows."""
        arrives_s = self.links[node, to].release_s(size_bytes, self.now)
        if arrives_s is None:
            return self.now
        faults, copies = self.faults, 1
        if faults.loss or faults.duplication:
            copies = 0 if self._rng.random() < faults.loss else 1 + (self._rng.random() < faults.duplication)
        for _ in range(copies):
            late_s = self._rng.random() * faults.jitter_s if faults.jitter_s else 0.0
            self.schedule(arrives_s - self.now + late_s, to, event)
        return arrives_s

    def _translate(self, node: str, event: _Scheduled) -> ev.Event | None:
        """Turn what only a driver knows of into the event the core waits for, or None when it is stale."""
        if isinstance(event, _TransferTimedOut):
            if self._sent_s.pop((node, event.neighbour, event.transfer_id), None) is None:
                return None
            return ev.TasksUndelivered(event.neighbour, event.transfer_id, "no acknowledgement in time")
        if isinstance(event, _AcknowledgementArrived):
            answer = event.answer
            sent_s = self._sent_s.pop((node, event.neighbour, answer.transfer_id), None)
            if sent_s is None:
                return None
            if not answer.accepted:
                return ev.TasksRefused(event.neighbour, answer.transfer_id, answer.report)
            duration_s = self.now - sent_s
            return ev.TasksDelivered(event.neighbour, answer.transfer_id, duration_s, answer.report)
        return event
