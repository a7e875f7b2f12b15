"""`mdi-exit simulate`: what it says and writes, the same seed is the same history, bad input, who comes and goes."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mdi_exit
from mdi_exit import assembly
from mdi_exit.analysis.beside import beside_optimum
from mdi_exit.cli import main
from mdi_exit.codec import CHOICES
from mdi_exit.compute.pacing import PacedRunner
from mdi_exit.config import Churn, Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Result, Task
from mdi_exit.devices import drawn_s
from mdi_exit.errors import UserError
from mdi_exit.fuzzing import hunt
from mdi_exit.journal import Step, journals, read, replay
from mdi_exit.report import Report, build_report, read_report
from mdi_exit.simulation.frames import FrameSizes
from mdi_exit.simulation.links import Faults
from mdi_exit.simulation.run import SimulationRecord, simulate
from mdi_exit.trace import ExitTrace, TraceError, trace_of
from mdi_exit.wire import encode

from .recorded import TRACE

BUSY = {"admission.first_interarrival_s": 0.006}  # about as fast as three Jetson Nanos can
ASSETS = Path(mdi_exit.__file__).parent / "assets"


@dataclasses.dataclass
class Said:
    status: int
    out: str
    err: str

    @property
    def mistake(self) -> str:
        """The one line of a user's mistake."""
        assert self.status == 2 and self.out == "" and self.err.count("\n") == 1, self
        return self.err.removeprefix("mdi-exit: ").strip()


