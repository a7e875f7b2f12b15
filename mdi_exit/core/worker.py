"""Algorithms 1 and 2 of MDI-Exit: what one worker n does with its tasks.

`WorkerCore.handle(event, now)` is the only way in. An event only *places* things; then two pull steps run,
`_start_sends` (Algorithm 2: offloading) and `_start_compute` (Algorithm 1: processing and early exit). Where a task
waits, what runs next and what a free link takes is the offloading policy's to say; who exits, the exit policy's.

Rules that no policy can break, so that nothing is lost and nobody idles (but one that `may_rest`):
- a task whose segment is not hosted here waits to be sent; one that no neighbour could take waits to be computed;
- a worker with nothing to compute takes runnable work back from its output queue (the liveness line of Algorithm 2),
  or, where the policy wants that to be sent, what no neighbour could take any more;
- a task leaves custody only when it was computed here or a neighbour acknowledged it, and is not computed here twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.gossip import Gossip
from mdi_exit.core.neighbour import Neighbour
from mdi_exit.core.standing import Standing
from mdi_exit.core.types import Arrival, Limits, Result, Side, Task, TaskKey, WorkerOptions, WorkerReport
from mdi_exit.core.views import ExitDecision, ExitPolicy, OffloadingPolicy


class WorkerCore(Standing):
    """The decisions of worker n. As a `Standing` it is also the `WorkerView` and `ExitView` that its policies read."""

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
        super().__init__(name, exits, hosted, thresholds, options, limits, is_source)
        self._exit_policy, self._offloading, self._rng = exit_policy, offloading_policy, rng
        self._limits, self._epoch = limits, epoch
        self._transfers = epoch << 32  # numbers of hand-overs never repeat, also not after a restart
        self._gossip, self._next_gossip = Gossip(name, epoch), fx.SetTimer("gossip", options.gossip_s)
        self._effects: list[fx.WorkerEffect] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.TasksArrived: self._tasks_arrived,
            ev.SegmentDone: self._segment_done,
            ev.SegmentFailed: self._segment_failed,
            ev.TasksDelivered: self._tasks_delivered,
            ev.TasksRefused: self._not_delivered,
            ev.TasksUndelivered: self._not_delivered,
            ev.ReportReceived: lambda event: self._learn_from(event.report),
            ev.ResultsArrived: lambda event: self._effects.extend(self._results.route(list(event.results))),
            ev.ResultsUndelivered: self._results_undelivered,
            ev.ThresholdsReceived: lambda event: self._effects.extend(self._flood.take(event)),
            ev.PricesReceived: lambda event: self._effects.extend(self._flood.take(event)),
            ev.MeasurementsArrived: self._pass_on,
            ev.RoutesChanged: self._routes_changed,
            ev.TimerFired: self._timer_fired,
        }

    def handle(self, event: ev.WorkerEvent, now: float) -> list[fx.WorkerEffect]:
        """Take in what happened at `now` (seconds since the run began) and return what to do about it."""
        self._effects, self._now = [], now
        self._handlers[type(event)](event)
        self.memo.clear()
        if self._tasks.output.length or self._tasks.either.length:
            self._start_sends()
        if not self._tasks.computing and any(self.backlogs):
            self._start_compute()
        self._tell(self._gossip.misled(self._tasks, self._neighbours.routes.report_to))
        return self._effects

    @property
    def taken_back(self) -> tuple[int, ...]:
        """Segments whose tasks the idle processor takes off the output queue."""
        return tuple(k for k in self.hosted if self._offloading.takes_back or not self._neighbours.toward(k))

    # ---- events

    def _tasks_arrived(self, event: ev.TasksArrived) -> None:
        fresh = [task.key for task in event.tasks if task.key not in self._tasks]
        accepted = event.sender is None or len(self._tasks) + len(fresh) <= self._limits.waiting_max
        if accepted:
            for task in event.tasks:
                self._take_custody(task, Arrival.RECEIVED if event.sender else Arrival.ADMITTED)
        else:
            self._discard(fresh)
        self._delays.handled += len(event.tasks)
        if event.sender is None:
            self.admitted += len(event.tasks)
        else:
            self._effects.append(
                fx.Acknowledge(event.sender, event.transfer_id, accepted, self._report([event.sender]))
            )

    def _take_custody(self, task: Task, arrival: Arrival) -> None:
        if (key := task.key) in self._tasks:
            self._tasks.came_back(task)
        elif self._tasks.finished(key):
            self._discard([key])
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
        results: list[Result] = []
        for task, reading in zip(event.tasks, event.readings, strict=True):
            seen = self._exit_policy.remember(task, reading, self)
            ends = task.k == self.exits
            decision = ExitDecision.LEAVE if ends else self._exit_policy.decide(task, reading, self)
            if decision is ExitDecision.LEAVE:
                answer = seen[-1] if seen else reading
                results.append(Result(*task.key, answer.prediction, answer.confidence, None, seen))
            else:
                following = Task(task.data_id, task.attempt, task.k + 1, event.feature_bytes, 0, task.arm, seen)
                elsewhere = decision is ExitDecision.OFFLOAD
                self._take_custody(following, Arrival.OFFLOADED if elsewhere else Arrival.CONTINUED)
        tasks = len(event.tasks)
        self._delays.computed(event.k, tasks, tasks - len(results), event.duration_s / tasks, event.beside_s)
        if event.k < self.exits:
            gone = [(result.data_id, result.attempt, event.k + 1) for result in results]
            self._discard([key for key in gone if key not in self._tasks])  # unless a copy came from elsewhere
        self._effects += self._results.route(results)

    def _segment_failed(self, event: ev.SegmentFailed) -> None:
        self._tasks.stop_computing(event.tasks)
        self._discard([task.key for task in event.tasks])
        failed = [Result(t.data_id, t.attempt, t.k, -1, 0.0, event.reason) for t in event.tasks]
        self._effects += self._results.route(failed)

    def _tasks_delivered(self, event: ev.TasksDelivered) -> None:
        self._learn_from(event.report)
        neighbour, transfer = self._neighbours.end_transfer(event.neighbour, event.transfer_id)
        if neighbour is None or transfer is None:
            return
        neighbour.quarantine_s = 0.0
        neighbour.round_trip_s = min(neighbour.round_trip_s or event.duration_s, event.duration_s)
        sample_s, k = event.duration_s / len(transfer.tasks), transfer.tasks[0][1].k
        mean, known_s = self._delays.mean, neighbour.segment_transfer_s
        neighbour.transfer_delay_s = mean(neighbour.transfer_delay_s or sample_s, sample_s)
        # What a task took of the link: behind another hand-over, the time since that one was answered; alone, its part
        # of a window that others may share.
        since_s, window = self._now - neighbour.answered_s, self._options.link_window
        own_s = (since_s if since_s < event.duration_s else event.duration_s / window) / len(transfer.tasks)
        known_s[k - 1], neighbour.answered_s = mean(known_s[k - 1] or own_s, own_s), self._now
        self._discard(self._tasks.delivered(transfer))
        self._return(transfer.came_back())

    def _not_delivered(self, event: ev.TasksRefused | ev.TasksUndelivered) -> None:
        if isinstance(event, ev.TasksRefused):
            self._learn_from(event.report)
        neighbour, transfer = self._neighbours.end_transfer(event.neighbour, event.transfer_id)
        if neighbour is not None and transfer is not None:
            self._quarantine(neighbour)
            self._return(transfer.tasks)

    def _results_undelivered(self, event: ev.ResultsUndelivered) -> None:
        if (neighbour := self._neighbours.get(event.neighbour)) is not None:
            self._quarantine(neighbour)
        self._effects += self._results.route(list(event.results))

    def _routes_changed(self, event: ev.RoutesChanged) -> None:
        known = self._neighbours.routes.version
        if event.routes.version <= known:
            return
        if known < 0:
            self._effects.append(self._next_gossip)
            if self._offloading.uses_prices:
                self._effects.append(fx.SetTimer("measure", self._options.measure_s))
        for transfer in self._neighbours.replace(event.routes):
            self._return(transfer.tasks)
        self._effects += self._results.retry()

    def _timer_fired(self, event: ev.TimerFired) -> None:
        verb, _, name = event.name.partition(" ")
        if verb == "gossip":
            self._effects.append(self._next_gossip)
            if self._gossip.worth_telling(self._tasks, self._versions):
                self._tell(self._neighbours.routes.report_to)
        elif verb == "measure":
            self._effects.append(fx.SetTimer("measure", self._options.measure_s))
            self._pass_on(ev.MeasurementsArrived((self._delays.measurement(self.name, self._epoch, self._neighbours),)))
        elif (neighbour := self._neighbours.get(name)) is not None:
            if verb == "reconsider":
                neighbour.declined = False
            else:
                neighbour.quarantined = False
                self._effects += self._results.retry()

    def _tell(self, neighbours: Sequence[str]) -> None:
        if neighbours:
            report = self._report(neighbours)
            self._effects += [fx.SendReport(name, report) for name in neighbours]

    def _pass_on(self, event: ev.MeasurementsArrived) -> None:
        """Measurements travel as results do, but nobody keeps them while no way is open: there will be newer ones."""
        if self.is_source:
            self._effects.append(fx.DeliverMeasurements(event.measurements))
        elif (name := self._neighbours.toward_source()) is not None:
            self._effects.append(fx.SendMeasurements(name, event.measurements))

    # ---- pull steps

    def _start_sends(self) -> None:
        """Algorithm 2: let every free link take what the policy gives it."""
        near, window = self._neighbours, self._options.link_window
        free = [m for m in near if len(m.transfers) < window and m.accepts and not (m.declined or m.quarantined)]
        while free:  # one group each, so that nobody gets a window full while others have less
            if len(free) > 1:
                free = self._offloading.order(self, free, self._rng)
            free = [m for m in free if self._gives(m) and len(m.transfers) < window]

    def _gives(self, neighbour: Neighbour) -> bool:
        """Hand over what the policy says, if anything, and say whether. A policy that draws lots is asked again after
        its retry time, not at every event that happens by."""
        k, accepts = self._offloading.next_to_send(self, neighbour, self._rng), neighbour.accepts
        if k is not None:
            self._send(neighbour, k)
            return True
        if self._offloading.retry_s > 0 and (self.output.oldest(accepts) or self.either.oldest(accepts)):
            neighbour.declined = True
            self._effects.append(fx.SetTimer(f"reconsider {neighbour.name}", self._offloading.retry_s))
        return False

    def _send(self, neighbour: Neighbour, k: int) -> None:
        self._transfers += 1
        self.memo.clear()
        transfer = neighbour.transfers[self._transfers] = self._tasks.start_sending(k, self._parcel(neighbour, k))
        sent = [Task(t.data_id, t.attempt, k, t.payload_bytes, t.hops + 1, t.arm, t.seen) for _, t in transfer.tasks]
        neighbour.handed[k - 1] += len(sent)
        neighbour.input_queue += len(sent)
        self._delays.handled += len(sent)
        if self._flood.ways:
            self._dealt.note(k, len(sent), neighbour.name, self._now)
        self._effects.append(fx.SendTasks(neighbour.name, self._transfers, tuple(sent)))

    def _parcel(self, neighbour: Neighbour, k: int) -> int:
        """How many go together, if as many wait; of what could be computed here, whatever the policy's reason, no more
        than leave the neighbour with as many as this worker: what moves together is not weighed task by task."""
        evens_out = (self.backlogs[k - 1] - neighbour.backlogs[k - 1] - neighbour.handed[k - 1] + 1) // 2
        return max(1, min(self._options.group_max, evens_out)) if k in self.hosted else self._options.group_max

    def _start_compute(self) -> None:
        """Algorithm 1's first line: take the next task, from the output queue when there is no other."""
        side, k = Side.INPUT, self._offloading.next_to_run(self)
        if k is None:
            side, k = Side.OUTPUT, self.output.oldest(self.taken_back)
        elif not self.input.counts[k - 1]:
            side = Side.EITHER
        if k is not None:
            tasks = self._tasks.start_computing(side, k, self.group(k))
            if self._flood.ways:
                self._dealt.note(k, len(tasks), self.name, self._now)
            self._effects.append(fx.RunSegment(k, tasks))

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

    def _learn_from(self, report: WorkerReport) -> None:
        if (neighbour := self._neighbours.get(report.worker)) is not None and neighbour.learn(report):
            self._effects += self._flood.catch_up(report, self._now)

    @property
    def _versions(self) -> tuple[int, int]:
        return self._flood.thresholds.version, self._flood.prices.prices.version

    def _report(self, to: Sequence[str]) -> WorkerReport:
        return self._gossip.report(self._tasks, self.compute_delay_s, self._versions, to)
