"""The rules of ControllerCore: admission, adaptation, and exactly one outcome for each datum."""

from __future__ import annotations

import random
from typing import Any

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.controller import ControllerCore
from mdi_exit.core.types import Limits, Outcome, Result
from mdi_exit.policies.admission import AlwaysAdmit, RateAdaptation, ThresholdAdaptation
from mdi_exit.policies.arrivals import ConstantArrivals, RecordedArrivals

from .worlds import of, only

RATE = RateAdaptation(first_interarrival_s=0.1)


def controller(
    admission: Any = RATE, arrivals: Any = None, data_max: int | None = None, **limits: Any
) -> ControllerCore:
    core = ControllerCore(3, (0.8, 0.8), admission, arrivals, Limits(**limits), random.Random(0), data_max)
    core.handle(ev.AdmissionOpened(), 0.0)
    return core


def fire(core: ControllerCore, name: str, now: float) -> list[fx.ControllerEffect]:
    return core.handle(ev.TimerFired(name), now)


def answer(data_id: int, attempt: int = 0, error: str | None = None) -> ev.ResultsArrived:
    return ev.ResultsArrived((Result(data_id, attempt, 2, 4, 0.9, error),))


def timer(effects: list[Any], name: str) -> float:
    (set_timer,) = [e for e in effects if isinstance(e, fx.SetTimer) and e.name == name]
    return set_timer.delay_s


class TestAdmission:
    def test_one_datum_every_interarrival_time_also_when_the_timer_is_late(self) -> None:
        core = controller()
        effects = fire(core, "arrival", 0.1)
        assert only(effects, fx.Admit) == fx.Admit(0, 0) and abs(timer(effects, "arrival") - 0.1) < 1e-9
        effects = fire(core, "arrival", 0.27)
        assert only(effects, fx.Admit).data_id == 1 and abs(timer(effects, "arrival") - 0.03) < 1e-9

    def test_a_driver_that_slept_does_not_admit_a_flood(self) -> None:
        core = controller()
        fire(core, "arrival", 100.0)
        admitted = 1
        while timer(fire(core, "arrival", 100.0), "arrival") <= 0:
            admitted += 1
        assert admitted <= 6

    def test_arrivals_beyond_the_bounded_queue_are_shed(self) -> None:
        core = controller(AlwaysAdmit(queue_max=2), ConstantArrivals(10))
        core.handle(ev.SourceObserved(2, 0, 2), 0.1)
        shed = only(fire(core, "arrival", 0.1), fx.Complete)
        assert (shed.data_id, shed.outcome) == (0, Outcome.SHED)
        core.handle(ev.SourceObserved(1, 0, 1), 0.2)
        assert only(fire(core, "arrival", 0.2), fx.Admit).data_id == 1

    def test_arrivals_that_a_late_source_missed_are_offered_and_shed(self) -> None:
        core, effects = controller(AlwaysAdmit(), ConstantArrivals(10)), []
        for _ in range(20):  # the driver slept from 0 to 2 s; the timer then fires without delay until it caught up
            effects += fire(core, "arrival", 2.05)
        assert [e.reason for e in of(effects, fx.Complete)] == ["the source was late"] * 15
        assert len(of(effects, fx.Admit)) == 5

    def test_the_latency_of_what_arrives_counts_from_its_arrival(self) -> None:
        core = controller(AlwaysAdmit(), ConstantArrivals(10))
        fire(core, "arrival", 0.4)
        assert abs(only(core.handle(answer(0), 0.5), fx.Complete).latency_s - 0.4) < 1e-9

    def test_what_is_in_flight_is_bounded(self) -> None:
        core = controller(in_flight_max=2)
        admitted = [bool(of(fire(core, "arrival", 0.1 * i), fx.Admit)) for i in range(1, 5)]
        assert admitted == [True, True, False, False] and core.in_flight == 2
        core.handle(answer(0), 0.5)
        assert only(fire(core, "arrival", 0.5), fx.Admit).data_id == 2, "a source that holds its data sheds none"

    def test_a_faster_rate_counts_at_once(self) -> None:
        core = controller(RateAdaptation(first_interarrival_s=10.0, period_s=1.0))
        assert timer(fire(core, "adapt", 1.0), "arrival") == 8.0

    def test_a_bounded_run_and_a_recorded_trace_end_admission(self) -> None:
        core = controller(data_max=1)
        assert not [e for e in of(fire(core, "arrival", 0.1), fx.SetTimer) if e.name == "arrival"]
        assert of(core.handle(answer(0), 0.2), fx.Finish)
        core = controller(AlwaysAdmit(), RecordedArrivals((0.1, 0.2), repeat=False))
        assert timer(fire(core, "arrival", 0.1), "arrival") > 0
        fire(core, "arrival", 0.3)
        core.handle(answer(0), 0.4)
        assert of(core.handle(answer(1), 0.5), fx.Finish)