class Typed:
    """`mdi-exit simulate ...` in this process, in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        monkeypatch.chdir(folder)

    def __call__(self, *arguments: str | Path) -> Said:
        self._monkeypatch.setattr(sys, "argv", ["mdi-exit", "simulate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        found = self._capsys.readouterr()
        return Said(int(ended.value.code or 0), found.out, found.err)


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


def simulated(name: str, **changes: Any) -> tuple[Experiment, SimulationRecord, list[Step]]:
    options = {key: changes.pop(key) for key in ("faults", "measured_s") if key in changes}
    changes["churn"] = [dataclasses.asdict(change) for change in changes.pop("churn", ())]
    experiment = load_experiment(name, {key.replace("__", "."): value for key, value in changes.items()})
    steps: list[Step] = []
    return (
        experiment,
        simulate(experiment, assembly.load_card(experiment), TRACE, observe=steps.append, **options),
        steps,
    )


def reported(experiment: Experiment, record: SimulationRecord) -> Report:
    return build_report(experiment, record.card, record.tallies, record.facts, "simulate", "simulation")


# ---- the command


def test_a_simulation_is_reported_like_a_run_and_beside_the_optimum(typed: Typed) -> None:
    done = typed(
        "find-rate", "--set", "duration_s=6", "--set", "admission.first_interarrival_s=0.006", "--out", "results"
    )
    assert done.status == 0
    for words in ("Summary", "Per worker", "Beside the best", "worker n1 (33%)", "times as fast as real time"):
        assert words in done.out
    names = {path.name for path in (typed.folder / "results").iterdir()}
    assert {"report.json", "throughput-accuracy.png", "time-series.png"} <= names
    report = read_report(typed.folder / "results")
    assert report["runtime"] == "simulation" and report["lost"] == 0 and not report["interrupted"]
    assert report["simulation"]["trace"] == "mobilenetv2-cifar10-sample.trace.npz"
    best = report["optimum"]
    assert 0.8 < best["ratio"] <= 1.02 and best["rate_per_s"] == pytest.approx(176, rel=0.05)
    assert sum(found["share"] for found in best["bottlenecks"]) == pytest.approx(1, abs=1e-3)
    assert best["fixed_rate"] is None
    assert 0.8 < report["accuracy"] < 0.9  # as the shipped network is


def test_at_a_given_rate_the_accuracy_stands_beside_what_thresholds_allow(typed: Typed) -> None:
    done = typed("find-threshold", "--set", "duration_s=6", "--out", "results")
    best = read_report(typed.folder / "results")["optimum"]
    assert best["rate_per_s"] is None  # the thresholds changed
    fixed = best["fixed_rate"]
    assert fixed["possible"] and fixed["rate_per_s"] == pytest.approx(100, rel=0.1)
    assert fixed["accuracy_offered"] <= fixed["best_common"]["accuracy"] + 0.01
    assert fixed["best_common"]["accuracy"] <= fixed["best_per_exit"]["accuracy"]
    assert "with the best threshold per exit" in done.out
    assert "No highest possible rate is shown: admission threshold_adaptation changed the thresholds" in done.out


def test_a_rate_that_is_not_possible_is_told_of_with_what_binds(typed: Typed) -> None:
    done = typed("find-threshold", "--set", "duration_s=4", "--set", "arrivals.rate_per_s=2000", "--out", "results")
    assert done.status == 0 and "above the highest possible rate" in done.out and "worker n1 (33%)" in done.out
    assert not read_report(typed.folder / "results")["optimum"]["fixed_rate"]["possible"]


def test_what_the_bound_leaves_out_stands_beside_it(typed: Typed) -> None:
    done = typed("drift-plus-penalty", "--set", "duration_s=1", "--out", "results")
    assert "No highest possible rate is shown: exit drift_plus_penalty looks at queues too" in done.out
    (typed.folder / "lte.txt").write_text("1 30e6\n1 10e6\n")
    links = "links={latency_s: 0.1, bandwidth_trace: lte.txt}"  # found from here, though the example lies elsewhere
    done = typed("find-rate", "--set", links, "--set", "duration_s=1", "--out", "results")
    assert "takes the mean of a bandwidth_trace (n1-n2, n1-n3, n2-n3)" in done.out
    assert "A window is how many groups of tasks" in done.out and "window n1->n2" in done.out
    assert "answers per second, second half" in done.out.split("Beside the best")[1]


def test_the_bound_can_be_left_out(typed: Typed) -> None:
    done = typed("find-rate", "--set", "duration_s=2", "--no-optimum", "--out", "results")
    assert done.status == 0 and "Beside the best" not in done.out
    assert read_report(typed.folder / "results")["optimum"] is None


def test_repeated_over_seeds_there_is_a_mean_and_a_spread(typed: Typed) -> None:
    done = typed("find-rate", "--set", "duration_s=3", "--seed", "5", "--repeat", "3", "--out", "results")
    assert done.status == 0 and "Over 3 seeds" in done.out and "std. dev." in done.out
    report = read_report(typed.folder / "results")
    each = [report[f"seed_{seed}"]["steady"]["throughput_per_s"] for seed in (5, 6, 7)]
    assert len(set(each)) > 1
    assert report["spread"]["throughput_per_s"]["mean"] == pytest.approx(sum(each) / 3, rel=1e-5)
    assert report["spread"]["throughput_per_s"]["high"] == max(each)


def test_json_is_the_report_and_nothing_else(typed: Typed) -> None:
    done = typed("find-rate", "--set", "duration_s=1", "--json", "--out", "results")
    assert json.loads(done.out)["completed"] == read_report(typed.folder / "results")["completed"] > 0


# ---- the same seed, the same history


def digest_of(folder: Path, hash_seed: str, *arguments: str) -> str:
    """The journal's digest, of a process with its own hash seed."""
    program = [sys.executable, "-c", "from mdi_exit.cli import main; main()", "simulate", "poisson", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [*program, "--set", "duration_s=3", "--journal", "--no-optimum", "--out", str(folder)],
        capture_output=True, text=True, check=True, env=environment, timeout=60,
    )  # fmt: skip
    return next(line for line in done.stdout.splitlines() if line.startswith("journal digest"))


def test_the_same_seed_gives_the_same_journal_in_any_process(tmp_path: Path) -> None:
    first, again = digest_of(tmp_path / "a", "1", "--seed", "3"), digest_of(tmp_path / "b", "2", "--seed", "3")
    assert first == again
    assert digest_of(tmp_path / "a", "1", "--seed", "4") != first
    for path in journals(tmp_path / "b" / "journals"):
        assert path.read_bytes() != (tmp_path / "a" / "journals" / path.name).read_bytes()


def test_a_simulations_journal_is_replayed_like_a_runs(typed: Typed) -> None:
    """Worker and controller are those of a run: fresh ones decide the same."""
    typed("find-threshold", "--set", "duration_s=2", "--journal", "--out", "results")
    experiment = load_experiment("find-threshold", {"duration_s": 2})
    found = journals(typed.folder / "results" / "journals")
    assert [path.name for path in found] == ["n1-0.journal", "n2-0.journal", "n3-0.journal"]
    for path in found:
        assert len(list(read(path))) > 100
        assert replay(path, experiment, assembly.load_card(experiment)) is None


