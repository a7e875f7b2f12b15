"""Tallies and samples: what is counted, and nothing that can grow without a bound."""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import ExitReading, Outcome, Task, WorkerReport
from mdi_exit.journal import CoreName, Step
from mdi_exit.samples import Latencies, Timeline
from mdi_exit.tally import NodeTally


def test_reasons_are_kept_up_to_a_bound() -> None:
    tally = NodeTally("n1", 5)
    for data_id in range(200):
        failed = fx.Complete(data_id, Outcome.FAILED, 0, -1, 0.0, 0.1, 1, f"{data_id}.jpg is not readable")
        tally.add(Step(0.0, "n1", 0, "controller", ev.DatumUnreadable(data_id, ""), (failed,)))
    assert tally.source is not None
    reasons = tally.source.reasons["failed"]
    assert len(reasons) == 51 and reasons["0.jpg is not readable"] == 1 and sum(reasons.values()) == 200


def test_hand_overs_that_never_end_are_forgotten() -> None:
    tally = NodeTally("n1", 5)
    report = WorkerReport("n2", 1, 0, (0,) * 5, (0,) * 5, 0.01, 0, 0)
    for number in range(5_000):
        send = fx.SendTasks("n2", number, (Task(number, 0, 1, 10),))
        tally.add(Step(0.0, "n1", 0, "worker", ev.TimerFired("gossip"), (send,)))
    for number in (0, 4_999):
        tally.add(Step(0.0, "n1", 0, "worker", ev.TasksDelivered("n2", number, 0.5, report), ()))
    assert tally.worker.offloaded == 1 and tally.worker.links["n2"].busy_s == 0.5
    assert len(pickle.dumps(tally)) < 500_000


def test_refused_failed_and_undelivered_tasks_are_counted() -> None:
    tally = NodeTally("n1", 5)
    report = WorkerReport("n2", 1, 0, (0,) * 5, (0,) * 5, 0.01, 0, 0)
    tasks = (Task(1, 0, 1, 10), Task(2, 0, 1, 10))
    sends = (fx.SendTasks("n2", 1, tasks), fx.SendTasks("n2", 2, tasks[:1]))
    refuse = fx.Acknowledge("n2", 7, False, report)
    for event, effects in (
        (ev.TasksArrived(tasks, None, 0), sends),
        (ev.TasksRefused("n2", 1, report), ()),
        (ev.TasksUndelivered("n2", 2, "the link is down"), ()),
        (ev.SegmentFailed(1, tasks, "not a number"), ()),
        (ev.TasksArrived(tasks, "n2", 7), (refuse,)),
        (ev.TasksArrived(tasks, "n2", 7), (replace(refuse, accepted=True),)),
        (ev.SegmentDone(2, tasks, (ExitReading(0.5, 1, 1.0),) * 2, 10, 0.2), ()),
    ):
        tally.add(Step(0.0, "n1", 0, "worker", event, effects))
    link = tally.worker.links["n2"]
    assert (link.refused, link.undelivered, link.tasks, tally.worker.failed, tally.worker.received) == (2, 1, 0, 2, 2)
    assert tally.worker.segments == [0, 2, 0, 0, 0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda tally: pickle.loads(pickle.dumps(tally))])
def test_a_copy_has_counted_the_same_and_counts_on(copied: Callable[[NodeTally], NodeTally]) -> None:
    tally, sent = NodeTally("n1", 2, lambda data_id: 0, epoch=3), (Task(1, 0, 1, 10),)
    report = WorkerReport("n2", 1, 0, (0,) * 2, (0,) * 2, 0.01, 0, 0)
    complete = fx.Complete(1, Outcome.COMPLETED, 2, 0, 0.9, 0.25, 1)
    tally.observe(0.0, 2, 1)
    sends = (fx.SendTasks("n2", 1, sent), fx.SendTasks("n2", 2, sent))
    steps: tuple[tuple[CoreName, ev.Event, tuple[fx.Effect, ...]], ...] = (
        ("controller", ev.AdmissionOpened(), (complete, replace(complete, data_id=2, latency_s=0.75))),
        ("worker", ev.SegmentFailed(1, sent, "not a number"), sends),
        ("worker", ev.TasksDelivered("n2", 1, 0.5, report), ()),
    )
    for core, event, effects in steps:
        tally.add(Step(1.0, "n1", 3, core, event, effects))
    tally.close(4.0)
    for each in (tally, again := copied(tally)):
        each.add(Step(5.0, "n1", 3, "worker", ev.TasksDelivered("n2", 2, 0.5, report), ()))
        each.close(6.0)
    assert again is not tally and again.snapshot(6.0) == tally.snapshot(6.0) and again.worker == tally.worker
    assert again.worker.links["n2"].tasks == 2 and again.worker.failed == 1 and again.worker.input_task_s == 10.0
    assert tally.source and again.source and again.source.exits == tally.source.exits == [0, 2]
    assert again.source.latencies.percentiles([0.0, 1.0]) == [0.25, 0.75]
    assert [point.completed for point in again.source.timeline.points] == [2]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentiles_are_exact_while_all_are_kept(values: list[float], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    (found,) = latencies.percentiles((share,))
    ordered = sorted(values)
    place = share * (len(values) - 1)
    assert found is not None and ordered[math.floor(place)] <= found <= ordered[math.ceil(place)]


def test_a_sample_stands_for_all_when_there_are_too_many() -> None:
    latencies, rng = Latencies(limit=2_000), random.Random(1)
    for _ in range(50_000):
        latencies.add(rng.random())
    assert len(latencies.values) == 2_000 and latencies.count == 50_000
    for share, found in zip((0.5, 0.95), latencies.percentiles((0.5, 0.95)), strict=True):
        assert found == pytest.approx(share, abs=0.05)
    assert Latencies().percentiles((0.5,)) == [None]


@given(st.lists(st.floats(0, 5_000), min_size=1, max_size=60))
def test_a_timeline_keeps_every_completion_in_few_points(times: list[float]) -> None:
    timeline = Timeline(width_s=0.5, points_max=16)
    for number, now in enumerate(sorted(times)):
        timeline.offer(now)
        timeline.count(now, correct=number % 2 == 0, latency_s=0.25)
        timeline.control(now, fx.RecordControl(0.1, 0.8, number, 0, 0))
    assert len(timeline.points) <= 16
    assert sum(point.completed for point in timeline.points) == len(times)
    assert sum(point.correct for point in timeline.points) == (len(times) + 1) // 2
    assert sum(point.offered for point in timeline.points) == len(times)
    assert sum(point.latency_sum_s for point in timeline.points) == len(times) / 4
    last = next(point.control for point in reversed(timeline.points) if point.control)
    assert last.input_queue == len(times) - 1
    assert timeline.width_s * len(timeline.points) > max(times)
