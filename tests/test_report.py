"""Tallies and reports: every figure held against a second way to get it, and nothing that can grow without a bound."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdi_exit.analysis.plots import interval
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Outcome, Task
from mdi_exit.errors import UserError
from mdi_exit.journal import Step
from mdi_exit.jsonfile import read_json, rounded, write_json
from mdi_exit.report import NO_OUTCOME, build_report, read_report, write_report
from mdi_exit.report_nodes import WorkerFacts
from mdi_exit.tally import NodeTally

from .recorded import Recorded, record


def words(text: str) -> list[str]:
    return text.split()


# Section 7 of the design: other programs rely on these.
KEYS = words(
    """schema command seed model dataset topology runtime policies duration_s offered admitted shed completed lost
duplicates failed accuracy accuracy_offered throughput_per_s latency_s exits exit_accuracy threshold interarrival_s
workers links series machine edge_share earlier_verdicts split"""
)
WORKER_KEYS = words(
    """slice processed offloaded received input_queue_mean output_queue_mean compute_delay_s utilization
bytes_sent rss_bytes pace_missed"""
)
NESTED_KEYS = {
    "policies": ["exit", "offloading", "admission"],
    "latency_s": ["p50", "p95", "p99"],
    "threshold": ["final", "mean"],
    "interarrival_s": ["final", "mean"],
    "series": ["time_s", "interarrival_s", "threshold", "input_queue", "output_queue", "throughput_per_s"],
    "machine": ["cpu", "cores", "python", "ray", "torch"],
}


@pytest.fixture(scope="module")
def run() -> Recorded:
    return record("find-rate", until_s=8.0)


@pytest.fixture(scope="module")
def flooded() -> Recorded:
    """Far more than can be answered arrives: some are shed, some are still under way when the drain ends."""
    changes: dict[str, Any] = {"admission.queue_max": 40, "admission.queue_high": 20, "thresholds": 1.0}
    return record("find-threshold", until_s=4.0, drain_s=0.1, arrivals__rate_per_s=400, **changes)


def completions(run: Recorded) -> list[tuple[float, fx.Complete]]:
    return [(s.now, e) for s in run.steps for e in s.effects if isinstance(e, fx.Complete)]


def test_the_report_has_every_key_of_the_contract(run: Recorded) -> None:
    report = run.report()
    assert not set(KEYS) - set(report)
    for key, inner in NESTED_KEYS.items():
        assert not set(inner) - set(report[key]), key
    for row in report["workers"].values():
        assert not set(WORKER_KEYS) - set(row)
    for row in report["links"].values():
        assert not {"bytes", "tasks", "transfer_delay_s"} - set(row)
    assert set(report["workers"]) == {"n1", "n2", "n3"} and set(report["links"]) == {"n1-n2", "n1-n3", "n2-n3"}
    assert report["policies"] == {"exit": "threshold", "offloading": "mdi_exit", "admission": "rate_adaptation"}


def test_data_are_counted_as_the_controller_closed_them(run: Recorded) -> None:
    report, done = run.report(), completions(run)
    assert report["offered"] == report["admitted"] == report["completed"] == len(done) > 200
    assert report["lost"] == report["shed"] == report["failed"] == 0 and report["reasons"] == {}
    assert report["exits"] == [sum(e.k == k for _, e in done) for k in range(1, 6)]
    right = [run.label_of(e.data_id) == e.prediction for _, e in done]
    assert report["accuracy"] == pytest.approx(sum(right) / len(right), rel=1e-5)
    for k, accuracy in enumerate(report["exit_accuracy"], 1):
        left = [correct for correct, (_, e) in zip(right, done, strict=True) if e.k == k]
        assert accuracy == pytest.approx(sum(left) / len(left), rel=1e-5)


def test_the_drain_is_no_part_of_the_throughput(run: Recorded) -> None:
    report = run.report()
    within = [now for now, _ in completions(run) if now <= 8.0]
    assert report["duration_s"] == 8.0 and 0 < len(within) < report["completed"]
    assert report["throughput_per_s"] == pytest.approx(len(within) / 8.0, rel=1e-5)
    assert report["drain_s"] == pytest.approx(completions(run)[-1][0] - 8.0, rel=1e-5)
    half = [now for now in within if now > 4.0]
    assert report["steady"]["throughput_per_s"] == pytest.approx(len(half) / 4.0, rel=0.02)


def test_latencies_are_those_of_the_completed(run: Recorded) -> None:
    ordered, found = sorted(e.latency_s for _, e in completions(run)), run.report()["latency_s"]
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        below = sum(value <= found[name] for value in ordered) / len(ordered)
        assert below == pytest.approx(share, abs=2 / len(ordered))
    assert found["mean"] == pytest.approx(sum(ordered) / len(ordered), rel=1e-5)


def test_the_series_tell_what_was_really_offered_and_how_long_it_took() -> None:
    run = record("bursty", until_s=8.0)
    report, done = run.report(), completions(run)
    series, width_s = report["series"], report["series"]["time_s"][1]
    offered = [value or 0.0 for value in series["offered_per_s"]]
    assert sum(offered) * width_s == pytest.approx(report["offered"], rel=1e-4)
    assert max(offered) > 2 * report["offered"] / 8.0, "no burst is seen"
    for place, mean_s in enumerate(series["latency_s"]):
        within = [e.latency_s for now, e in done if place * width_s <= now < (place + 1) * width_s]
        assert mean_s == (pytest.approx(sum(within) / len(within), rel=1e-4) if within else None)
    later = sum(value * width_s for at_s, value in zip(series["time_s"], offered, strict=True) if 4.0 <= at_s < 8.0)
    assert report["steady"]["offered_per_s"] == pytest.approx(later / 4.0, rel=1e-4)


def test_tasks_add_up_between_workers_and_links(run: Recorded) -> None:
    report = run.report()
    rows = report["workers"].values()
    computed = Counter(s.event.k for s in run.steps if isinstance(s.event, ev.SegmentDone) for _ in s.event.tasks)
    for k in range(1, 6):
        assert sum(row["segments"][k - 1] for row in rows) == computed[k]
        assert computed[k] == sum(report["exits"][k - 1 :])  # nothing was lost, so nothing was computed twice
    assert all(row["processed"] == sum(row["segments"]) for row in rows)
    handed = sum(row["offloaded"] for row in rows)
    assert handed == sum(row["received"] for row in rows) == sum(link["tasks"] for link in report["links"].values()) > 0


def test_links_count_what_was_acknowledged(run: Recorded) -> None:
    sent = {(s.node, e.to, e.transfer_id): e.tasks for s in run.steps for e in s.effects if isinstance(e, fx.SendTasks)}
    tasks: Counter[str] = Counter()
    size_bytes: Counter[str] = Counter()
    for step in run.steps:
        if isinstance(step.event, ev.TasksDelivered):
            label = "-".join(sorted((step.node, step.event.neighbour)))
            group = sent[step.node, step.event.neighbour, step.event.transfer_id]
            tasks[label] += len(group)
            size_bytes[label] += sum(task.payload_bytes for task in group)
    for label, row in run.report()["links"].items():
        assert (row["tasks"], row["bytes"]) == (tasks[label], size_bytes[label])
        assert 0.004 < row["transfer_delay_s"] < 0.1  # both ways' latency, and what 20 Mbit/s needs


def test_queue_means_follow_littles_law(run: Recorded) -> None:
    """Integral of a queue's length = sum of what its tasks waited: the tally's means, counted the other way round."""
    waited_s = dict.fromkeys(run.experiment.topology.workers, 0.0)
    since: dict[tuple[str, tuple[int, int, int]], float] = {}
    for step in run.steps:
        if step.core == "controller":
            continue
        for started in (e for e in step.effects if isinstance(e, fx.RunSegment | fx.SendTasks)):
            for task in started.tasks:
                waited_s[step.node] += step.now - since.pop((step.node, task.key), step.now)
        starts = {task.key for e in step.effects if isinstance(e, fx.RunSegment | fx.SendTasks) for task in e.tasks}
        for task in _came(step):
            if task.key not in starts:
                since[step.node, task.key] = step.now
    for node, row in run.report()["workers"].items():
        both = row["input_queue_mean"] + row["output_queue_mean"]
        last_s = completions(run)[-1][0]
        assert both * last_s == pytest.approx(waited_s[node], rel=1e-4)


def _came(step: Step) -> Iterator[Task]:
    """Tasks that began to wait at a step's node."""
    if isinstance(step.event, ev.TasksArrived):
        yield from step.event.tasks
    elif isinstance(step.event, ev.SegmentDone):
        gone = {key for e in step.effects if isinstance(e, fx.DiscardPayloads) for key in e.keys}
        following = (replace(task, k=task.k + 1) for task in step.event.tasks if task.k < 5)
        yield from (task for task in following if task.key not in gone)


