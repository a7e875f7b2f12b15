"""One test per sentence of Algorithms 1 to 4 of MDI-Exit, as reconstructed (the listings could not be read)."""

from __future__ import annotations

from typing import Any

import pytest

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import ExitReading, Task
from mdi_exit.policies.admission import RateAdaptation, ThresholdAdaptation
from mdi_exit.policies.offloading import MdiExitOffloading

from .worlds import SURE, UNSURE, admit, done, of, only, report, task, worker

AS_LISTED = MdiExitOffloading(output_limit=2, first_task="input", received_task="input")


class TestAlgorithm1:
    def test_the_head_of_line_task_is_computed_first(self) -> None:
        core = worker(offloading=AS_LISTED)
        run = only(admit(core, 4, 5, 6), fx.RunSegment)
        assert run == fx.RunSegment(1, (task(4),))
        assert only(done(core, run, SURE), fx.RunSegment).tasks == (task(5),)

    def test_the_compute_delay_is_a_running_mean(self) -> None:
        core = worker(offloading=AS_LISTED)
        run = only(admit(core, 1, 2), fx.RunSegment)
        effects = done(core, run, SURE, duration_s=0.1)
        assert core.compute_delay_s == pytest.approx(0.1), "the first sample is taken as it is"
        done(core, only(effects, fx.RunSegment), SURE, duration_s=0.2)
        assert core.compute_delay_s == pytest.approx(0.1 + 0.1 * (0.2 - 0.1))

    def test_a_confidence_above_the_threshold_exits_and_the_result_goes_to_the_source(self) -> None:
        core = worker("m", is_source=False, toward_source=("m",), offloading=AS_LISTED)
        run = only(core.handle(ev.TasksArrived((task(3),), "m", 9), 0.0), fx.RunSegment)
        effects = done(core, run, SURE)
        sent = only(effects, fx.SendResults)
        assert sent.to == "m" and [(r.data_id, r.k, r.prediction) for r in sent.results] == [(3, 1, 7)]
        assert only(effects, fx.DiscardPayloads).keys == ((3, 0, 2),), "the feature of a datum that left is dropped"

    def test_a_confidence_equal_to_the_threshold_does_not_exit(self) -> None:
        core = worker(offloading=AS_LISTED)
        run = only(admit(core, 1), fx.RunSegment)
        effects = done(core, run, ExitReading(0.8, 0, 0.5))
        assert only(effects, fx.RunSegment) == fx.RunSegment(2, (Task(1, 0, 2, 500),))

    def test_the_last_exit_always_exits(self) -> None:
        core = worker(offloading=AS_LISTED)
        effects = admit(core, 1)
        for _ in range(2):
            effects = done(core, only(effects, fx.RunSegment), UNSURE)
        result = only(done(core, only(effects, fx.RunSegment), UNSURE), fx.DeliverResults).results[0]
        assert (result.k, result.confidence) == (3, 0.30)

    def test_the_next_task_stays_when_the_input_queue_is_empty(self) -> None:
        core = worker("m", offloading=AS_LISTED)
        effects = done(core, only(admit(core, 1), fx.RunSegment), UNSURE)
        assert only(effects, fx.RunSegment).k == 2 and core.output.length == 0

    def test_the_next_task_is_offered_when_the_input_queue_is_not_empty(self) -> None:
        core = worker("m", offloading=AS_LISTED)
        core.handle(ev.ReportReceived(report("m", waiting=50)), 0.0)  # a busy neighbour takes nothing yet
        effects = done(core, only(admit(core, 1, 2, 3), fx.RunSegment), UNSURE)
        assert core.output.length == 1 and not of(effects, fx.SendTasks)

    def test_the_next_task_stays_when_the_output_queue_is_above_its_limit(self) -> None:
        core = worker("m", offloading=AS_LISTED)
        core.handle(ev.ReportReceived(report("m", waiting=50)), 0.0)
        run = only(admit(core, *range(8)), fx.RunSegment)
        for _ in range(5):
            run = only(done(core, run, UNSURE), fx.RunSegment)
        assert core.output.length == AS_LISTED.output_limit + 1

    def test_only_an_empty_input_queue_keeps_a_task_under_the_other_split(self) -> None:
        policy = MdiExitOffloading(output_limit=2, split="idle", first_task="input")
        core = worker("m", offloading=policy)
        core.handle(ev.ReportReceived(report("m", waiting=50)), 0.0)
        run = only(admit(core, *range(8)), fx.RunSegment)
        for _ in range(6):
            run = only(done(core, run, UNSURE), fx.RunSegment)
        assert core.output.length == 6

    def test_received_tasks_and_admitted_data_go_to_the_input_queue(self) -> None:
        core = worker("m", offloading=AS_LISTED)
        admit(core, 1, 2)
        core.handle(ev.TasksArrived((task(9, k=2),), "m", 1), 0.0)
        assert (core.input.length, core.output.length, core.computing) == (2, 0, 1)


