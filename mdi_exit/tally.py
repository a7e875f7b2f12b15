"""What one node's steps amount to: folds that are cheap enough to run beside the cores and small enough to send.

`NodeTally.add(step)` keeps sums, never steps. Whatever can be read off events and effects is; queue lengths alone are
told by the driver, with `observe` after every step, which makes their time-weighted means exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdi_exit.choices import Choices
from mdi_exit.compiled import remade, restored
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Outcome, Task
from mdi_exit.journal import CoreName, Step
from mdi_exit.samples import Latencies, Timeline
from mdi_exit.snapshots import NodeSnapshot, SourceSnapshot

_TRANSFERS_MAX = 4_096  # hand-overs whose end is awaited; one to a neighbour that left never ends
_REASONS_MAX = 50  # different reasons kept per outcome; further ones are counted together
_OTHER_REASONS = "other reasons"
_ENDS = (ev.TasksDelivered, ev.TasksRefused, ev.TasksUndelivered)
_LabelOf = Callable[[int], int]  # gives the true label of a datum


def _as_it_is(to: str, task: Task) -> int:
    return task.payload_bytes


def _add(to: Any, other: Any, sums: tuple[str, ...]) -> None:
    for name in sums:
        setattr(to, name, getattr(to, name) + getattr(other, name))


@dataclass(slots=True)
class LinkTally:
    """What a node handed to one neighbour."""

    tasks: int = 0  # acknowledged
    bytes: int = 0  # their payloads as they travelled, without headers
    busy_s: float = 0.0  # sum of the hand-overs' durations
    refused: int = 0  # tasks that the neighbour had no room for
    undelivered: int = 0  # tasks without an acknowledgement

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return remade(self)

    def merge(self, other: LinkTally) -> None:
        _add(self, other, ("tasks", "bytes", "busy_s", "refused", "undelivered"))


@dataclass(slots=True)
class WorkerTally:
    """What a WorkerCore's steps amount to."""

    segments: list[int]  # [k-1]: tasks computed of segment k
    failed: int = 0  # tasks whose computation failed
    busy_s: float = 0.0  # sum of the computations' durations, paced ones as the device's
    received: int = 0  # tasks taken from neighbours
    answered: int = 0  # of the source: answers that it gave itself
    links: dict[str, LinkTally] = field(default_factory=dict)
    observed_s: float = 0.0  # how long the queues were watched, while admission was open or after it
    input_task_s: float = 0.0  # integral of I_n over that time
    output_task_s: float = 0.0  # integral of O_n

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return remade(self)

    def merge(self, other: WorkerTally) -> None:
        _add(self, other, ("failed", "busy_s", "received", "answered", "observed_s", "input_task_s", "output_task_s"))
        self.segments = [a + b for a, b in zip(self.segments, other.segments, strict=True)]
        for name, link in other.links.items():
            self.links.setdefault(name, LinkTally()).merge(link)

    @property
    def processed(self) -> int:
        return sum(self.segments)

    @property
    def offloaded(self) -> int:
        return sum(link.tasks for link in self.links.values())


