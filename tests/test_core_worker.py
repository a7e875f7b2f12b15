"""The rules of WorkerCore that no policy can break, one test each."""

from __future__ import annotations

import pytest

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Limits, Result, Routes, WorkerOptions
from mdi_exit.policies.backpressure import BackPressure
from mdi_exit.policies.offloading import MdiExitOffloading, NeverOffload

from .worlds import EXITS, SURE, UNSURE, admit, done, of, only, report, task, worker

KEEP = NeverOffload()


class TestCustody:
    def test_a_task_whose_segment_is_not_hosted_is_handed_on_whatever_the_policy_wants(self) -> None:
        core = worker("m", hosted=(1,), offloading=KEEP)
        effects = done(core, only(admit(core, 1), fx.RunSegment), UNSURE)
        assert [t.k for t in only(effects, fx.SendTasks).tasks] == [2]

    def test_a_task_that_nobody_else_could_take_waits_to_be_computed(self) -> None:
        core = worker(offloading=MdiExitOffloading())
        admit(core, 1, 2, 3)
        assert (core.input.length, core.output.length) == (2, 0)

    def test_a_task_that_has_wandered_far_is_computed_here(self) -> None:
        core = worker("m", offloading=MdiExitOffloading(), limits=Limits(hops_max=3))
        core.handle(ev.ReportReceived(report("m", waiting=99)), 0.0)
        admit(core, 1, 2)
        core.handle(ev.TasksArrived((task(8, hops=2),), "m", 1), 0.0)
        core.handle(ev.TasksArrived((task(9, hops=3),), "m", 2), 0.0)
        assert (core.input.counts[0], core.output.counts[0]) == (2, 1)

    def test_an_undelivered_task_waits_again_where_it_was_in_line(self) -> None:
        core = worker("m", hosted=(1,), offloading=KEEP, options=WorkerOptions(group_max=1))
        effects = done(core, only(admit(core, 1, 2), fx.RunSegment), UNSURE)
        sent = only(effects, fx.SendTasks)
        done(core, only(effects, fx.RunSegment), UNSURE)
        effects = core.handle(ev.TasksUndelivered("m", sent.transfer_id, "gone"), 1.0)
        assert only(effects, fx.SetTimer).name == "quarantine m" and not of(effects, fx.SendTasks)
        again = only(core.handle(ev.TimerFired("quarantine m"), 2.0), fx.SendTasks)
        assert again.tasks[0].data_id == 1 and again.tasks[0].hops == 1 and again.transfer_id != sent.transfer_id

    def test_a_delivered_task_is_let_go(self) -> None:
        core = worker("m", hosted=(1,), offloading=KEEP)
        sent = only(done(core, only(admit(core, 1), fx.RunSegment), UNSURE), fx.SendTasks)
        assert not core.idle
        effects = core.handle(ev.TasksDelivered("m", sent.transfer_id, 0.01, report("m")), 0.0)
        assert only(effects, fx.DiscardPayloads).keys == ((1, 0, 2),) and core.idle

    def test_a_task_that_comes_round_before_its_acknowledgement_is_kept(self) -> None:
        core = worker("m", hosted=(1,), offloading=KEEP)
        sent = only(done(core, only(admit(core, 1), fx.RunSegment), UNSURE), fx.SendTasks)
        core.handle(ev.TasksArrived((task(1, k=2, hops=2),), "m", 5), 0.0)
        effects = core.handle(ev.TasksDelivered("m", sent.transfer_id, 0.01, report("m")), 0.0)
        assert not of(effects, fx.DiscardPayloads) and only(effects, fx.SendTasks).tasks[0].key == (1, 0, 2)

    def test_two_copies_that_pass_each_other_come_to_rest_at_last(self) -> None:
        """Each is kept because the other came; the links that they crossed are counted, so that hops_max ends it."""
        core = worker("m", hosted=(1,), offloading=KEEP)
        sent = only(done(core, only(admit(core, 1), fx.RunSegment), UNSURE), fx.SendTasks)
        hops = [sent.tasks[0].hops]
        for number in range(3):
            core.handle(ev.TasksArrived((task(1, k=2, hops=hops[-1] + 1),), "m", number), 0.0)
            delivered = ev.TasksDelivered("m", sent.transfer_id, 0.01, report("m", sequence=number + 2))
            sent = only(core.handle(delivered, 0.0), fx.SendTasks)
            hops.append(sent.tasks[0].hops)
        assert hops == [1, 3, 5, 7]

    def test_a_second_delivery_of_a_task_that_waits_here_changes_nothing(self) -> None:
        core = worker("m", offloading=KEEP)
        admit(core, 1, 2)
        effects = core.handle(ev.TasksArrived((task(2),), "m", 5), 0.0)
        assert only(effects, fx.Acknowledge).accepted and not of(effects, fx.DiscardPayloads)
        assert core.input.length == 1

    def test_a_task_that_was_computed_here_is_not_computed_again(self) -> None:
        core = worker("m", offloading=KEEP)
        done(core, only(admit(core, 1), fx.RunSegment), SURE)
        effects = core.handle(ev.TasksArrived((task(1),), "m", 5), 0.0)
        assert only(effects, fx.DiscardPayloads).keys == ((1, 0, 1),) and not of(effects, fx.RunSegment)

    def test_the_tensor_of_a_copy_that_waits_here_is_kept_when_the_datum_exits(self) -> None:
        core = worker("m", offloading=KEEP)
        run = only(admit(core, 1), fx.RunSegment)
        core.handle(ev.TasksArrived((task(1, k=2),), "m", 5), 0.0)
        effects = done(core, run, SURE)
        assert not of(effects, fx.DiscardPayloads) and only(effects, fx.RunSegment).k == 2

    def test_what_was_computed_is_remembered_for_a_bounded_number_of_tasks(self) -> None:
        core = worker("m", offloading=KEEP, limits=Limits(finished_max=2))
        for d in range(3):
            done(core, only(admit(core, d), fx.RunSegment), SURE)
        assert of(core.handle(ev.TasksArrived((task(0),), "m", 5), 0.0), fx.RunSegment)

    def test_a_full_worker_refuses_and_its_sender_keeps_the_tasks(self) -> None:
        full = worker("n2", offloading=KEEP, limits=Limits(waiting_max=1), is_source=False, toward_source=("n2",))
        full.handle(ev.TasksArrived((task(1),), "n2", 1), 0.0)
        effects = full.handle(ev.TasksArrived((task(2),), "n2", 2), 0.0)
        answer = only(effects, fx.Acknowledge)
        assert not answer.accepted and only(effects, fx.DiscardPayloads).keys == ((2, 0, 1),)

        sender = worker("m", hosted=(1,), offloading=KEEP)
        sent = only(done(sender, only(admit(sender, 2), fx.RunSegment), UNSURE), fx.SendTasks)
        effects = sender.handle(ev.TasksRefused("m", sent.transfer_id, report("m")), 0.0)
        assert not of(effects, fx.DiscardPayloads) and not sender.idle

    def test_a_failed_segment_is_reported_as_a_result_without_a_prediction(self) -> None:
        core = worker("m", is_source=False, toward_source=("m",), offloading=KEEP)
        run = only(core.handle(ev.TasksArrived((task(1),), "m", 1), 0.0), fx.RunSegment)
        effects = core.handle(ev.SegmentFailed(1, run.tasks, "shape (3,) is not a feature of segment 1"), 0.0)
        assert only(effects, fx.SendResults).results == (
            Result(1, 0, 1, -1, 0.0, "shape (3,) is not a feature of segment 1"),
        )
        assert core.idle