def test_utilization_is_time_spent_computing(run: Recorded) -> None:
    last_s = completions(run)[-1][0]
    for node, row in run.report()["workers"].items():
        events = [s.event for s in run.steps if s.node == node and isinstance(s.event, ev.SegmentDone)]
        busy_s = sum(event.duration_s for event in events)
        assert row["utilization"] == pytest.approx(busy_s / last_s, rel=1e-4) and 0.1 < row["utilization"] <= 1
        assert row["compute_delay_s"] == pytest.approx(busy_s / row["processed"], rel=1e-4)


def test_bringing_workers_up_and_waiting_for_their_end_are_no_part_of_the_means(run: Recorded) -> None:
    tallies = [NodeTally(node, 5, run.label_of if node == "n1" else None) for node in run.tallies]
    for tally in tallies:
        whole = run.tallies[tally.node].worker
        tally.observe(3.0, 0, 0)
        if tally.node != "n1":  # the source's sees it by itself
            tally.begin(100.0)
        for step in (step for step in run.steps if step.node == tally.node):
            tally.add(replace(step, now=100.0 + step.now))
        tally.close(100.0 + run.until_s + 50.0)
        assert tally.worker.observed_s == pytest.approx(run.until_s + 50.0)
        tally.worker.input_task_s, tally.worker.output_task_s = whole.input_task_s, whole.output_task_s
    late = build_report(run.experiment, run.card, tallies, {}, "mdi-exit run", "ray")
    for node, row in run.report()["workers"].items():
        for key in ("utilization", "input_queue_mean", "output_queue_mean"):
            assert late["workers"][node][key] == pytest.approx(row[key], rel=1e-4)


