"""Exit rules that offload, remember and learn, live: what a worker does of them, and that learning is the replay's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdi_exit import assembly, journal
from mdi_exit.analysis.calibrated import Logits, decide
from mdi_exit.cli.remarks import remarks
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Arrival, ExitReading, Result, Routes, Side, Task, Verdict
from mdi_exit.core.views import ExitDecision
from mdi_exit.core.worker import WorkerCore
from mdi_exit.journal import Step
from mdi_exit.policies.bandit import AdaEE, Bandit, SplitEE, SplitEES, replay
from mdi_exit.policies.exit import CalibratedOffloading
from mdi_exit.policies.learned import LearnedSplit, LearnedThreshold
from mdi_exit.policies.offloading import OffloadByExit
from mdi_exit.policies.splitting import Setting
from mdi_exit.report import build_report
from mdi_exit.simulation.run import simulate
from mdi_exit.trace import ExitTrace
from mdi_exit.yamlfile import ConfigError

from .recorded import TRACE
from .worlds import admit, done, of, only, report, task, worker

LEAVE, GO_ON, OFFLOAD = ExitDecision.LEAVE, ExitDecision.GO_ON, ExitDecision.OFFLOAD


@dataclass
class View:
    """Four exits, one target."""

    exits: int = 4

    def threshold(self, k: int) -> float:
        assert 1 <= k < self.exits
        return 0.8

    backlogs: tuple[int, ...] = (0, 0, 0, 0)


def said(confidence: float, prediction: int = 7) -> ExitReading:
    return ExitReading(confidence, prediction, 0.0)


def at(k: int, *seen: Verdict, arm: int = 0) -> Task:
    return Task(0, 0, k, 1000, 0, arm, seen)


# ---- calibrated offloading (papers.md 3.2)


@pytest.mark.parametrize(
    ("k", "confidence", "then"),
    [(1, 0.8, LEAVE), (1, 0.79, GO_ON), (2, 0.8, LEAVE), (2, 0.79, OFFLOAD), (3, 0.99, GO_ON)],
)
def test_the_device_answers_from_the_target_on_and_the_far_side_runs_to_the_end(
    k: int, confidence: float, then: ExitDecision
) -> None:
    assert CalibratedOffloading(edge=2).decide(at(k), said(confidence), View()) is then


def test_the_most_confident_verdict_so_far_goes_along_and_of_equals_the_first() -> None:
    rule, view = CalibratedOffloading(edge=2), View()
    first = rule.remember(at(1), said(0.6, 1), view)
    assert first == (Verdict(1, 1, 0.6),)
    assert rule.remember(at(2, *first), said(0.6, 2), view) == first
    assert rule.remember(at(2, *first), said(0.7, 2), view) == (Verdict(2, 2, 0.7),)


def test_the_last_exit_answers_from_the_target_on_and_below_it_the_most_confident_of_all() -> None:
    rule, view = CalibratedOffloading(edge=2), View()
    surest = Verdict(3, 3, 0.95)
    assert rule.remember(at(4, surest), said(0.8, 4), view) == (Verdict(4, 4, 0.8),)
    assert rule.remember(at(4, surest), said(0.79, 4), view) == (surest,)


# ---- SplitEE and AdaEE


def test_a_datum_goes_on_to_its_cut_and_leaves_there_or_is_offloaded() -> None:
    rule, view = LearnedSplit(threshold=0.7), View()
    found = [rule.decide(at(k, arm=2), said(confidence), view) for k in (1, 2, 3) for confidence in (0.7, 0.69)]
    assert found == [GO_ON, GO_ON, LEAVE, OFFLOAD, GO_ON, GO_ON]


def test_splitee_looks_at_the_exit_at_the_cut_and_splitee_s_at_all_up_to_it() -> None:
    one, every, view = LearnedSplit(), LearnedSplit(observe="all"), View()
    for rule, looked_at in ((one, [2, 4]), (every, [1, 2, 4])):
        seen: tuple[Verdict, ...] = ()
        for k in range(1, 5):
            seen = rule.remember(at(k, *seen, arm=2), said(k / 10), view)
        assert seen == tuple(Verdict(k, 7, k / 10) for k in looked_at)


def test_adaee_s_arm_is_the_threshold_at_the_branch() -> None:
    rule, view = LearnedThreshold(branch=2, thresholds=(0.5, 0.9)), View()
    assert [rule.decide(at(2, arm=arm), said(0.6), view) for arm in (1, 2)] == [LEAVE, OFFLOAD]
    assert rule.decide(at(1, arm=1), said(1.0), view) is GO_ON


@pytest.mark.parametrize(("final", "answers"), [(0.85, 4), (0.95, 4), (0.2, 2)])
def test_when_neither_is_confident_the_more_confident_answers_in_adaee(final: float, answers: int) -> None:
    rule, at_branch = LearnedThreshold(branch=2, thresholds=(0.9,)), Verdict(2, 1, 0.6)
    seen = rule.remember(at(4, at_branch, arm=1), said(final), View())
    assert seen[-1].k == answers and {verdict.k for verdict in seen} == {2, 4}


def test_an_arm_nobody_knows_of_does_no_harm() -> None:
    assert LearnedThreshold(branch=2).decide(at(2, arm=99), said(0.5), View()) is OFFLOAD
    assert LearnedSplit().decide(at(2, arm=99), said(0.5), View()) is GO_ON


def test_the_reward_is_the_setting_s() -> None:
    rule = LearnedSplit(layer_cost=0.1, offload_cost=0.5, threshold=0.7, exit_share=0.0)
    state = rule.begin(3)
    left = Result(0, 0, 1, 7, 0.75, None, (Verdict(1, 7, 0.75),))
    offloaded = Result(1, 0, 3, 7, 0.95, None, (Verdict(2, 7, 0.6), Verdict(3, 7, 0.95)))
    assert rule.learn(state, 1, left) == pytest.approx((0.1, 0.75 - 0.1))
    assert rule.learn(state, 2, offloaded) == pytest.approx((0.2 + 0.5, 0.95 - 0.5 - 0.2))
    assert state.bandit.plays == [1, 1, 0] and state.bandit.sums == pytest.approx([0.65, 0.25, 0.0])


def test_arms_of_which_nothing_was_heard_take_turns() -> None:
    rule = LearnedSplit()
    state = rule.begin(3)
    assert [rule.choose(state) for _ in range(4)] == [1, 2, 3, 1]
    rule.learn(state, 2, Result(0, 0, 2, 7, 0.9, None, (Verdict(2, 7, 0.9),)))
    assert [rule.choose(state) for _ in range(3)] == [3, 1, 3], "only those are left to be heard of"


# ---- in a worker


def device(exit_policy: Any, **options: Any) -> WorkerCore:
    """Worker "n" beside "m", both with everything, whose exit rule this is."""
    core = worker("m", offloading=OffloadByExit(), **options)
    core._exit_policy = exit_policy
    return core


def test_what_is_offloaded_is_sent_with_its_arm_and_verdicts_also_from_an_idle_worker() -> None:
    core = device(LearnedSplit(observe="all"))
    run = only(core.handle(ev.TasksArrived((Task(0, 0, 1, 1000, 0, 1),), None, 0), 0.0), fx.RunSegment)
    effects = done(core, run, said(0.6))
    assert only(effects, fx.SendTasks).tasks == (Task(0, 0, 2, 500, 1, 1, (Verdict(1, 7, 0.6),)),)
    refused = core.handle(ev.TasksRefused("m", 1, report("m")), 0.0)
    assert not of(refused, fx.RunSegment) and core.output.length == 1, "the device computes nothing beyond the cut"
    assert only(core.handle(ev.TimerFired("quarantine m"), 1.0), fx.SendTasks).transfer_id == 2


def test_without_a_neighbour_that_could_take_it_the_device_goes_on_itself() -> None:
    core = device(LearnedSplit())
    run = only(core.handle(ev.TasksArrived((Task(0, 0, 1, 1000, 0, 1),), None, 0), 0.0), fx.RunSegment)
    done(core, run, said(0.6))
    core.handle(ev.TasksRefused("m", 1, report("m")), 0.0)
    alone = core.handle(ev.RoutesChanged(Routes(1, ((), (), ()), (), (), (), ())), 0.0)
    assert only(alone, fx.RunSegment).k == 2


def test_a_result_answers_with_an_earlier_verdict_and_says_where_the_datum_left() -> None:
    core = device(CalibratedOffloading(edge=1), is_source=False, toward_source=("m",))
    earlier = Verdict(1, 3, 0.7)
    (run,) = of(core.handle(ev.TasksArrived((Task(0, 0, 3, 1000, 1, 0, (earlier,)),), "m", 1), 0.0), fx.RunSegment)
    assert only(done(core, run, said(0.6)), fx.SendResults).results == (Result(0, 0, 3, 3, 0.7, None, (earlier,)),)


def test_the_paper_s_rule_sends_neither_arm_nor_verdicts() -> None:
    core = worker()
    run = only(admit(core, 0), fx.RunSegment)
    assert only(done(core, run, said(0.99)), fx.DeliverResults).results == (Result(0, 0, 1, 7, 0.99),)


def test_received_tasks_stay_and_returned_ones_wait_for_the_link_again() -> None:
    rule, core = OffloadByExit(), worker("m")
    sides = {arrival: rule.place(core, task(), arrival, random.Random(0)) for arrival in Arrival}
    assert {arrival for arrival, side in sides.items() if side is Side.OUTPUT} == {Arrival.OFFLOADED, Arrival.RETURNED}


# ---- simulated, beside the offline evaluations

ONE_AT_A_TIME: Mapping[str, Any] = {
    "admission": {"rule": "fill_queue", "queue_target": 1},
    "arrivals": None,
    "limits.in_flight_max": 1,
    "data_max": 400,
}
DEPTHS = (4.0, 7.0, 11.0, 14.0, 19.0)
SETTING = Setting(DEPTHS, threshold=0.85, offload_cost=0.5, exit_share=0.0)


def completed(experiment: Experiment) -> tuple[list[fx.Complete], dict[str, Any]]:
    """Each datum's end, in the order they were admitted, and the report."""
    steps: list[Step] = []
    card = assembly.load_card(experiment)
    record = simulate(experiment, card, TRACE, observe=steps.append)
    found = [effect for step in steps for effect in step.effects if isinstance(effect, fx.Complete)]
    report = build_report(experiment, record.card, record.tallies, record.facts, "test", "simulation")
    assert report["completed"] == report["offered"] == len(found) > 0
    return sorted(found, key=lambda end: end.data_id), report