class TestGroups:
    def test_tasks_of_one_segment_run_and_survivors_of_an_exit_travel_together(self) -> None:
        core = worker("m", hosted=(1,), offloading=KEEP, options=WorkerOptions(group_max=4, group_s=1.0))
        run = only(admit(core, 0, 1, 2, 3, 4), fx.RunSegment)
        assert len(run.tasks) == 1, "an idle worker starts at once with what it has"
        run = only(done(core, run, SURE), fx.RunSegment)
        assert [t.data_id for t in run.tasks] == [1, 2, 3, 4]
        readings = (UNSURE, SURE, UNSURE, SURE)
        effects = core.handle(ev.SegmentDone(1, run.tasks, readings, 500, 0.1), 0.0)
        assert [t.key for t in only(effects, fx.SendTasks).tasks] == [(1, 0, 2), (3, 0, 2)]
        assert [r.data_id for r in only(effects, fx.DeliverResults).results] == [2, 4]

    @pytest.mark.parametrize(("took_s", "tasks"), [(0.001, 5), (0.02, 3), (0.03, 2), (1.0, 1)])
    def test_a_group_is_no_larger_than_can_be_computed_in_time(self, took_s: float, tasks: int) -> None:
        core = worker("m", hosted=(1,), offloading=KEEP, options=WorkerOptions(group_max=5, group_s=0.0625))
        run = only(admit(core, *range(9)), fx.RunSegment)
        effects = core.handle(ev.SegmentDone(1, run.tasks, (SURE,), 500, took_s), 0.0)
        assert len(only(effects, fx.RunSegment).tasks) == tasks

    def test_a_group_handed_over_is_no_larger_than_evens_out_the_queues(self) -> None:
        core = worker("m", offloading=BackPressure(), options=WorkerOptions(group_max=8, link_window=4))
        sent = of(core.handle(ev.TasksArrived(tuple(map(task, range(8))), None, 0), 0.0), fx.SendTasks)
        assert [len(each.tasks) for each in sent] == [4, 1]

    @pytest.mark.parametrize(("waiting", "sent"), [(0, 4), (3, 3), (4, 0)])
    def test_part_of_a_group_goes_only_to_who_has_no_group_to_compute(self, waiting: int, sent: int) -> None:
        core = worker("m", offloading=BackPressure(), options=WorkerOptions(group_max=4, group_s=1.0))
        core.handle(ev.ReportReceived(report("m", waiting=waiting)), 0.0)
        effects = core.handle(ev.TasksArrived(tuple(map(task, range(9))), None, 0), 0.0)
        assert [len(each.tasks) for each in of(effects, fx.SendTasks)] == [sent] * bool(sent)
        if not sent:
            effects = core.handle(ev.ReportReceived(report("m", waiting=0, sequence=2)), 0.0)
            assert len(only(effects, fx.SendTasks).tasks) == 3, "of five, as four are being computed"

    def test_what_is_not_worth_a_message_keeps_no_link_from_what_must_go(self) -> None:
        core = worker("m", hosted=(1, 2), offloading=BackPressure(), options=WorkerOptions(group_max=4, group_s=1.0))
        core.handle(ev.ReportReceived(report("m", waiting=4)), 0.0)
        core.handle(ev.TasksArrived(tuple(map(task, range(9))), None, 0), 0.0)
        effects = core.handle(ev.TasksArrived((task(20, k=3),), "m", 1), 0.0)
        assert [each.k for each in only(effects, fx.SendTasks).tasks] == [3]

    def test_free_links_get_a_group_each_before_one_gets_two(self) -> None:
        core = worker("a", "b", offloading=BackPressure(), options=WorkerOptions(link_window=4))
        effects = core.handle(ev.TasksArrived(tuple(map(task, range(9))), None, 0), 0.0)
        assert [each.to for each in of(effects, fx.SendTasks)[:4]] == ["a", "b", "a", "b"]

    def test_no_more_groups_are_under_way_on_a_link_than_its_window(self) -> None:
        core = worker("m", hosted=(2,), offloading=KEEP, options=WorkerOptions(link_window=2))
        assert len(of(admit(core, 1, 2, 3), fx.SendTasks)) == 2 and core.output.length == 1


