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
from mdi_exit.core.custody import Custody
from mdi_exit.core.neighbour import Neighbour, Neighbourhood, Transfer
from mdi_exit.core.types import Arrival, Limits, Result, Side, Task, TaskKey, WorkerOptions, WorkerReport
from mdi_exit.core.views import ExitPolicy, OffloadingPolicy, QueueView

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
        self._tasks = Custody(exits, limits.finished_max)
        self._neighbours = Neighbourhood(exits)
        self._results: deque[Result] = deque(maxlen=limits.results_max)  # waiting for a way to the source
        self._thresholds, self._thresholds_version = thresholds, 0
        self._exit_policy, self._offloading, self._rng = exit_policy, offloading_policy, rng
        self._options, self._limits, self._epoch = options, limits, epoch
        self._transfers = epoch << 32  # numbers of hand-overs never repeat, also not after a restart
        self._reports = self._ticks = 0
        self._measured = False
        self._told: tuple[int, ...] = ()
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

        `now` decides nothing yet: time reaches a worker as timers and as measured durations.
        """
        self._effects = []
        self._handlers[type(event)](event)
        self._start_sends()
        self._start_compute()
        return self._effects

    # ---- what policies, the controller and tests may look at

    @property
    def input(self) -> QueueView:
        return self._tasks.input

    @property
    def output(self) -> QueueView:
        return self._tasks.output

    @property
    def either(self) -> QueueView:
        return self._tasks.either

    @property
    def computing(self) -> int:
        return len(self._tasks.computing)

    def threshold(self, k: int) -> float:
        """Return T_e^k, k = 1..K-1."""
        return self._thresholds[k - 1]

    def neighbours_toward(self, k: int) -> tuple[Neighbour, ...]:
        """Return the neighbours to which a task for segment k may be handed."""
        return self._neighbours.toward(k)

    def observe(self) -> ev.SourceObserved:
        """Return the queue lengths the controller judges by."""
        tasks = self._tasks
        first = tasks.input.count(1) + tasks.output.count(1) + tasks.either.count(1)
        return ev.SourceObserved(len(tasks.input) + len(tasks.either), len(tasks.output), first)

    @property
    def idle(self) -> bool:
        """Nothing is held: no task waiting, computing or being sent, no result waiting for a route."""
        return not len(self._tasks) and not self._results

    # ---- events

    def _tasks_arrived(self, event: ev.TasksArrived) -> None:
        fresh = [task.key for task in event.tasks if task.key not in self._tasks]
        accepted = event.sender is None or len(self._tasks) + len(fresh) <= self._limits.waiting_max
        if accepted:
            for task in event.tasks:
                self._take_custody(task, Arrival.RECEIVED if event.sender else Arrival.ADMITTED)
        else:
            self._discard(fresh)
        if event.sender is not None:
            self._effects.append(fx.Acknowledge(event.sender, event.transfer_id, accepted, self._report()))

    def _take_custody(self, task: Task, arrival: Arrival) -> None:
        if task.key in self._tasks:
            self._tasks.came_back(task.key)
        elif self._tasks.finished(task.key):
            self._discard([task.key])
        else:
            self._place(self._tasks.next_order(), task, arrival)

    def _place(self, order: int, task: Task, arrival: Arrival) -> None:
        if task.k not in self.hosted:
            side = Side.OUTPUT
        elif not self._neighbours.toward(task.k) or task.hops >= self._limits.hops_max:
            side = Side.INPUT
        else:
            side = self._offloading.place(self, task, arrival, self._rng)
        self._tasks.wait(side, order, task)

    def _segment_done(self, event: ev.SegmentDone) -> None:
        self._tasks.stop_computing(event.tasks)
        sample_s = event.duration_s / len(event.tasks)
        self.compute_delay_s = self._mean(self.compute_delay_s if self._measured else sample_s, sample_s)
        self._measured = True
        results: list[Result] = []
        for task, reading in zip(event.tasks, event.readings, strict=True):
            if task.k == self.exits or self._exit_policy.leaves(task.k, reading, self):
                leaving = (task.data_id, task.attempt, task.k)
                results.append(Result(*leaving, reading.prediction, reading.confidence))
            else:
                following = Task(task.data_id, task.attempt, task.k + 1, event.feature_bytes)
                self._take_custody(following, Arrival.CONTINUED)
        if event.k < self.exits:
            self._discard([(result.data_id, result.attempt, event.k + 1) for result in results])
        self._route_results(results)

    def _segment_failed(self, event: ev.SegmentFailed) -> None:
        self._tasks.stop_computing(event.tasks)
        self._discard([task.key for task in event.tasks])
        self._route_results([Result(t.data_id, t.attempt, t.k, -1, 0.0, event.reason) for t in event.tasks])

    def _tasks_delivered(self, event: ev.TasksDelivered) -> None:
        neighbour, transfer = self._neighbours.end_transfer(event.neighbour, event.transfer_id)
        if neighbour is None:
            return
        self._learn(neighbour, event.report)
        if transfer is None:
            return
        neighbour.quarantine_s = 0.0
        sample_s = event.duration_s / len(transfer.tasks)
        neighbour.transfer_delay_s = self._mean(neighbour.transfer_delay_s or sample_s, sample_s)
        gone = self._tasks.delivered(transfer)
        self._discard(gone)
        self._return([(order, task) for order, task in transfer.tasks if task.key in transfer.returned])

    def _tasks_refused(self, event: ev.TasksRefused) -> None:
        neighbour, transfer = self._neighbours.end_transfer(event.neighbour, event.transfer_id)
        if neighbour is not None:
            self._learn(neighbour, event.report)
            self._quarantine(neighbour)
        self._return(transfer.tasks if transfer else [])

    def _tasks_undelivered(self, event: ev.TasksUndelivered) -> None:
        neighbour, transfer = self._neighbours.end_transfer(event.neighbour, event.transfer_id)
        if neighbour is not None and transfer is not None:
            self._quarantine(neighbour)
        self._return(transfer.tasks if transfer else [])

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
        for neighbour in self._neighbours:
            if neighbour.name != event.sender:
                self._tell_thresholds(neighbour)

    def _routes_changed(self, event: ev.RoutesChanged) -> None:
        known = self._neighbours.routes.version
        if event.routes.version <= known:
            return
        if known < 0:
            self._effects.append(fx.SetTimer("gossip", self._options.gossip_s))
        for transfer in self._neighbours.replace(event.routes):
            self._return(transfer.tasks)
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
        if not (len(self._tasks.output) or len(self._tasks.either)):
            return
        free = [m for m in self._neighbours if m.accepts and not (m.declined or m.quarantined)]
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
        self._transfers += 1
        transfer: Transfer = self._tasks.start_sending(k, self._options.group_max)
        neighbour.transfers[self._transfers] = transfer
        tasks = tuple(replace(task, hops=task.hops + 1) for _, task in transfer.tasks)
        self._effects.append(fx.SendTasks(neighbour.name, self._transfers, tasks))

    def _start_compute(self) -> None:
        """Algorithm 1's first line: take the next task, from the output queue when there is no other."""
        if self._tasks.computing:
            return
        side, k = Side.INPUT, self._offloading.next_to_run(self)
        if k is None:
            side, k = Side.OUTPUT, self._tasks.output.oldest(self.hosted)
        elif not self._tasks.input.count(k):
            side = Side.EITHER
        if k is not None:
            tasks = self._tasks.start_computing(side, k, self._options.group_max)
            self._effects.append(fx.RunSegment(k, tasks))

    # ---- helpers

    def _mean(self, mean: float, sample: float) -> float:
        return mean + self._options.delay_weight * (sample - mean)

    def _discard(self, keys: list[TaskKey]) -> None:
        if keys:
            self._effects.append(fx.DiscardPayloads(tuple(keys)))

    def _return(self, tasks: list[tuple[int, Task]]) -> None:
        for order, task in tasks:
            self._place(order, task, Arrival.RETURNED)

    def _quarantine(self, neighbour: Neighbour) -> None:
        if not neighbour.quarantined:
            delay_s = neighbour.quarantine(self._limits)
            self._effects.append(fx.SetTimer(f"quarantine {neighbour.name}", delay_s))

    def _learn(self, neighbour: Neighbour, report: WorkerReport) -> None:
        if neighbour.learn(report) and report.thresholds_version < self._thresholds_version:
            self._tell_thresholds(neighbour)

    def _tell_thresholds(self, neighbour: Neighbour) -> None:
        self._effects.append(fx.SendThresholds(neighbour.name, self._thresholds_version, self._thresholds))

    def _report(self) -> WorkerReport:
        self._reports += 1
        tasks = self._tasks
        waiting = tuple(tasks.input.count(k) + tasks.either.count(k) for k in range(1, self.exits + 1))
        measured = (len(tasks.output), self.compute_delay_s)
        return WorkerReport(self.name, self._reports, self._epoch, waiting, *measured, self._thresholds_version)

    def _gossip(self) -> None:
        self._effects.append(fx.SetTimer("gossip", self._options.gossip_s))
        self._ticks += 1
        state = (len(self.input), len(self.output), len(self.either), self._thresholds_version)
        if state != self._told or self._ticks % _HEARTBEAT_TICKS == 0:
            self._told = state
            report = self._report()
            for name in self._neighbours.routes.report_to:
                self._effects.append(fx.SendReport(name, report))

    def _route_results(self, results: list[Result]) -> None:
        if not results:
            return
        if self.is_source:
            self._effects.append(fx.DeliverResults(tuple(results)))
        elif (name := self._neighbours.toward_source()) is not None:
            self._effects.append(fx.SendResults(name, tuple(results)))
        else:
            self._results.extend(results)

    def _retry_results(self) -> None:
        waiting = list(self._results)
        self._results.clear()
        self._route_results(waiting)
