"""Algorithms 1 and 2 of MDI-Exit: what one worker n does with its tasks.

`WorkerCore.handle(event, now)` is the only way in. An event only *places* things; then two pull steps run,
`_start_sends` (Algorithm 2: offloading) and `_start_compute` (Algorithm 1: processing and early exit). Which side a
task waits on, what runs next and what a free link takes are the offloading policy's to say; whether a datum leaves at
an exit is the exit policy's.

Rules that no policy can break, so that nothing is lost and nobody idles:
- a task whose segment is not hosted here waits to be sent; one that no neighbour could take waits to be computed;
- a worker with nothing to compute takes runnable work back from its output queue (the liveness line of Algorithm 2);
- a task leaves this worker's custody only when it was computed here or a neighbour acknowledged it;
- completions are matched by (data_id, attempt, k); a task that was computed here once is not computed again.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.neighbour import Neighbour, Transfer
from mdi_exit.core.queues import TaskQueue
from mdi_exit.core.types import (
    Arrival,
    ExitReading,
    Limits,
    Result,
    Routes,
    Side,
    Task,
    TaskKey,
    WorkerOptions,
    WorkerReport,
)
from mdi_exit.core.views import ExitPolicy, OffloadingPolicy

_HEARTBEAT_TICKS = 20  # an unchanged report is still sent every so many gossip periods, so that lost news is repaired


class WorkerCore:
    """The decisions of worker n. Also the `WorkerView` and `ExitView` that its policies read."""

    def __init__(
        self,
        name: str,
        exits: int,
        hosted: tuple[int, ...],
        thresholds: tuple[float, ...],
        exit_policy: ExitPolicy,
        offloading_policy: OffloadingPolicy,
        options: WorkerOptions,
        limits: Limits,
        rng: random.Random,
        is_source: bool,
        epoch: int = 0,
    ) -> None:
        assert len(thresholds) == exits - 1 and all(1 <= k <= exits for k in hosted)
        self.name, self.exits, self.hosted, self.is_source = name, exits, tuple(sorted(hosted)), is_source
        self.compute_delay_s = options.compute_delay_s
        self.input, self.output, self.either = TaskQueue(exits), TaskQueue(exits), TaskQueue(exits)
        self._thresholds, self._thresholds_version = thresholds, 0
        self._exit_policy, self._offloading, self._rng = exit_policy, offloading_policy, rng
        self._options, self._limits, self._epoch = options, limits, epoch
        self._neighbours: dict[str, Neighbour] = {}
        self._toward: tuple[tuple[Neighbour, ...], ...] = ((),) * exits
        self._routes = Routes(-1, ((),) * exits, (), (), ())
        self._computing: tuple[Task, ...] = ()
        self._held: dict[TaskKey, Transfer | None] = {}  # every task in custody; its transfer while being sent
        self._finished: dict[TaskKey, None] = {}  # computed here; oldest forgotten first
        self._results: deque[Result] = deque(maxlen=limits.results_max)  # waiting for a way to the source
        self._arrivals = self._transfers = self._reports = self._ticks = 0
        self._measured = False
        self._told: tuple[object, ...] = ()
        self._effects: list[fx.WorkerEffect] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.TasksArrived: self._tasks_arrived,
            ev.SegmentDone: self._segment_done,
            ev.SegmentFailed: self._segment_failed,
            ev.TasksDelivered: self._tasks_delivered,
            ev.TasksRefused: self._tasks_refused,
            ev.TasksUndelivered: self._tasks_undelivered,
            ev.ReportReceived: self._report_received,
            ev.ResultsArrived: self._results_arrived,
            ev.ResultsUndelivered: self._results_undelivered,
            ev.ThresholdsReceived: self._thresholds_received,
            ev.RoutesChanged: self._routes_changed,
            ev.TimerFired: self._timer_fired,
        }

    def handle(self, event: ev.WorkerEvent, now: float) -> list[fx.WorkerEffect]:
        """Take in what happened at `now` (seconds since the run began) and return what to do about it.

        `now` is not used to decide anything yet: time reaches the core as timers and measured durations.
        """
        self._effects = []
        self._handlers[type(event)](event)
        self._start_sends()
        self._start_compute()
        return self._effects

    # ---- what policies and the controller may look at

    @property
    def computing(self) -> int:
        return len(self._computing)

    def threshold(self, k: int) -> float:
        """Return T_e^k, k = 1..K-1."""
        return self._thresholds[k - 1]

    def neighbours_toward(self, k: int) -> tuple[Neighbour, ...]:
        """Return the neighbours to which a task for segment k may be handed."""
        return self._toward[k - 1]

    def observe(self) -> ev.SourceObserved:
        """Return the queue lengths the controller judges by."""
        first = self.input.count(1) + self.output.count(1) + self.either.count(1)
        return ev.SourceObserved(len(self.input) + len(self.either), len(self.output), first)

    @property
    def idle(self) -> bool:
        """Nothing is held: no task waiting, computing or being sent, no result waiting for a route."""
        return not self._held and not self._results

    # ---- events

    def _tasks_arrived(self, event: ev.TasksArrived) -> None:
        fresh = [task for task in event.tasks if task.key not in self._held]
        accepted = event.sender is None or len(self._held) + len(fresh) <= self._limits.waiting_max
        if accepted:
            for task in event.tasks:
                self._take_custody(task, Arrival.RECEIVED if event.sender else Arrival.ADMITTED)
        else:
            self._discard([task.key for task in fresh])
        if event.sender is not None:
            self._effects.append(fx.Acknowledge(event.sender, event.transfer_id, accepted, self._report()))

    def _take_custody(self, task: Task, arrival: Arrival) -> None:
        key = task.key
        if key in self._held:
            # Our own hand-over came round before its acknowledgement did: then it is ours again once that arrives.
            if (transfer := self._held[key]) is not None:
                transfer.returned.append(key)
        elif key in self._finished:
            self._discard([key])
        else:
            self._arrivals += 1
            self._place(self._arrivals, task, arrival)

    def _place(self, order: int, task: Task, arrival: Arrival) -> None:
        self._held[task.key] = None
        if task.k not in self.hosted:
            side = Side.OUTPUT
        elif not self._toward[task.k - 1] or task.hops >= self._limits.hops_max:
            side = Side.INPUT
        else:
            side = self._offloading.place(self, task, arrival, self._rng)
        self._queue(side).push(order, task)

    def _segment_done(self, event: ev.SegmentDone) -> None:
        assert event.tasks == self._computing and len(event.readings) == len(event.tasks)
        self._computing = ()
        sample = event.duration_s / len(event.tasks)
        self.compute_delay_s = self._mean(self.compute_delay_s if self._measured else sample, sample)
        self._measured = True
        results: list[Result] = []
        gone: list[TaskKey] = []
        for task, reading in zip(event.tasks, event.readings, strict=True):
            self._finish(task)
            if task.k == self.exits or self._exit_policy.leaves(task.k, reading, self):
                results.append(_result(task, reading))
                if task.k < self.exits:
                    gone.append((task.data_id, task.attempt, task.k + 1))
            else:
                following = Task(task.data_id, task.attempt, task.k + 1, event.feature_bytes)
                self._take_custody(following, Arrival.CONTINUED)
        self._discard(gone)
        self._route_results(results)

    def _segment_failed(self, event: ev.SegmentFailed) -> None:
        assert event.tasks == self._computing
        self._computing = ()
        for task in event.tasks:
            self._finish(task)
        self._discard([task.key for task in event.tasks])
        self._route_results([Result(t.data_id, t.attempt, t.k, -1, 0.0, event.reason) for t in event.tasks])

    def _tasks_delivered(self, event: ev.TasksDelivered) -> None:
        neighbour, transfer = self._end_transfer(event.neighbour, event.transfer_id)
        if neighbour is None:
            return
        self._learn(neighbour, event.report)
        if transfer is None:
            return
        neighbour.quarantine_s = 0.0
        sample = event.duration_s / len(transfer.tasks)
        neighbour.transfer_delay_s = self._mean(neighbour.transfer_delay_s or sample, sample)
        gone: list[TaskKey] = []
        for order, task in transfer.tasks:
            if task.key in transfer.returned:
                self._place(order, task, Arrival.RETURNED)
            else:
                del self._held[task.key]
                gone.append(task.key)
        self._discard(gone)

    def _tasks_refused(self, event: ev.TasksRefused) -> None:
        neighbour, transfer = self._end_transfer(event.neighbour, event.transfer_id)
        if neighbour is not None:
            self._learn(neighbour, event.report)
            self._quarantine(neighbour)
        self._return(transfer)

    def _tasks_undelivered(self, event: ev.TasksUndelivered) -> None:
        neighbour, transfer = self._end_transfer(event.neighbour, event.transfer_id)
        if neighbour is not None and transfer is not None:
            self._quarantine(neighbour)
        self._return(transfer)

    def _report_received(self, event: ev.ReportReceived) -> None:
        if (neighbour := self._neighbours.get(event.report.worker)) is not None:
            self._learn(neighbour, event.report)

    def _results_arrived(self, event: ev.ResultsArrived) -> None:
        self._route_results(list(event.results))

    def _results_undelivered(self, event: ev.ResultsUndelivered) -> None:
        if (neighbour := self._neighbours.get(event.neighbour)) is not None:
            self._quarantine(neighbour)
        self._route_results(list(event.results))

    def _thresholds_received(self, event: ev.ThresholdsReceived) -> None:
        if event.version <= self._thresholds_version:
            return
        self._thresholds, self._thresholds_version = event.thresholds, event.version
        for peer in self._routes.peers:
            if peer != event.sender:
                self._effects.append(fx.SendThresholds(peer, event.version, event.thresholds))

    def _routes_changed(self, event: ev.RoutesChanged) -> None:
        routes = event.routes
        if routes.version <= self._routes.version:
            return
        if self._routes.version < 0:
            self._effects.append(fx.SetTimer("gossip", self._options.gossip_s))
        self._routes = routes
        before, self._neighbours = self._neighbours, {}
        for name in routes.peers:
            neighbour = before.pop(name, None) or Neighbour(name, waiting=(0,) * self.exits)
            neighbour.accepts = tuple(k for k, names in enumerate(routes.toward_segment, 1) if name in names)
            self._neighbours[name] = neighbour
        self._toward = tuple(tuple(self._neighbours[m] for m in names) for names in routes.toward_segment)
        for lost in before.values():
            for transfer in lost.transfers.values():
                self._return(transfer)
        self._retry_results()

    def _timer_fired(self, event: ev.TimerFired) -> None:
        verb, _, name = event.name.partition(" ")
        if verb == "gossip":
            self._gossip()
        elif (neighbour := self._neighbours.get(name)) is not None:
            if verb == "reconsider":
                neighbour.declined = False
            else:
                neighbour.quarantined = False
                self._retry_results()

    # ---- pull steps

    def _start_sends(self) -> None:
        """Algorithm 2: let every free link take what the policy gives it."""
        if not (len(self.output) or len(self.either)):
            return
        free = [m for m in self._neighbours.values() if m.accepts and not (m.declined or m.quarantined)]
        if len(free) > 1:
            free = self._offloading.order(free, self._rng)
        for neighbour in free:
            while len(neighbour.transfers) < self._options.link_window:
                k = self._offloading.next_to_send(self, neighbour, self._rng)
                if k is None:
                    self._decline(neighbour)
                    break
                self._send(neighbour, k)

    def _decline(self, neighbour: Neighbour) -> None:
        """A policy that draws lots is asked again after its retry time, not at every event that happens by."""
        waiting = any(self.output.count(k) or self.either.count(k) for k in neighbour.accepts)
        if self._offloading.retry_s > 0 and waiting:
            neighbour.declined = True
            self._effects.append(fx.SetTimer(f"reconsider {neighbour.name}", self._offloading.retry_s))

    def _send(self, neighbour: Neighbour, k: int) -> None:
        side = self.output if self.output.count(k) else self.either
        taken = side.take(k, self._options.group_max)
        assert taken, "the policy picked a segment nobody waits for"
        self._transfers += 1
        transfer = neighbour.transfers[self._transfers] = Transfer(taken)
        for _, task in taken:
            self._held[task.key] = transfer
        tasks = tuple(replace(task, hops=task.hops + 1) for _, task in taken)
        self._effects.append(fx.SendTasks(neighbour.name, self._transfers, tasks))

    def _start_compute(self) -> None:
        """Algorithm 1's first line: take the next task, from the output queue when there is no other."""
        if self._computing:
            return
        side, k = Side.INPUT, self._offloading.next_to_run(self)
        if k is None:
            side, k = Side.OUTPUT, self.output.oldest(self.hosted)
        elif not self.input.count(k):
            side = Side.EITHER
        if k is None:
            return
        self._computing = tuple(task for _, task in self._queue(side).take(k, self._options.group_max))
        assert self._computing, "the policy picked a segment nobody waits for"
        self._effects.append(fx.RunSegment(k, self._computing))

    # ---- helpers

    def _queue(self, side: Side) -> TaskQueue:
        return self.input if side is Side.INPUT else self.output if side is Side.OUTPUT else self.either

    def _mean(self, mean: float, sample: float) -> float:
        return mean + self._options.delay_weight * (sample - mean)

    def _finish(self, task: Task) -> None:
        del self._held[task.key]
        self._finished[task.key] = None
        if len(self._finished) > self._limits.finished_max:
            del self._finished[next(iter(self._finished))]

    def _discard(self, keys: list[TaskKey]) -> None:
        if keys:
            self._effects.append(fx.DiscardPayloads(tuple(keys)))

    def _end_transfer(self, name: str, transfer_id: int) -> tuple[Neighbour | None, Transfer | None]:
        neighbour = self._neighbours.get(name)
        return neighbour, neighbour.transfers.pop(transfer_id, None) if neighbour else None

    def _return(self, transfer: Transfer | None) -> None:
        for order, task in transfer.tasks if transfer else ():
            self._place(order, task, Arrival.RETURNED)

    def _quarantine(self, neighbour: Neighbour) -> None:
        if neighbour.quarantined:
            return
        limits = self._limits
        neighbour.quarantined = True
        neighbour.quarantine_s = min(2 * neighbour.quarantine_s or limits.quarantine_s, limits.quarantine_max_s)
        self._effects.append(fx.SetTimer(f"quarantine {neighbour.name}", neighbour.quarantine_s))

    def _learn(self, neighbour: Neighbour, report: WorkerReport) -> None:
        if neighbour.learn(report) and report.thresholds_version < self._thresholds_version:
            news = fx.SendThresholds(neighbour.name, self._thresholds_version, self._thresholds)
            self._effects.append(news)

    def _report(self) -> WorkerReport:
        self._reports += 1
        ks = range(1, self.exits + 1)
        waiting = tuple(self.input.count(k) + self.either.count(k) for k in ks)
        queued, delay_s = len(self.output), self.compute_delay_s
        return WorkerReport(self.name, self._reports, self._epoch, waiting, queued, delay_s, self._thresholds_version)

    def _gossip(self) -> None:
        self._effects.append(fx.SetTimer("gossip", self._options.gossip_s))
        self._ticks += 1
        state = (len(self.input), len(self.output), len(self.either), self._thresholds_version)
        if state == self._told and self._ticks % _HEARTBEAT_TICKS:
            return
        self._told = state
        report = self._report()
        self._effects.extend(fx.SendReport(name, report) for name in self._routes.report_to)

    def _route_results(self, results: list[Result]) -> None:
        if not results:
            return
        if self.is_source:
            self._effects.append(fx.DeliverResults(tuple(results)))
            return
        for name in self._routes.toward_source:
            if not self._neighbours[name].quarantined:
                self._effects.append(fx.SendResults(name, tuple(results)))
                return
        self._results.extend(results)

    def _retry_results(self) -> None:
        waiting = list(self._results)
        self._results.clear()
        self._route_results(waiting)


def _result(task: Task, reading: ExitReading) -> Result:
    return Result(task.data_id, task.attempt, task.k, reading.prediction, reading.confidence)