class TestResults:
    def test_results_of_others_are_relayed_towards_the_source(self) -> None:
        core = worker("m", "s", is_source=False, toward_source=("s",))
        result = Result(1, 0, 2, 5, 0.9)
        assert core.handle(ev.ResultsArrived((result,)), 0.0) == [fx.SendResults("s", (result,))]

    def test_a_result_takes_another_way_when_the_first_is_broken_and_waits_when_all_are(self) -> None:
        core = worker("m", "s", is_source=False, toward_source=("s", "m"))
        result = Result(1, 0, 2, 5, 0.9)
        effects = core.handle(ev.ResultsUndelivered("s", (result,)), 0.0)
        assert only(effects, fx.SendResults).to == "m"
        assert not of(core.handle(ev.ResultsUndelivered("m", (result,)), 0.0), fx.SendResults) and not core.idle
        assert only(core.handle(ev.TimerFired("quarantine s"), 1.0), fx.SendResults).to == "s" and core.idle

    def test_results_waiting_for_a_route_are_bounded(self) -> None:
        core = worker("m", is_source=False, limits=Limits(results_max=3))
        core.handle(ev.ResultsArrived(tuple(Result(d, 0, 1, 0, 0.9) for d in range(5))), 0.0)
        effects = core.handle(ev.RoutesChanged(Routes(1, ((),) * EXITS, ("m",), (), ("m",), ())), 0.0)
        assert [r.data_id for r in only(effects, fx.SendResults).results] == [2, 3, 4]