# ---- what goes in


@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_compute_times_are_drawn_as_a_paced_worker_draws_them(spread: float) -> None:
    """Mean and spread of the profile; a group takes as long as its data one after the other."""
    rng = random.Random(1)
    each = [drawn_s(0.01, 1, spread, rng) for _ in range(20_000)]
    mean = sum(each) / len(each)
    deviation = (sum((s - mean) ** 2 for s in each) / len(each)) ** 0.5
    assert mean == pytest.approx(0.01, rel=0.02) and deviation == pytest.approx(0.01 * spread, rel=0.05)
    grouped = [drawn_s(0.01, 4, spread, rng) for _ in range(5_000)]
    assert sum(grouped) / len(grouped) == pytest.approx(0.04, rel=0.02)
    assert "drawn_s" in PacedRunner.run.__code__.co_names


def test_a_worker_draws_the_same_times_as_in_a_run() -> None:
    experiment, _, steps = simulated("find-rate", duration_s=2, seed=7, **BUSY)
    profile = experiment.devices["n2"]
    assert profile is not None
    rng, seconds = random.Random("7/pace n2/0"), profile.seconds("mobilenet_v2", 32)
    done = [step.event for step in steps if step.node == "n2" and isinstance(step.event, ev.SegmentDone)]
    assert len(done) > 20
    assert [event.duration_s for event in done] == [drawn_s(seconds[event.k - 1], 1, 0.2, rng) for event in done]


def test_measured_times_take_the_place_of_a_profile() -> None:
    times = {name: (0.001, 0.002, 0.003, 0.004, 0.005) for name in ("n1", "n2", "n3")}
    _, _, steps = simulated("find-rate", duration_s=1, devices=None, measured_s=times)
    done = {(step.event.k, step.event.duration_s) for step in steps if isinstance(step.event, ev.SegmentDone)}
    assert done <= {(k, k / 1000) for k in range(1, 6)} and len(done) > 2


def test_what_the_exits_say_is_the_traces() -> None:
    experiment, record, steps = simulated("find-rate", duration_s=2)
    for step in steps:
        for effect in step.effects:
            if isinstance(effect, fx.Complete):
                row = assembly.datum_index(experiment, effect.data_id, len(TRACE))
                assert effect.prediction == TRACE.prediction[row, effect.k - 1]
                assert effect.confidence == TRACE.confidence[row, effect.k - 1]
                assert effect.k == 5 or effect.confidence > 0.8
    report = reported(experiment, record)
    rows = [assembly.datum_index(experiment, d, len(TRACE)) for d in range(report["offered"])]
    right = sum(left == 5 for left in (TRACE.confidence[rows, :4] <= 0.8).sum(axis=1) + 1)
    assert report["exits"][4] == pytest.approx(right, abs=right * 0.3)


def test_frames_are_as_large_as_the_real_ones() -> None:
    sizes = FrameSizes("n1")
    for count in (1, 5):
        tasks = tuple(Task(200 + d, 0, 3, 8192, 1) for d in range(count))
        real = len(encode(fx.SendTasks("n2", 300, tasks))[0])
        assert real < sizes.tasks(count) <= real + 12 * count  # the described tensors come on top
        results = tuple(Result(200 + d, 0, 3, 1, 0.9) for d in range(count))
        assert sizes.results(count) == pytest.approx(len(encode(fx.SendResults("n2", results))[0]), abs=2 * count)
    _, record, _ = simulated("find-rate", duration_s=2, **BUSY)
    bytes_sent = record.facts["n1"].bytes_sent
    assert bytes_sent is not None and bytes_sent > 100_000