def order_of(experiment: Experiment, count: int) -> list[int]:
    return [assembly.datum_index(experiment, data_id, len(TRACE)) for data_id in range(count)]


@pytest.mark.parametrize(
    ("example", "changes", "algorithm", "setting"),
    [
        ("splitee", {}, SplitEE(), SETTING),
        ("splitee", {"exit.observe": "all"}, SplitEES(unseen="last_seen"), SETTING),
        (
            "splitee",
            {"exit.observe": "all", "exit.unseen": "skip", "exit.c": 0.3},
            SplitEES(0.3, unseen="skip"),
            SETTING,
        ),
        ("adaee", {}, AdaEE(branch=2), Setting((1.0, 2.0, 3.0, 4.0, 5.0), offload_cost=0.1)),
    ],
    ids=["splitee", "splitee-s", "splitee-s, skipping", "adaee"],
)
def test_with_one_datum_in_flight_arms_rewards_and_answers_are_those_of_the_replay(
    example: str, changes: dict[str, Any], algorithm: Bandit, setting: Setting
) -> None:
    experiment = load_experiment(example, {**ONE_AT_A_TIME, **changes})
    ends, report = completed(experiment)
    order = order_of(experiment, len(ends))
    offline = replay(algorithm, TRACE.confidence.tolist(), None, setting, random.Random(0), order)
    assert [end.arm for end in ends] == [play.arm for play in offline.plays]
    assert [end.reward for end in ends] == [play.reward for play in offline.plays]
    assert [end.cost for end in ends] == [play.cost for play in offline.plays]
    assert [end.prediction for end in ends] == [
        TRACE.prediction[row, play.exit - 1] for row, play in zip(order, offline.plays, strict=True)
    ]
    split = report["split"]
    assert offline.state is not None and len(ends) == sum(split["arms"]) == 400
    assert split["cost"] == pytest.approx(offline.cost * 400) and split["reward"] == pytest.approx(offline.reward * 400)
    assert report["edge_share"] == sum(not p.offloaded for p in offline.plays) / 400
    assert split["cost_lambda"] == pytest.approx(10 * split["cost"])