class TestAlgorithm2:
    """The setting: three tasks wait in I_n, Gamma_n is 0.1 s, and one more comes to O_n."""

    def offered(self, waiting: int, delay_s: float, seed: int = 0, **options: object) -> list[fx.WorkerEffect]:
        policy = MdiExitOffloading(output_limit=2, first_task="input", **options)  # type: ignore[arg-type]
        core = worker("m", offloading=policy, seed=seed)
        core.handle(ev.ReportReceived(report("m", waiting, delay_s)), 0.0)
        return done(core, only(admit(core, 1, 2, 3, 4), fx.RunSegment), UNSURE, duration_s=0.1)

    def test_a_task_goes_to_a_neighbour_where_it_waits_less(self) -> None:
        sent = only(self.offered(waiting=0, delay_s=0.1), fx.SendTasks)
        assert sent.to == "m" and [(t.data_id, t.k, t.hops) for t in sent.tasks] == [(1, 2, 1)]

    def test_nothing_is_sent_unless_the_output_queue_is_longer_than_the_neighbours_input_queue(self) -> None:
        assert not of(self.offered(waiting=1, delay_s=0.0), fx.SendTasks)
        assert of(self.offered(waiting=1, delay_s=0.0, gate="none"), fx.SendTasks)

    def test_otherwise_it_is_sent_with_probability_of_the_ratio_of_the_waits(self) -> None:
        # I_n Gamma_n = 3 * 0.1 against I_m Gamma_m = 1 * 0.6: half of the draws send
        sent = [bool(of(self.offered(1, 0.6, seed, gate="none"), fx.SendTasks)) for seed in range(400)]
        assert 160 <= sum(sent) <= 240

    def test_counting_the_task_itself_doubles_the_wait_at_a_neighbour_with_one_task(self) -> None:
        options = {"gate": "none", "count_itself": True}
        sent = [bool(of(self.offered(1, 0.6, seed, **options), fx.SendTasks)) for seed in range(400)]
        assert 65 <= sum(sent) <= 135

    def test_a_declined_neighbour_is_drawn_again_after_the_retry_time(self) -> None:
        core = worker("m", offloading=MdiExitOffloading(first_task="input", retry_s=0.02))
        core.handle(ev.ReportReceived(report("m", waiting=9)), 0.0)
        effects = done(core, only(admit(core, 1, 2, 3), fx.RunSegment), UNSURE)
        assert only(effects, fx.SetTimer) == fx.SetTimer("reconsider m", 0.02)
        core.handle(ev.ReportReceived(report("m", waiting=0, sequence=2)), 0.0)
        assert not of(core.handle(ev.TasksArrived((task(7),), None, 0), 0.0), fx.SendTasks), "not before it is time"
        assert of(core.handle(ev.TimerFired("reconsider m"), 0.02), fx.SendTasks)

    def test_the_transfer_delay_is_a_running_mean_of_what_was_measured(self) -> None:
        core = worker("m", offloading=MdiExitOffloading(first_task="input"))
        sent = only(done(core, only(admit(core, 1, 2, 3), fx.RunSegment), UNSURE), fx.SendTasks)
        core.handle(ev.TasksDelivered("m", sent.transfer_id, 0.05, report("m")), 0.1)
        (neighbour,) = core.neighbours_toward(1)
        assert neighbour.transfer_delay_s == pytest.approx(0.05)

    def test_a_worker_with_nothing_to_compute_takes_its_offers_back(self) -> None:
        core = worker("m", offloading=AS_LISTED)
        core.handle(ev.ReportReceived(report("m", waiting=50)), 0.0)
        run = only(done(core, only(admit(core, 1, 2), fx.RunSegment), UNSURE), fx.RunSegment)
        assert run.tasks[0].key == (2, 0, 1) and core.output.length == 1
        assert only(done(core, run, SURE), fx.RunSegment).tasks[0].key == (1, 0, 2)