def test_coded_features_are_as_large_as_the_real_ones_and_reported_so() -> None:
    halves: dict[str, Any] = {
        "placement": {"n1": [1], "n2": "2-5"},
        "topology": "2-node",
        "links": {"bandwidth": "5 Mbit/s"},
    }
    rates = {}
    for encoding in CHOICES:
        coded = {**halves, "links": {**halves["links"], "encoding": encoding}}
        experiment, record, _ = simulated("find-rate", duration_s=3, **coded)
        report = reported(experiment, record)
        link = report["links"]["n1-n2"]
        feature = np.zeros(24 * 16 * 16, np.float32)
        used = "int8" if encoding == "auto" else encoding
        send = fx.SendTasks("n2", 300, (Task(200, 0, 2, feature.nbytes, 1),))
        header, payload = encode(send, [feature], used)
        assert link["bytes"] == link["tasks"] * len(payload)
        assert (record.facts["n1"].bytes_sent or 0) >= link["tasks"] * (len(header) + len(payload))
        rates[encoding] = report["completed"] / (report["duration_s"] + report["drain_s"])
    assert rates["auto"] == rates["int8"] >= rates["fp16"] > rates["fp32"]


# ---- bad input: one line, exit status 2


def test_a_worker_without_times_is_named(typed: Typed) -> None:
    said = typed("find-rate", "--set", "devices=null").mistake
    assert "find-rate.yaml: devices.n1: has no profile, so how long" in said and "--set devices=jetson-nano" in said


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["links.bandwidth=0 Mbit/s"], "bandwidth"),
        (["duration_s=-1"], "duration_s"),
        (["admission=never"], "admission"),
        (["topology=nowhere"], "no such"),
    ],
)
def test_a_wrong_setting_is_named(settings: list[str], says: str, typed: Typed) -> None:
    assert says in typed("find-rate", *(word for setting in settings for word in ("--set", setting))).mistake


def test_an_isolated_worker_and_a_missing_segment_are_named(typed: Typed) -> None:
    (typed.folder / "graph.yaml").write_text("source: a\nworkers: [a, b, c]\nlinks: [[a, b]]\n")
    assert "c is cut off from the source" in typed("find-rate", "--set", "topology=graph.yaml").mistake
    (typed.folder / "slow.yaml").write_text("memory_bytes: 1000000000\nsegment_s: {mobilenet_v2@32: [0.01, 0.01]}\n")
    said = typed("find-rate", "--set", "devices=slow.yaml").mistake
    assert "slow.yaml: segment_s.mobilenet_v2@32: has 2 entries; allowed: 5" in said


def test_there_must_be_an_experiment(typed: Typed) -> None:
    assert "no experiment; allowed: a YAML file" in typed().mistake
    assert "no such file" in typed("nothing.yaml").mistake


def test_a_trace_must_be_of_the_model(typed: Typed) -> None:
    assert "nothing.npz: no such file" in typed("find-rate", "--trace", "nothing.npz").mistake
    (typed.folder / "text.yaml").write_text("topology: 2-node")
    assert typed("find-rate", "--trace", "text.yaml").mistake == (
        "text.yaml: not a readable trace; allowed: a file that `mdi-exit trace` recorded"
    )
    few = ExitTrace(
        TRACE.confidence[:, :4], TRACE.prediction[:, :4], TRACE.entropy[:, :4], TRACE.label,
        TRACE.payload_bytes[:5], TRACE.classes, TRACE.card,
    )  # fmt: skip
    few.save(typed.folder / "few.npz")
    assert "few.npz: has 4 exits; allowed: 5" in typed("find-rate", "--trace", "few.npz").mistake
    dataclasses.replace(TRACE, card="another").save(typed.folder / "other.npz")
    assert (
        "other.npz: recorded of another; allowed: of mobilenet_v2-"
        in typed("find-rate", "--trace", "other.npz").mistake
    )


def test_the_trace_beside_the_model_is_taken_and_a_missing_one_says_how_to_record_it(typed: Typed) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copy(ASSETS / f"mobilenetv2-cifar10{suffix}", typed.folder / f"net{suffix}")
    said = typed("find-rate", "--set", "model=net").mistake
    assert "net.trace.npz: no such file" in said and "mdi-exit trace" in said
    TRACE.save(typed.folder / "net.trace.npz")
    assert typed("find-rate", "--set", "model=net", "--set", "duration_s=1").status == 0
    path, _ = trace_of(typed.folder / "net.safetensors", TRACE.card, 5)
    assert path.name == "net.trace.npz"
    with pytest.raises(TraceError, match="has 5 exits; allowed: 4, as many as net"):
        trace_of(typed.folder / "net.safetensors", TRACE.card, 4)