def test_the_cut_follows_the_arms_and_the_server_goes_on_from_there() -> None:
    ends, report = completed(load_experiment("splitee", {"data_max": 300}))
    arms = [sum(end.arm == arm for end in ends) for arm in range(1, 6)]
    assert report["split"]["arms"] == arms and min(arms) > 0, "with several in flight too every arm was tried"
    assert report["split"]["mean_cut"] == pytest.approx(sum(k * n for k, n in enumerate(arms, 1)) / 300)
    device, server = report["workers"]["n1"], report["workers"]["n2"]
    assert device["segments"] == [sum(arms[k:]) for k in range(5)], "the device computes up to the cut, and no further"
    offloaded = [end for end in ends if end.k == 5 and end.arm < 5]
    assert server["segments"] == [sum(end.arm < k for end in offloaded) for k in range(1, 6)]
    assert all(end.k in (end.arm, 5) for end in ends)
    told = [line for line in remarks(report) if line.startswith(("Answered", "Chosen"))]
    assert len(told) == 2 and ", ".join(f"{arm} for {count}" for arm, count in enumerate(arms, 1)) in told[1]


def test_calibrated_offloading_decides_as_on_recorded_logits() -> None:
    experiment = load_experiment("calibrated-offloading", {"data_max": 500, "duration_s": 60})
    ends, report = completed(experiment)
    used = order_of(experiment, len(ends))
    offline = decide(_logits(TRACE.rows(used)), (1.0,) * 5, edge=2, target=0.9)
    assert report["edge_share"] == offline.edge_share and report["accuracy"] == offline.accuracy
    assert [end.k - 1 if end.k <= 2 else 2 for end in ends] == offline.branch.tolist()
    assert 0 < report["earlier_verdicts"] < report["exits"][4] and report["split"] is None