def test_the_series_say_what_was_decided(run: Recorded) -> None:
    report, series = run.report(), run.report()["series"]
    decisions = [(s.now, e) for s in run.steps for e in s.effects if isinstance(e, fx.RecordControl)]
    assert {len(column) for column in series.values()} == {len(series["time_s"])}
    assert report["interarrival_s"]["final"] == pytest.approx(decisions[-1][1].interarrival_s, rel=1e-5)
    mean = sum(e.interarrival_s for _, e in decisions) / len(decisions)
    assert report["interarrival_s"]["mean"] == pytest.approx(mean, rel=1e-5)
    assert report["threshold"] == {"final": 0.8, "mean": pytest.approx(0.8)}
    for now, decision in decisions:
        place = int(now / 0.5)
        assert series["interarrival_s"][place] == pytest.approx(decision.interarrival_s, rel=1e-5)
    width_s = series["time_s"][1] - series["time_s"][0]
    assert sum(series["throughput_per_s"]) * width_s == pytest.approx(report["completed"], rel=1e-4)


def test_times_count_from_the_opening_of_admission(run: Recorded) -> None:
    """Workers take seconds to start; the same run, opened 7 s later, has the same report."""
    tally = NodeTally("n1", 5, run.label_of)
    for step in run.steps:
        if step.node == "n1":
            tally.add(replace(step, now=step.now + 7.0))
    report = rounded(build_report(run.experiment, run.card, [tally], {}, "mdi-exit run", "simulation"))
    expected = run.report()
    for key in ("duration_s", "throughput_per_s", "steady", "threshold", "latency_s"):
        assert report[key] == expected[key], key
    assert report["drain_s"] == pytest.approx(expected["drain_s"], rel=1e-4)
    assert report["series"]["time_s"] == expected["series"]["time_s"]
    assert tally.source is not None and tally.source.snapshot(11.0).opened_s == 7.0


def test_what_was_not_answered_says_why(flooded: Recorded) -> None:
    report = flooded.report()
    assert report["shed"] > 0 and report["lost"] > 0 and report["completed"] > 0
    assert report["offered"] == report["shed"] + report["completed"] + report["failed"] + report["lost"]
    assert report["admitted"] == report["offered"] - report["shed"]
    assert report["reasons"] == {
        "shed": {"the source was full": report["shed"]},
        "lost": {"no answer by the end of the run": report["lost"]},
    }
    correct = report["accuracy"] * report["completed"]
    assert report["accuracy_offered"] == pytest.approx(correct / report["offered"], rel=1e-4)
    assert report["accuracy_offered"] < report["accuracy"]
    assert not report["interrupted"]