def test_the_sample_s_trace_says_nothing_of_other_images(typed: Typed) -> None:
    (typed.folder / "mine" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(typed.folder / "mine" / "cat" / "1.png")
    said = typed("find-rate", "--set", "dataset=mine").mistake
    assert "dataset: is " in said and "mobilenetv2-cifar10-sample.trace.npz is of the sample images; allowed: " in said
    assert "--trace FILE" in said and "mdi-exit trace" in said
    TRACE.save(typed.folder / "mine.npz")
    own = ("--trace", "mine.npz", "--set", "duration_s=1")
    assert typed("find-rate", "--set", "dataset=mine", *own).status == 0


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(UserError, match="n2: measured times"):
        simulated("find-rate", measured_s={"n2": (0.1, 0.2)})
    for churn, complaint in (
        (Churn(1.0, "n1", "crash"), r"churn\[0\]\.worker: is the source, .*; allowed: n2, n3"),
        (Churn(1.0, "n9", "crash"), r"churn\[0\]\.worker: unknown worker 'n9'.*; allowed: n2, n3"),
        (Churn(-1.0, "n2", "crash"), r"churn\[0\]\.at_s: is -1.0; allowed: seconds since the beginning"),
    ):
        with pytest.raises(UserError, match=complaint):
            simulated("find-rate", churn=[churn])
    with pytest.raises(UserError, match="it is up already"):
        simulated("find-rate", duration_s=3, churn=[Churn(1.0, "n2", "join")])
    with pytest.raises(UserError, match="it is down already"):
        simulated("find-rate", duration_s=3, churn=[Churn(1.0, "n2", "crash"), Churn(2.0, "n2", "crash")])
    few = dataclasses.replace(TRACE, confidence=TRACE.confidence[:, :4], prediction=TRACE.prediction[:, :4],
                              entropy=TRACE.entropy[:, :4], payload_bytes=TRACE.payload_bytes[:5])  # fmt: skip
    experiment = load_experiment("find-rate")
    with pytest.raises(UserError, match="the trace has 4 exits; allowed: 5"):
        simulate(experiment, assembly.load_card(experiment), few)


# ---- who comes and goes


@pytest.mark.parametrize("back_s", [3.1, 5.0], ids=["before it is missed", "later"])
def test_a_worker_that_dies_and_returns_costs_no_datum(back_s: float) -> None:
    churn = [Churn(3.0, "n2", "crash"), Churn(back_s, "n2", "join")]
    experiment, record, steps = simulated("find-rate", duration_s=6, churn=churn, **BUSY)
    report = reported(experiment, record)
    assert report["lost"] == report["failed"] == 0 and report["resubmitted"] > 0
    assert record.notes == ("n2 was lost 3.00 s into the run", f"n2 was back {back_s:.2f} s into the run")
    assert report["workers"]["n2"]["restarts"] == 1 and len(record.tallies) == 4
    lives = {step.epoch: step.now for step in steps if step.node == "n2"}
    assert set(lives) == {0, 1} and lives[0] <= 3.0
    told = [type(step.event) for step in steps if step.core == "controller"]
    assert told.count(ev.WorkerLost) == told.count(ev.WorkerJoined) == 1
    versions = [s.event.routes.version for s in steps if s.node == "n1" and isinstance(s.event, ev.RoutesChanged)]
    assert versions == [0, 1, 2]
    assert all(step.node != "n2" for step in steps if 3.0 < step.now < back_s)


def test_what_a_worker_had_sent_dies_with_it_and_its_next_life_has_a_free_link() -> None:
    churn = [Churn(3.0, "n2", "crash"), Churn(5.0, "n2", "join")]
    slow = {"links.bandwidth": "200 kbit/s", "links.latency_s": 0.1}
    _, _, steps = simulated("find-rate", duration_s=7, churn=churn, **BUSY, **slow)
    heard: list[tuple[float, int]] = []
    for step in steps:
        if isinstance(step.event, ev.ReportReceived) and step.event.report.worker == "n2":
            heard.append((step.now, step.event.report.epoch))
        elif isinstance(step.event, ev.TasksArrived) and step.event.sender == "n2":
            heard.append((step.now, 0 if step.now < 5 else 1))
    assert any(now < 3 for now, _ in heard) and not any(3 < now < 5 for now, _ in heard)
    first_s = min(now for now, epoch in heard if epoch == 1)
    assert 5.1 < first_s < 5.5, "not behind what its last life had queued"


def test_who_leaves_finishes_first_so_that_nothing_is_done_twice() -> None:
    churn = [Churn(3.0, "n2", "leave"), Churn(6.0, "n2", "join"), Churn(8.0, "n3", "leave"), Churn(8.01, "n3", "join")]
    experiment, record, steps = simulated("find-rate", duration_s=10, churn=churn, **BUSY)
    report = reported(experiment, record)
    assert report["completed"] == report["offered"] and not (report["resubmitted"] or report["duplicates"])
    left, back, stayed = record.notes
    assert left.startswith("n2 left 3.") and back == "n2 was back 6.00 s into the run"
    assert stayed == "n3 stayed 8.01 s into the run"
    given = [step.now for step in steps if step.node == "n2" and isinstance(step.event, ev.TasksArrived)]
    assert not any(3.2 < now < 6.0 for now in given) and any(now > 6.0 for now in given)
    told = [type(step.event) for step in steps if step.core == "controller"]
    assert told.count(ev.WorkerLeft) == told.count(ev.WorkerJoined) == 2 and ev.WorkerLost not in told


def test_without_a_worker_the_others_go_on() -> None:
    with_all = reported(*simulated("find-rate", duration_s=10, **BUSY)[:2])["steady"]["throughput_per_s"]
    experiment, record, _ = simulated("find-rate", duration_s=10, churn=[Churn(0.0, "n3", "crash")], **BUSY)
    report = reported(experiment, record)
    assert report["lost"] == 0 and report["steady"]["throughput_per_s"] < 0.8 * with_all


def test_a_worker_may_be_called_controller(typed: Typed) -> None:
    (typed.folder / "graph.yaml").write_text("source: a\nworkers: [a, controller]\nlinks: [[a, controller]]\n")
    assert typed("find-rate", "--set", "topology=graph.yaml", "--set", "duration_s=2", "--out", "results").status == 0
    assert read_report(typed.folder / "results")["workers"]["controller"]["processed"] > 0


def test_faults_are_those_of_the_seed() -> None:
    faults = Faults(0.05, 0.05, 0.01)
    first, again = (simulated("find-rate", duration_s=2, faults=faults, **BUSY)[2] for _ in range(2))
    assert first == again and any(isinstance(step.event, ev.TasksUndelivered) for step in first)


# ---- the bound


def test_a_run_that_offered_nothing_has_no_bound_and_measured_times_have_one() -> None:
    experiment, record, _ = simulated("find-rate", duration_s=0.01)
    assert beside_optimum(experiment, record.card, TRACE, reported(experiment, record)) is None
    times = {name: (0.002,) * 5 for name in ("n1", "n2", "n3")}
    experiment, record, _ = simulated("find-rate", duration_s=2, devices=None, measured_s=times)
    found = beside_optimum(experiment, record.card, TRACE, reported(experiment, record), times)
    assert found is not None and found["rate_per_s"] > 400


# ---- looking for bugs


def test_fuzzing_does_not_pass_for_a_run_of_an_experiment(typed: Typed) -> None:
    assert "--fuzz with experiment; allowed beside it: --seed" in typed("find-rate", "--fuzz", "1").mistake
    beside = ("--set", "seed=3", "--out", "x", "--trace", "y", "--journal", "--repeat", "2", "--no-optimum", "--json")
    for option in (word for word in beside if word.startswith("--")):
        assert option in typed("--fuzz", "1", *beside).mistake
    assert not (typed.folder / "x").exists()


def test_fuzzing_says_that_nothing_went_wrong(typed: Typed) -> None:
    done = typed("--fuzz", "3", "--seed", "11")
    assert done.status == 0 and done.out == "3 drawn experiments, seeds 11 to 13: nothing went wrong\n"


def test_what_fuzzing_finds_can_be_shown_again(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(case: Any, watch: Any) -> None:
        assert case.seed != 12, "broken on purpose"

    monkeypatch.setattr(hunt, "check", broken)
    done = typed("--fuzz", "5", "--seed", "11")
    assert done.status == 1 and "AssertionError: broken on purpose" in done.out
    assert done.out.splitlines()[-1] == "mdi-exit simulate --fuzz 1 --seed 12"
    assert typed("--fuzz", "1", "--seed", "12").status == 1 and typed("--fuzz", "1", "--seed", "13").status == 0