@dataclass(slots=True)
class SourceTally:
    """What a ControllerCore's steps amount to. `labelled` says whether `correct` means anything."""

    exits: list[int]  # [k-1]: completed data that left at exit k
    exit_correct: list[int]
    labelled: bool
    opened_s: float | None = None
    closed_s: float | None = None  # when admission ended: told, out of data, or the end of a recorded trace
    finished_s: float | None = None
    last_s: float = 0.0  # of the last step
    offered: int = 0
    admitted: int = 0
    resubmitted: int = 0
    duplicates: int = 0
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys((o.value for o in Outcome), 0))
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)  # outcome: reason: count
    completed_while_open: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    timeline: Timeline = field(default_factory=Timeline)  # its times count from the opening of admission
    controls: int = 0  # adaptation steps, one every period; the next two are sums over them
    interarrival_sum_s: float = 0.0
    threshold_sum: float = 0.0
    control: fx.RecordControl | None = None  # the last
    choices: Choices = field(default_factory=Choices)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return remade(self)

    @property
    def completed(self) -> int:
        return self.outcomes[Outcome.COMPLETED.value]

    @property
    def correct(self) -> int:
        return sum(self.exit_correct)

    def take(self, now: float, event: ev.Event, effects: Sequence[fx.Effect], label_of: _LabelOf | None) -> None:
        """Take in one step of the controller."""
        self.last_s = now if self.finished_s is None else self.last_s
        if isinstance(event, ev.AdmissionOpened):
            self.opened_s = now
        elif isinstance(event, ev.ResultsArrived):
            self.choices.came(event)
        ends, scheduled = isinstance(event, ev.AdmissionClosed), False
        for effect in effects:
            if isinstance(effect, fx.Complete):
                self._complete(now, effect, label_of)
            elif isinstance(effect, fx.Admit):
                self.admitted += effect.attempt == 0
                self.resubmitted += effect.attempt > 0
                self._offer(now, effect.attempt == 0)
            elif isinstance(effect, fx.RecordControl):
                self._record(now, effect)
            elif isinstance(effect, fx.CountDuplicate):
                self.duplicates += 1
            elif isinstance(effect, fx.SetTimer):
                scheduled |= effect.name == "arrival"
            elif isinstance(effect, fx.Finish):
                self.finished_s = now
        # Out of data, the controller asks for no further arrival.
        ends = ends or (isinstance(event, ev.TimerFired) and event.name == "arrival" and not scheduled)
        self.closed_s = now if ends and self.closed_s is None else self.closed_s

    def _record(self, now: float, control: fx.RecordControl) -> None:
        self.timeline.control(now - (self.opened_s or 0.0), control)
        self.control = control
        self.controls += 1
        self.interarrival_sum_s += control.interarrival_s
        self.threshold_sum += control.threshold

    def _offer(self, now: float, is_new: bool) -> None:
        self.offered += is_new
        self.timeline.offer(now - (self.opened_s or 0.0), is_new)

    def _complete(self, now: float, done: fx.Complete, label_of: _LabelOf | None) -> None:
        self.outcomes[done.outcome.value] += 1
        if done.outcome is not Outcome.COMPLETED:
            self._offer(now, done.outcome is Outcome.SHED)
            known = self.reasons.setdefault(done.outcome.value, {})
            reason = done.reason if done.reason in known or len(known) < _REASONS_MAX else _OTHER_REASONS
            known[reason] = known.get(reason, 0) + 1
            return
        correct = label_of is not None and label_of(done.data_id) == done.prediction
        self.exits[done.k - 1] += 1
        self.exit_correct[done.k - 1] += correct
        self.latencies.add(done.latency_s)
        self.choices.complete(done)
        self.timeline.count(now - (self.opened_s or 0.0), correct, done.latency_s)
        self.completed_while_open += self.closed_s is None

    def snapshot(self, now: float) -> SourceSnapshot:
        """How the run stands."""
        return SourceSnapshot(
            offered=self.offered,
            admitted=self.admitted,
            outcomes=dict(self.outcomes),
            exits=tuple(self.exits),
            accuracy=self.correct / self.completed if self.labelled and self.completed else None,
            throughput_per_s=self.timeline.throughput_per_s(now - (self.opened_s or 0.0)),
            interarrival_s=self.control.interarrival_s if self.control else None,
            threshold=self.control.threshold if self.control else None,
            opened_s=self.opened_s,
            closed_s=self.closed_s,
        )