class Source:
    """A source as Algorithms 3 and 4 see it."""

    def __init__(self, queue: int, interarrival_s: float = 0.1, thresholds: tuple[float, ...] = (0.8, 0.6)) -> None:
        self.input_queue, self.output_queue, self.first_segment, self.in_flight = queue - queue // 2, queue // 2, 0, 0
        self.memory: tuple[float, ...] = ()
        self.interarrival_s, self.thresholds = interarrival_s, thresholds


class TestAlgorithm3:
    @pytest.mark.parametrize(
        ("queue", "options", "factor"),
        [
            (9, {}, 0.8),  # far from congestion: speed up strongly
            (10, {}, 0.9),  # speed up gently
            (29, {}, 0.9),
            (29, {"middle": "unchanged"}, 1.0),  # variant B
            (30, {}, 1.1),  # congested: slow down
            (30, {"congested": "alpha"}, 1.2),  # variant C
        ],
    )
    def test_the_interarrival_time_follows_the_sources_queues(
        self, queue: int, options: dict[str, Any], factor: float
    ) -> None:
        decision = RateAdaptation(**options).adapt(Source(queue))
        assert decision.interarrival_s == pytest.approx(0.1 * factor)
        assert decision.thresholds == (0.8, 0.6), "the thresholds are fixed"

    def test_the_interarrival_time_stays_within_its_bounds(self) -> None:
        policy = RateAdaptation(interarrival_min_s=0.09, interarrival_max_s=0.105)
        assert policy.adapt(Source(0)).interarrival_s == 0.09
        assert policy.adapt(Source(99)).interarrival_s == 0.105

    def test_the_data_in_flight_may_be_the_signal(self) -> None:
        source = Source(0)
        source.in_flight = 99
        assert RateAdaptation(signal="in_flight").adapt(source).interarrival_s == pytest.approx(0.11)


class TestAlgorithm4:
    @pytest.mark.parametrize(
        ("queue", "options", "factor"),
        [
            (9, {}, 1.2),  # spare capacity: ask for more confidence
            (10, {}, 1.1),
            (29, {"middle": "unchanged"}, 1.0),  # variant B
            (30, {}, 0.9),  # congested: exit earlier
            (30, {"congested": "alpha"}, 0.8),
        ],
    )
    def test_the_thresholds_follow_the_sources_queues(self, queue: int, options: dict[str, Any], factor: float) -> None:
        decision = ThresholdAdaptation(threshold_min=0.1, **options).adapt(Source(queue))
        assert decision.thresholds == pytest.approx((0.8 * factor, 0.6 * factor))
        assert decision.interarrival_s == 0.1, "the rate is fixed"

    def test_the_floor_and_the_cap_hold(self) -> None:
        policy = ThresholdAdaptation(threshold_min=0.57, threshold_max=0.9)
        assert policy.adapt(Source(99)).thresholds == pytest.approx((0.72, 0.57))
        assert policy.adapt(Source(0)).thresholds == pytest.approx((0.9, 0.72))