class TestThresholds:
    def test_new_thresholds_spread_to_all_but_their_sender(self) -> None:
        core = worker("m", "o", "p")
        effects = core.handle(ev.ThresholdsReceived(3, (0.5, 0.5), "m"), 0.0)
        assert [e.to for e in of(effects, fx.SendThresholds)] == ["o", "p"] and core.threshold(1) == 0.5

    def test_old_thresholds_are_ignored(self) -> None:
        core = worker("m", "o")
        core.handle(ev.ThresholdsReceived(3, (0.5, 0.5), "m"), 0.0)
        assert core.handle(ev.ThresholdsReceived(2, (0.9, 0.9), "m"), 0.0) == [] and core.threshold(1) == 0.5

    def test_a_neighbour_that_missed_them_is_told_again_when_it_reports(self) -> None:
        core = worker("m")
        core.handle(ev.ThresholdsReceived(3, (0.5, 0.5), None), 0.0)
        effects = core.handle(ev.ReportReceived(report("m", version=2)), 0.0)
        assert only(effects, fx.SendThresholds) == fx.SendThresholds("m", 3, (0.5, 0.5))


class TestNeighbours:
    def test_an_older_report_is_ignored(self) -> None:
        core = worker("m")
        core.handle(ev.ReportReceived(report("m", waiting=5, sequence=2)), 0.0)
        core.handle(ev.ReportReceived(report("m", waiting=1, sequence=1)), 0.0)
        assert core.neighbours_toward(1)[0].input_queue == 5

    def test_what_was_under_way_to_a_neighbour_that_left_waits_again(self) -> None:
        core = worker("m", hosted=(1,), offloading=KEEP)
        done(core, only(admit(core, 1), fx.RunSegment), UNSURE)
        core.handle(ev.RoutesChanged(Routes(1, (("o",),) * EXITS, (), ("o",), ("o",), ())), 0.0)
        assert core.neighbours_toward(2)[0].name == "o"
        late = ev.TasksDelivered("m", 1, 0.01, report("m"))
        assert core.handle(late, 0.0) == [], "an answer of somebody who left means nothing"
        assert core.neighbours_toward(2)[0].input_queue == 1, "the task is on its way to the other one"

    def test_old_routes_are_ignored(self) -> None:
        core = worker("m")
        core.handle(ev.RoutesChanged(Routes(0, ((),) * EXITS, (), (), (), ())), 0.0)
        assert [m.name for m in core.neighbours_toward(1)] == ["m"]

    def test_quarantine_doubles_up_to_its_bound_and_ends_with_a_delivery(self) -> None:
        limits = Limits(quarantine_s=1.0, quarantine_max_s=3.0)
        core = worker("m", hosted=(2,), offloading=KEEP, limits=limits)
        sent = only(admit(core, 1), fx.SendTasks)
        delays_s = []
        for _ in range(3):
            effects = core.handle(ev.TasksUndelivered("m", sent.transfer_id, "lost"), 0.0)
            delays_s.append(only(effects, fx.SetTimer).delay_s)
            sent = only(core.handle(ev.TimerFired("quarantine m"), 0.0), fx.SendTasks)
        core.handle(ev.TasksDelivered("m", sent.transfer_id, 0.1, report("m")), 0.0)
        sent = only(admit(core, 2), fx.SendTasks)
        effects = core.handle(ev.TasksUndelivered("m", sent.transfer_id, "lost"), 0.0)
        assert [*delays_s, only(effects, fx.SetTimer).delay_s] == [1.0, 2.0, 3.0, 1.0]

    def test_gossip_goes_out_when_something_changed_and_now_and_then_anyway(self) -> None:
        core = worker("m", offloading=KEEP)
        ticks = [bool(of(core.handle(ev.TimerFired("gossip"), 0.0), fx.SendReport)) for _ in range(40)]
        assert ticks[0] and sum(ticks) == 3, "the first, and two heartbeats"
        admit(core, 1, 2)
        sent = only(core.handle(ev.TimerFired("gossip"), 0.0), fx.SendReport)
        assert sent.to == "m" and sent.report.waiting == (1, 0, 0)

    @pytest.mark.parametrize(("tasks", "told"), [(7, []), (8, [4]), (9, [4]), (20, [10, 5])])
    def test_who_believes_in_twice_what_waits_here_is_told_between_times(self, tasks: int, told: list[int]) -> None:
        core = worker("m", "o", offloading=KEEP, options=WorkerOptions(group_max=1))
        effects = core.handle(ev.TasksArrived(tuple(task(i) for i in range(tasks)), "m", 1), 0.0)
        assert sum(only(effects, fx.Acknowledge).report.waiting) == tasks
        reports: list[fx.SendReport] = []
        while runs := of(effects, fx.RunSegment):
            reports += of(effects, fx.SendReport)
            effects = done(core, runs[0], SURE)
        assert [(each.to, sum(each.report.waiting)) for each in reports] == [("m", n) for n in told], "o knows of none"

    def test_a_queue_that_empties_by_hand_overs_is_told_between_times_too(self) -> None:
        core = worker("m", hosted=(1,), offloading=KEEP, options=WorkerOptions(group_max=16, link_window=1))
        sent = only(core.handle(ev.TasksArrived((task(99, k=2),), "m", 1), 0.0), fx.SendTasks)
        effects = core.handle(ev.TasksArrived(tuple(task(i, k=2) for i in range(9)), "m", 3), 0.0)
        assert sum(only(effects, fx.Acknowledge).report.output) == 9 and not of(effects, fx.SendReport)
        effects = core.handle(ev.TasksDelivered("m", sent.transfer_id, 0.01, report("m")), 0.0)
        assert len(only(effects, fx.SendTasks).tasks) == 9
        assert sum(only(effects, fx.SendReport).report.output) == 0

    def test_what_only_an_acknowledgement_told_is_put_right_by_gossip(self) -> None:
        core = worker("m", offloading=KEEP)
        assert of(core.handle(ev.TimerFired("gossip"), 0.0), fx.SendReport)
        run = only(core.handle(ev.TasksArrived((task(1), task(2)), "m", 1), 0.0), fx.RunSegment)
        done(core, only(done(core, run, SURE), fx.RunSegment), SURE)
        assert sum(only(core.handle(ev.TimerFired("gossip"), 0.0), fx.SendReport).report.waiting) == 0
        assert not of(core.handle(ev.TimerFired("gossip"), 0.0), fx.SendReport)

    def test_what_gossip_has_told_is_not_told_again_between_times(self) -> None:
        core = worker("m", offloading=KEEP, options=WorkerOptions(group_max=1))
        run = only(core.handle(ev.TasksArrived(tuple(task(i) for i in range(20)), "m", 1), 0.0), fx.RunSegment)
        for _ in range(9):
            run = only(done(core, run, SURE), fx.RunSegment)
        assert sum(only(core.handle(ev.TimerFired("gossip"), 0.0), fx.SendReport).report.waiting) == 10
        for left in range(9, 5, -1):
            effects = done(core, run, SURE)
            assert not of(effects, fx.SendReport) and sum(core.backlogs) == left
            run = only(effects, fx.RunSegment)
        assert sum(only(done(core, run, SURE), fx.SendReport).report.waiting) == 5
