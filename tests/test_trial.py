"""Trials: what a run of all workers together says of segments and of the runtime, beside what was timed alone."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mdi_exit.assembly import load_card
from mdi_exit.cli.profiled import warnings
from mdi_exit.config.load import load_experiment
from mdi_exit.devices import DeviceProfile, Overhead
from mdi_exit.errors import UserError
from mdi_exit.report_nodes import WorkerFacts
from mdi_exit.runtime import launch
from mdi_exit.runtime.probe import SliceTimes
from mdi_exit.runtime.profiling import Profiled
from mdi_exit.runtime.signals import Interrupt
from mdi_exit.runtime.trial import Done, corrected, measure, what_was_done
from mdi_exit.tally import LinkTally, NodeTally

from .test_cli import mdi_exit

ALONE = SliceTimes({"1-2": 0.021}, {1: 0.008, 2: 0.012}, 0.1, 10**9, stretch=2.0)
# 300 tasks at 5 and 7 ms of processor time; beside them 2 s: for 400 data, 300 tasks and 300 ends of hand-overs
BUSY = Done(400, (200, 100), 300, (1.0, 0.7), 3.7)
WEIGHT = 1.5 * 400 + 300 + 4 * 300


ALL = {"n1": (1, 2)}


def counted_s(times: SliceTimes, own: Overhead, done: Done, hosted: tuple[int, ...]) -> float:
    """What a plan counts on for what was done."""
    segment_s = tuple(times.segment_s.values())
    device = DeviceProfile("n1", 10**9, {"net@32": segment_s}, slice_s={"net@32": times.slice_s}, runtime=own)
    computing_s = sum(n * s for n, s in zip(done.tasks, device.seconds("net", 32, hosted), strict=True))
    return computing_s + done.data * own.datum_s + sum(done.tasks) * own.task_s + done.hand_overs * own.hop_s


@pytest.mark.parametrize("slice_s", [{}, {"1-2": 0.03}, {"1": 0.005}])
def test_what_a_trial_took_is_what_a_plan_counts_on(slice_s: dict[str, float]) -> None:
    """All the processor time, times how long a second of it took: nothing is lost between segments and runtime, nor
    counted twice, where the slice that ran takes longer than its segments."""
    alone = dataclasses.replace(ALONE, slice_s=slice_s)
    times, runtimes = corrected({"n1": alone}, {"n1": BUSY}, set(), ALL)
    own = runtimes["n1"]
    assert own.hop_s == pytest.approx(4 * own.task_s) and own.task_s == pytest.approx(2 * 2.0 / WEIGHT)
    assert counted_s(times["n1"], own, BUSY, (1, 2)) == pytest.approx(2 * BUSY.processor_s)
    segment_s = times["n1"].segment_s
    assert segment_s[2] / segment_s[1] == pytest.approx(1.5)  # as alone
    for name, s in slice_s.items():
        assert times["n1"].slice_s[name] / segment_s[1] == pytest.approx(s / 0.008)


def test_a_segment_that_was_hardly_computed_says_nothing() -> None:
    few = dataclasses.replace(BUSY, tasks=(200, 49), computing_s=(1.0, 5.0))
    found = corrected({"n1": dataclasses.replace(ALONE, slice_s={})}, {"n1": few}, set(), ALL)[0]["n1"]
    assert found.segment_s == pytest.approx({1: 0.010, 2: 0.015})
    none = dataclasses.replace(BUSY, tasks=(3, 2), computing_s=(1.0, 5.0))
    assert corrected({"n1": ALONE}, {"n1": none}, set(), ALL)[0]["n1"] == ALONE


def test_times_of_emulated_devices_stay_but_the_runtime_is_this_machine_s() -> None:
    slower = dataclasses.replace(ALONE, segment_s={1: 0.4, 2: 0.6})
    idle = Done(0, (1, 0), 1, (0.001, 0.0), 0.9)
    both = {"n1": ALONE, "slower": slower}
    times, runtimes = corrected(both, {"n1": BUSY, "slower": idle}, {*both}, dict.fromkeys(both, (1, 2)))
    assert times == both and runtimes["n1"].task_s == pytest.approx(2 * 2.0 / WEIGHT)
    assert runtimes["slower"] == runtimes["n1"]


def test_who_did_little_or_was_lost_takes_what_the_others_do_as_much_as_it_is_slower() -> None:
    slow = dataclasses.replace(ALONE, segment_s={1: 0.024, 2: 0.036})
    idle = Done(0, (1, 0), 1, (0.001, 0.0), 0.9)  # waking now and then, for nothing
    alone = {"n1": ALONE, "idle": slow, "lost": slow}
    hosted = dict.fromkeys(alone, (1, 2))
    runtimes = corrected(alone, {"n1": BUSY, "idle": idle}, set(), hosted)[1]
    for name in ("idle", "lost"):
        assert runtimes[name].hop_s == pytest.approx(3 * runtimes["n1"].hop_s)
    assert corrected(alone, {}, set(), hosted)[1] == {}  # unknown, and not nothing


def test_the_calling_thread_does_not_tell_what_a_gpu_or_several_threads_took() -> None:
    helped = dataclasses.replace(ALONE, one_thread=False)
    assert corrected({"n1": helped}, {"n1": BUSY}, set(), ALL) == ({"n1": helped}, {})


def test_what_ends_a_trial_costs_nothing_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment("near-optimal")
    before = Profiled(load_card(experiment), {"n1": ALONE}, {})
    setting = launch.Setting(lambda progress: None, None, True, Interrupt())
    for error, why in ((KeyboardInterrupt(), "interrupted"), (UserError("no data set"), "no data set")):

        def ended(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(launch, "run", ended)
        after = measure(before, experiment, setting, 1.0, lambda words: None)
        assert after == dataclasses.replace(before, trial_failed=why)
        assert any(why in line for line in warnings(experiment, after, is_local=False))


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
    # Ten data per second are given, but a trial is to show what they can.
    given = ("--set", "arrivals={rule: poisson, rate_per_s: 10}", "--set", "admission=always")
    words = ("near-optimal", *given, "--set", "devices=null", "--seconds", "1", "--out", "m")
    done = mdi_exit("profile", *words, folder=tmp_path, within_s=240)
    assert done.returncode == 0, done.stderr
    told = re.search(r"they answered (\d+) data/s", done.stdout)
    assert told is not None and int(told[1]) > 20
    assert "running them all together, 2 s" in done.stderr
    for device in load_experiment(tmp_path / "m" / "experiment.yaml").devices.values():
        assert device is not None and 0 < device.runtime.task_s < device.runtime.hop_s < 0.1


@pytest.mark.ray
def test_ctrl_c_in_a_trial_keeps_what_was_measured_and_lets_nothing_follow(tmp_path: Path) -> None:
    words = ["profile", "near-optimal", "--set", "devices=null", "--set", "topology=2-node", "--seconds", "8", "--json"]
    line = [sys.executable, "-c", "from mdi_exit.cli import main; main()", *words, "--out", "m"]
    with subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        said = ""
        for said in process.stderr:
            if "running them all together" in said:
                break
        assert "running them all together, 8 s" in said
        process.send_signal(signal.SIGINT)
        told, complaint = process.communicate(timeout=120)
    assert process.returncode == 130 and "warning: they could not be run together (interrupted)" in complaint
    assert json.loads(told)["trial"] == {"rate_per_s": None, "failed": "interrupted", "notes": []}
    device = load_experiment(tmp_path / "m" / "experiment.yaml").devices["n2"]
    assert device is not None and min(device.seconds("mobilenet_v2", 32)) > 0


@pytest.mark.ray
def test_without_a_data_set_machines_are_measured_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    words = ("near-optimal", "--set", "devices=null", "--set", "dataset=data", "--set", "topology=2-node")
    done = mdi_exit("profile", *words, "--seconds", "1", "--out", "m", folder=tmp_path, within_s=240)
    assert done.returncode == 0, done.stderr
    assert "warning: they could not be run together" in done.stdout and "Traceback" not in done.stderr
    device = load_experiment(tmp_path / "m" / "experiment.yaml").devices["n2"]
    assert device is not None and min(device.seconds("mobilenet_v2", 32)) > 0 and device.runtime == Overhead()