def test_a_run_that_was_cut_off_still_balances() -> None:
    report = record("find-rate", until_s=3.0, close=False).report()
    assert report["interrupted"] and report["lost"] > 0
    assert report["offered"] == report["completed"] + report["lost"]
    assert report["reasons"]["lost"] == {NO_OUTCOME: report["lost"]}
    assert report["accuracy_offered"] == report["accuracy"] is not None  # every one that has an outcome was answered
    assert report["duration_s"] == pytest.approx(3.0, abs=0.1) and report["steady"] is None


def test_the_interval_of_an_accuracy_stays_within_what_a_share_can_be() -> None:
    assert interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = interval(0.97, 33)
    assert 0.8 < low < 0.97 < high < 1.0 < 0.97 + 1.96 * math.sqrt(0.97 * 0.03 / 33)
    assert interval(1.0, 5)[1] == 1.0 and interval(0.0, 5)[0] == 0.0


def test_a_run_of_which_nothing_is_known_has_a_report(run: Recorded) -> None:
    report = build_report(run.experiment, run.card, [], {}, "mdi-exit run", "ray")
    assert report["offered"] == 0 and report["accuracy"] is None and report["interrupted"]
    json.dumps(rounded(report), allow_nan=False)


def test_admission_that_ends_by_itself_closes_the_window() -> None:
    run = record("find-rate", until_s=50.0, data_max=40)
    report = run.report()
    admitted = [step.now for step in run.steps for e in step.effects if isinstance(e, fx.Admit)]
    assert report["offered"] == 40 and not report["interrupted"]
    assert report["duration_s"] == pytest.approx(admitted[-1], rel=1e-5)
    assert report["duration_s"] < 10


def test_without_labels_there_is_no_accuracy(run: Recorded) -> None:
    tally = NodeTally("n1", 5)
    for step in run.steps:
        if step.node == "n1":
            tally.add(step)
    report = build_report(run.experiment, run.card, [tally], {}, "mdi-exit run", "ray")
    assert report["completed"] > 0 and report["accuracy"] is None and report["exit_accuracy"] == [None] * 5
    assert tally.snapshot(1.0).source.accuracy is None  # type: ignore[union-attr]


def test_lives_of_a_worker_are_added_up(run: Recorded) -> None:
    """Split every worker's steps into two lives, send the tallies as pickles: the report stays the same."""
    halves = []
    for node, whole in run.tallies.items():
        steps = [step for step in run.steps if step.node == node]
        cut = len(steps) // 2 if node != "n1" else 0
        for epoch, part in enumerate((steps[:cut], steps[cut:])):
            tally = NodeTally(node, 5, run.label_of if node == "n1" else None, epoch)
            tally.worker.links = {}
            for step in part:
                tally.add(step)
            halves.append(pickle.loads(pickle.dumps(tally)))
        halves[-1].worker.observed_s = whole.worker.observed_s
        halves[-1].worker.input_task_s = whole.worker.input_task_s
        halves[-1].worker.output_task_s = whole.worker.output_task_s
    report = build_report(run.experiment, run.card, halves, {}, "mdi-exit run", "simulation")
    expected = run.report({"n1": WorkerFacts()})
    for key in ("offered", "exits", "accuracy", "latency_s", "series"):
        assert rounded(report[key]) == expected[key]
    for node, row in expected["workers"].items():
        assert abs(row["offloaded"] - report["workers"][node]["offloaded"]) <= 2  # under way at the cut
        assert row["segments"] == report["workers"][node]["segments"]


def test_a_snapshot_shows_how_it_stands(run: Recorded) -> None:
    source = run.tallies["n1"].snapshot(run.until_s)
    assert source.source is not None and source.source.outcomes["completed"] == run.report()["completed"]
    assert source.input_queue == source.output_queue == 0 and source.source.throughput_per_s == 0
    assert run.tallies["n2"].snapshot(run.until_s).source is None
    assert NodeTally("n", 5).snapshot(0.0).utilization == 0.0


# ---- steps of any kind

outcomes = st.sampled_from(list(Outcome))


