"""Trials: what a run of all workers together says of segments and of the runtime, beside what was timed alone."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from mdi_exit.config.load import load_experiment
from mdi_exit.report_nodes import WorkerFacts
from mdi_exit.runtime.probe import SliceTimes
from mdi_exit.runtime.trial import Done, corrected, what_was_done
from mdi_exit.tally import LinkTally, NodeTally

from .test_cli import mdi_exit

ALONE = SliceTimes({"1-2": 0.021}, {1: 0.008, 2: 0.012}, 0.1, 10**9, stretch=2.0)
# 300 tasks at 5 and 7 ms of processor time; beside them 2 s: for 400 data, 300 tasks and 300 ends of hand-overs
BUSY = Done(400, (200, 100), 300, (1.0, 0.7), 3.7)
WEIGHT = 1.5 * 400 + 300 + 4 * 300


def test_what_a_trial_took_is_what_a_plan_counts_on() -> None:
    """All the processor time, times how long a second of it took: nothing is lost between segments and runtime."""
    times, runtimes = corrected({"n1": ALONE}, {"n1": BUSY}, set())
    found, own = times["n1"], runtimes["n1"]
    assert found.segment_s == pytest.approx({1: 2 * 0.005, 2: 2 * 0.007})
    assert own.hop_s == pytest.approx(4 * own.task_s) and own.task_s == pytest.approx(2 * 2.0 / WEIGHT)
    counted_s = 200 * found.segment_s[1] + 100 * found.segment_s[2]
    counted_s += 400 * own.datum_s + 300 * own.task_s + 300 * own.hop_s
    assert counted_s == pytest.approx(2 * BUSY.processor_s)
    # A slice keeps its advantage or disadvantage over its segments.
    assert found.slice_s["1-2"] == pytest.approx(0.021 * 2 * 1.7 / (200 * 0.008 + 100 * 0.012))


def test_a_segment_that_was_hardly_computed_changes_like_the_others() -> None:
    few = dataclasses.replace(BUSY, tasks=(200, 49), computing_s=(1.0, 5.0))
    assert corrected({"n1": ALONE}, {"n1": few}, set())[0]["n1"].segment_s == pytest.approx({1: 0.010, 2: 0.015})
    none = dataclasses.replace(BUSY, tasks=(3, 2), computing_s=(1.0, 5.0))
    assert corrected({"n1": ALONE}, {"n1": none}, set())[0]["n1"] == ALONE


def test_times_of_emulated_devices_stay_but_the_runtime_is_this_machine_s() -> None:
    times, runtimes = corrected({"n1": ALONE}, {"n1": BUSY}, {"n1"})
    assert times["n1"] == ALONE and runtimes["n1"].task_s == pytest.approx(2 * 2.0 / WEIGHT)


def test_who_did_little_or_was_lost_takes_what_the_others_do_as_much_as_it_is_slower() -> None:
    slow = dataclasses.replace(ALONE, segment_s={1: 0.024, 2: 0.036})
    idle = Done(0, (1, 0), 1, (0.001, 0.0), 0.9)  # waking now and then, for nothing
    alone = {"n1": ALONE, "idle": slow, "lost": slow}
    runtimes = corrected(alone, {"n1": BUSY, "idle": idle}, set())[1]
    for name in ("idle", "lost"):
        assert runtimes[name].hop_s == pytest.approx(3 * runtimes["n1"].hop_s)
    nobody = corrected(alone, {}, set())[1]
    assert all(own.datum_s == own.task_s == own.hop_s == 0 for own in nobody.values())


def test_only_whole_lives_are_counted() -> None:
    tally = NodeTally("n2", 2)
    tally.worker.segments, tally.worker.received = [3, 4], 7
    tally.worker.links = {"n1": LinkTally(tasks=2)}
    whole = WorkerFacts(processor_s=1.0, computing_s=(0.1, 0.2))
    assert what_was_done((tally,), {"n2": whole}) == {"n2": Done(0, (3, 4), 9, (0.1, 0.2), 1.0)}
    for other in (dataclasses.replace(whole, restarts=1), WorkerFacts(restarts=1)):
        assert what_was_done((tally,), {"n2": other}) == {}


@pytest.mark.ray
def test_a_profile_ends_with_all_workers_together(tmp_path: Path) -> None:
    words = ("near-optimal", "--set", "devices=null", "--seconds", "1", "--out", "m")
    done = mdi_exit("profile", *words, folder=tmp_path, within_s=240)
    assert done.returncode == 0, done.stderr
    told = re.search(r"they answered (\d+) data/s", done.stdout)
    assert told is not None and int(told[1]) > 0
    assert "running them all together, 2 s" in done.stderr
    for device in load_experiment(tmp_path / "m" / "experiment.yaml").devices.values():
        assert device is not None and 0 < device.runtime.task_s < device.runtime.hop_s < 0.1


@pytest.mark.ray
def test_without_a_data_set_machines_are_measured_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    words = ("near-optimal", "--set", "devices=null", "--set", "dataset=data", "--set", "topology=2-node")
    done = mdi_exit("profile", *words, "--seconds", "1", "--out", "m", folder=tmp_path, within_s=240)
    assert done.returncode == 0, done.stderr
    assert "warning: they could not be run together" in done.stdout and "Traceback" not in done.stderr
    device = load_experiment(tmp_path / "m" / "experiment.yaml").devices["n2"]
    assert device is not None and min(device.seconds("mobilenet_v2", 32)) > 0 and device.runtime.hop_s == 0