class TestAdaptation:
    def test_new_thresholds_carry_a_growing_version(self) -> None:
        core = controller(ThresholdAdaptation(), ConstantArrivals(10))
        core.handle(ev.SourceObserved(40, 0, 40), 1.0)
        first = only(fire(core, "adapt", 1.0), fx.SetThresholds)
        second = only(fire(core, "adapt", 2.0), fx.SetThresholds)
        assert (first.version, second.version) == (1, 2) and second.thresholds < first.thresholds

    def test_unchanged_thresholds_are_not_sent(self) -> None:
        effects = fire(controller(), "adapt", 1.0)
        assert not of(effects, fx.SetThresholds) and only(effects, fx.RecordControl).threshold == 0.8


class TestOutcomes:
    def test_a_datum_completes_once_and_further_answers_are_duplicates(self) -> None:
        core = controller()
        fire(core, "arrival", 0.1)
        completed = only(core.handle(answer(0), 0.4), fx.Complete)
        assert (completed.outcome, completed.k, completed.prediction) == (Outcome.COMPLETED, 2, 4)
        assert abs(completed.latency_s - 0.3) < 1e-9
        assert core.handle(answer(0), 0.5) == [fx.CountDuplicate(0)]

    def test_an_overdue_datum_is_submitted_again_with_twice_the_patience_and_lost_in_the_end(self) -> None:
        core = controller(deadline_s=10.0, attempts_max=3)
        fire(core, "arrival", 0.1)
        core.handle(ev.AdmissionClosed(), 0.2)
        assert not of(fire(core, "deadline", 10.0), fx.Admit)
        effects = fire(core, "deadline", 10.1)
        assert only(effects, fx.Admit) == fx.Admit(0, 1) and timer(effects, "deadline") == 20.0
        assert only(fire(core, "deadline", 30.1), fx.Admit) == fx.Admit(0, 2)
        effects = fire(core, "deadline", 70.1)
        assert only(effects, fx.Complete).outcome is Outcome.LOST and of(effects, fx.Finish)

    def test_an_answer_of_an_earlier_attempt_counts(self) -> None:
        core = controller(deadline_s=1.0)
        fire(core, "arrival", 0.1)
        fire(core, "deadline", 1.1)
        assert only(core.handle(answer(0, attempt=0), 1.2), fx.Complete).attempts == 2

    def test_an_error_is_tried_again_and_failed_in_the_end_and_an_old_error_is_ignored(self) -> None:
        core = controller(attempts_max=2)
        fire(core, "arrival", 0.1)
        assert only(core.handle(answer(0, 0, "bad"), 0.2), fx.Admit) == fx.Admit(0, 1)
        assert core.handle(answer(0, 0, "bad"), 0.3) == []
        failed = only(core.handle(answer(0, 1, "bad"), 0.4), fx.Complete)
        assert (failed.outcome, failed.reason) == (Outcome.FAILED, "bad")

    def test_an_unreadable_datum_has_failed(self) -> None:
        core = controller()
        fire(core, "arrival", 0.1)
        failed = only(core.handle(ev.DatumUnreadable(0, "cat/3.jpg: truncated"), 0.1), fx.Complete)
        assert (failed.outcome, failed.reason) == (Outcome.FAILED, "cat/3.jpg: truncated")

    def test_after_a_worker_is_lost_what_stays_unanswered_is_submitted_again_soon(self) -> None:
        core = controller(deadline_s=30.0, loss_grace_s=2.0)
        for i in range(1, 4):
            fire(core, "arrival", 0.1 * i)
        assert timer(core.handle(ev.WorkerLost("b"), 1.0), "deadline") == 2.0
        core.handle(answer(1), 1.5)
        assert [e.data_id for e in of(fire(core, "deadline", 3.0), fx.Admit)] == [0, 2]

    def test_deaths_of_workers_do_not_use_up_the_attempts(self) -> None:
        core = controller(deadline_s=30.0, loss_grace_s=2.0, attempts_max=2)
        fire(core, "arrival", 0.1)
        for attempt in range(1, 7):
            core.handle(ev.WorkerLost("b"), 10.0 * attempt)
            assert only(fire(core, "deadline", 10.0 * attempt + 2), fx.Admit) == fx.Admit(0, attempt)
        assert only(core.handle(answer(0, 3), 65.0), fx.Complete).outcome is Outcome.COMPLETED

    def test_what_is_left_when_the_drain_ends_is_lost_and_says_why(self) -> None:
        core = controller()
        fire(core, "arrival", 0.1)
        core.handle(ev.AdmissionClosed(), 0.2)
        lost = only(core.handle(ev.DrainExpired(), 9.0), fx.Complete)
        assert lost.outcome is Outcome.LOST and lost.reason

    def test_the_run_finishes_once_closed_and_answered(self) -> None:
        core = controller()
        fire(core, "arrival", 0.1)
        assert not of(core.handle(ev.AdmissionClosed(), 0.2), fx.Finish)
        assert of(core.handle(answer(0), 0.3), fx.Finish)
        assert core.handle(answer(0), 0.4) == [fx.CountDuplicate(0)]