@given(
    fates=st.lists(st.tuples(outcomes, st.integers(1, 5), st.integers(0, 3), st.floats(0, 9), st.text(max_size=3))),
    unfinished=st.integers(0, 3),
)
def test_every_datum_counts_once_whatever_becomes_of_it(
    fates: list[tuple[Outcome, int, int, float, str]], unfinished: int, run: Recorded
) -> None:
    tally = NodeTally("n1", 5, label_of=lambda data_id: data_id % 4)
    now = 0.0

    def step(event: ev.Event, *effects: fx.Effect) -> None:
        tally.add(Step(now, "n1", 0, "controller", event, effects))

    step(ev.AdmissionOpened(), fx.SetTimer("arrival", 0.1))
    for data_id, (outcome, k, prediction, latency_s, reason) in enumerate(fates):
        now += 0.25
        if outcome is not Outcome.SHED:
            step(ev.TimerFired("arrival"), fx.Admit(data_id, 0), fx.SetTimer("arrival", 0.1))
            step(ev.TimerFired("deadline"), fx.Admit(data_id, 1))
        done = (k, prediction, 0.5) if outcome is Outcome.COMPLETED else (0, -1, 0.0)
        complete = fx.Complete(data_id, outcome, *done, latency_s, 1, reason)
        again = fx.SetTimer("arrival", 0.1)
        step(ev.TimerFired("arrival") if outcome is Outcome.SHED else ev.ResultsArrived(()), complete, again)
    for data_id in range(unfinished):
        step(ev.TimerFired("arrival"), fx.Admit(len(fates) + data_id, 0), fx.SetTimer("arrival", 0.1))
    now += 1.0
    step(ev.AdmissionClosed(), *([] if unfinished else [fx.Finish()]))
    report = build_report(run.experiment, run.card, [tally], {}, "mdi-exit run", "simulation")

    counts = Counter(fate[0] for fate in fates)
    assert report["offered"] == len(fates) + unfinished
    assert report["offered"] == sum(report[key] for key in ("completed", "shed", "failed", "lost"))
    assert report["completed"] == counts[Outcome.COMPLETED] == sum(report["exits"])
    assert report["lost"] == counts[Outcome.LOST] + unfinished
    assert report["resubmitted"] == len(fates) - counts[Outcome.SHED]
    for key in ("shed", "failed", "lost"):
        assert sum(report["reasons"].get(key, {}).values()) == report[key]
    assert report["interrupted"] == bool(unfinished)
    right = sum(fate[0] is Outcome.COMPLETED and d % 4 == fate[2] for d, fate in enumerate(fates))
    assert (report["accuracy_offered"] or 0.0) == pytest.approx(right / max(1, len(fates)))
    json.dumps(rounded(report), allow_nan=False)


def test_a_datum_with_two_outcomes_is_our_bug(run: Recorded) -> None:
    tally = NodeTally("n1", 5)
    done = fx.Complete(0, Outcome.COMPLETED, 1, 0, 0.9, 0.1, 1)
    tally.add(Step(0.0, "n1", 0, "controller", ev.AdmissionOpened(), (fx.Admit(0, 0), done, done)))
    with pytest.raises(AssertionError, match="two"):
        build_report(run.experiment, run.card, [tally], {}, "mdi-exit run", "ray")


# ---- files


def test_a_report_is_written_and_read_back(run: Recorded, tmp_path: Path) -> None:
    report = run.report()
    path = write_report(tmp_path / "new", report)
    assert read_report(tmp_path / "new") == read_report(path) == report
    text = path.read_text(encoding="utf-8")
    assert write_report(tmp_path, report).read_text(encoding="utf-8") == text
    top = [line for line in text.splitlines() if line.startswith('  "')]
    assert top == sorted(top) and len(text.splitlines()) < 400


values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(content=st.dictionaries(st.text(), values))
def test_json_files_hold_any_plain_data(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "file.json"
    write_json(path, content)
    assert read_json(path) == rounded(content)


def test_floats_are_rounded_to_what_was_measured() -> None:
    assert rounded({"a": (1 / 3, [1e-9 / 7]), 2: True}) == {"a": [0.333333, [1.42857e-10]], "2": True}
    with pytest.raises(ValueError):
        write_json(Path("never"), {"a": math.nan})


@pytest.mark.parametrize("content", ["", "[1]", '{"schema": 99}', "{}"])
def test_what_is_no_report_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_report(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_used_are_named(tmp_path: Path, run: Recorded) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="missing"):
        read_report(tmp_path / "missing")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file", run.report())