def _logits(trace: ExitTrace) -> Logits:
    """Two classes' worth of logits whose softmax has the trace's confidences, in double precision where it matters."""
    confidence = np.log(np.clip(trace.confidence.astype(np.float64), 1e-12, 1))
    rest = np.log(np.clip(1 - trace.confidence.astype(np.float64), 1e-12, 1) / 9)
    logits = np.repeat(rest.T[:, :, np.newaxis], 10, axis=2)
    np.put_along_axis(logits, trace.prediction.T[:, :, np.newaxis].astype(np.int64), confidence.T[:, :, np.newaxis], 2)
    return Logits(logits, trace.label.astype(np.int64))


# ---- experiment files

NO_SERVER = "placement: the exit rule cuts anywhere, so n1 must host all and another worker segments 2 to 5"


@pytest.mark.parametrize(
    ("example", "changes", "says"),
    [
        ("calibrated-offloading", {"exit.edge": 5}, r"exit\.edge: is 5; allowed: 1 to 4, an exit before the last$"),
        ("calibrated-offloading", {"exit.edge": 0}, r"exit\.edge: is 0, but edge must be 1 or more"),
        ("splitee", {"exit.depths": [1, 2]}, r"exit\.depths: has 2 entries; allowed: 5, one per exit"),
        ("splitee", {"exit.depths": [1, 2, 3, 3, 4]}, r"exit\.depths: are .*; allowed: 2 or more, growing"),
        ("splitee", {"exit.threshold": 1.5}, r"exit\.threshold: is 1\.5; allowed: 0 to 1$"),
        ("splitee", {"exit.exit_share": 2}, r"exit\.exit_share: is 2; allowed: 0 to 1$"),
        ("splitee", {"exit.offload_cost": -1}, r"exit\.offload_cost: is -1; allowed: a number of 0 or more$"),
        ("splitee", {"exit.c": -1}, r"exit\.c: is -1"),
        ("splitee", {"exit.observe": "some"}, "'cut' or 'all'"),
        (
            "splitee",
            {"offloading": "never"},
            "offloading: would move the cut .*; allowed: by_exit",
        ),
        (
            "splitee",
            {"topology": "local", "devices": "jetson-nano"},
            NO_SERVER,
        ),
        ("splitee", {"placement": {"n1": "1-4", "n2": "2-5"}}, NO_SERVER),
        ("adaee", {"exit.branch": 5}, r"exit\.branch: is 5; allowed: 1 to 4, an exit before the last"),
        ("adaee", {"exit.thresholds": []}, r"exit\.thresholds: are \(\); allowed: 1 or more, each 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(example: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        load_experiment(example, changes)
    assert "\n" not in str(refused.value)


def test_a_learned_run_replays_from_its_journal(tmp_path: Path) -> None:
    experiment = load_experiment("splitee", {"data_max": 60, "exit.observe": "all"})
    card = assembly.load_card(experiment)
    with journal.JournalFolder(tmp_path, experiment) as folder:
        simulate(experiment, card, TRACE, observe=folder)
    for path in journal.journals(tmp_path):
        assert (difference := journal.replay(path, experiment, card)) is None, difference