class NodeTally:
    """One life (epoch) of one node; `merge` adds further lives. It can be pickled and sent, after `close`."""

    def __init__(self, node: str, exits: int, label_of: _LabelOf | None = None, epoch: int = 0) -> None:
        """`label_of` is for the source; it stays here when the tally is sent."""
        self.node, self.epoch = node, epoch
        self.worker = WorkerTally([0] * exits)
        self.source: SourceTally | None = None
        self._exits, self._label_of = exits, label_of
        self.travels_bytes: Callable[[str, Task], int] = _as_it_is  # of a task's payload, to this neighbour
        self._under_way: dict[tuple[str, int], tuple[int, int]] = {}  # hand-over: its tasks and their bytes
        self._observed: tuple[float, int, int] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        names = ("worker", "source", "_under_way", "_observed")
        made_of = (self.node, self._exits, None, self.epoch)
        return restored, (NodeTally, made_of, {name: getattr(self, name) for name in names})

    def add(self, step: Step) -> None:
        """Take in one step of either core of this node."""
        self.take(step.now, step.core, step.event, step.effects)

    def take(self, now: float, core: CoreName, event: ev.Event, effects: Sequence[fx.Effect]) -> None:
        """The same of a step in its parts."""
        if core == "controller":
            if self.source is None:
                self.source = SourceTally([0] * self._exits, [0] * self._exits, self._label_of is not None)
            self.source.take(now, event, effects, self._label_of)
            if isinstance(event, ev.AdmissionOpened):
                self.begin(now)
            return
        tally = self.worker
        if isinstance(event, ev.SegmentDone):
            tally.segments[event.k - 1] += len(event.tasks)
            tally.busy_s += event.duration_s
            for effect in effects:
                if isinstance(effect, fx.DeliverResults):
                    tally.answered += len(effect.results)  # none of them failed
        elif isinstance(event, ev.TasksArrived):
            for effect in effects:
                if isinstance(effect, fx.Acknowledge) and effect.accepted:
                    tally.received += len(event.tasks)
        elif isinstance(event, _ENDS):
            self._end(event)
        elif isinstance(event, ev.SegmentFailed):
            tally.failed += len(event.tasks)
        for effect in effects:
            if isinstance(effect, fx.SendTasks):
                self._start(effect)

    def _start(self, sent: fx.SendTasks) -> None:
        size_bytes = sum(self.travels_bytes(sent.to, task) for task in sent.tasks)
        self._under_way[sent.to, sent.transfer_id] = (len(sent.tasks), size_bytes)
        if len(self._under_way) > _TRANSFERS_MAX:
            del self._under_way[next(iter(self._under_way))]

    def _end(self, event: ev.TasksDelivered | ev.TasksRefused | ev.TasksUndelivered) -> None:
        tasks, size_bytes = self._under_way.pop((event.neighbour, event.transfer_id), (0, 0))
        link = self.worker.links.setdefault(event.neighbour, LinkTally())
        if isinstance(event, ev.TasksDelivered):
            link.tasks += tasks
            link.bytes += size_bytes
            link.busy_s += event.duration_s if tasks else 0.0
        elif isinstance(event, ev.TasksRefused):
            link.refused += tasks
        else:
            link.undelivered += tasks

    def begin(self, now: float) -> None:
        """Admission opens: leave out the time before. To be called except at the source, whose tally sees it itself."""
        self._observed = self._observed and (now, *self._observed[1:])
        self.worker.observed_s = self.worker.input_task_s = self.worker.output_task_s = 0.0

    def observe(self, now: float, input_queue: int, output_queue: int) -> None:
        """Note I_n and O_n as they are from `now` on; to be called after every step of the worker's core."""
        if (known := self._observed) is not None and known[1] == input_queue and known[2] == output_queue:
            return  # most steps change neither
        self.close(now)
        self._observed = (now, input_queue, output_queue)

    def close(self, now: float) -> None:
        """Account for the time up to `now`; at the end of the run, or before what was counted so far is sent."""
        if self._observed is not None:
            since_s, input_queue, output_queue = self._observed
            self.worker.observed_s += now - since_s
            self.worker.input_task_s += input_queue * (now - since_s)
            self.worker.output_task_s += output_queue * (now - since_s)
            self._observed = (now, input_queue, output_queue)

    def snapshot(self, now: float) -> NodeSnapshot:
        """How this node stands."""
        _, inside, outside = self._observed or (now, 0, 0)
        worker, source = self.worker, self.source
        utilization = worker.busy_s / worker.observed_s if worker.observed_s > 0 else 0.0
        counts = (inside, outside, worker.processed, worker.offloaded, worker.received, min(1.0, utilization))
        return NodeSnapshot(self.node, self.epoch, now, *counts, source.snapshot(now) if source else None)

    def merge(self, other: NodeTally) -> None:
        """Add another life of the same node. The source has one life only: its ledger does not survive it."""
        assert other.node == self.node and not (self.source and other.source)
        self.worker.merge(other.worker)
        self.source = self.source or other.source
        self.epoch = max(self.epoch, other.epoch)
