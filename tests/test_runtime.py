"""Whole runs under Ray: real processes, real sockets, real deaths.

One cluster serves all runs that share a process; what leaves a process behind or ends one is done in another.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mdi_exit import compute, journal
from mdi_exit.compiled import is_compiled
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Outcome
from mdi_exit.core.views import ExitDecision
from mdi_exit.errors import UserError
from mdi_exit.journal import Step
from mdi_exit.report import Report, build_report
from mdi_exit.runtime import Cluster, Progress, RunAborted, RunRecord, local_cluster
from mdi_exit.runtime.images import Images
from mdi_exit.yamlfile import ConfigError

pytestmark = pytest.mark.ray

# Emulated devices, so that the source has more than it can do and hands tasks over, however fast this machine is; at a
# steady 70 per s from a source that holds its data, so that nothing is shed where the machine is slow.
BUSY: dict[str, Any] = {
    "devices": "jetson-nano",
    "admission": {
        "rule": "rate_adaptation",
        "first_interarrival_s": 1 / 70,
        "interarrival_min_s": 1 / 70,
        "queue_low": 10_000,
        "queue_high": 20_000,
    },
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """From a folder of its own: Ray has workers import from where its driver is, which must not be these sources when
    what is installed, and compiled, is to be tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        with local_cluster() as started:
            yield started


@dataclass(frozen=True)
class Done:
    """A run and all that can be known of it."""

    experiment: Experiment
    record: RunRecord
    report: Report
    seen: list[Progress]
    steps: dict[str, list[Step]]  # by journal file


def carry_out(
    cluster: Cluster, folder: Path, meanwhile: Callable[[Progress], None] = lambda progress: None, **settings: Any
) -> Done:
    """Run an experiment with journals, and check what must be so after every run that was not told to end."""
    experiment = load_experiment(None, {"runtime.journal": True, **settings})
    seen: list[Progress] = []

    def observe(progress: Progress) -> None:
        seen.append(progress)
        meanwhile(progress)

    record = cluster.run(experiment, observe, folder)
    report = build_report(experiment, record.card, record.tallies, record.facts, "test", "ray")
    assert record.journals is not None
    steps = {path.stem: list(journal.read(path)) for path in journal.journals(record.journals)}
    assert report["offered"] == sum(report[outcome.value] for outcome in Outcome) > 0
    assert report["lost"] == 0 and not record.interrupted
    outcomes = Counter(done.data_id for done in effects(steps, fx.Complete))
    assert set(outcomes) == set(range(report["offered"])) and set(outcomes.values()) == {1}
    return Done(experiment, record, report, seen, steps)


def effects(steps: dict[str, list[Step]], kind: type[Any]) -> list[Any]:
    return [effect for journal in steps.values() for step in journal for effect in step.effects if type(effect) is kind]


def predictions_are_the_whole_network_s(done: Done) -> None:
    """Hold every answer against the segments run one after the other in this process."""
    experiment, card = done.experiment, done.record.card
    runner = compute.open_runner(compute.prepare(experiment.model), tuple(range(1, experiment.exits + 1)))
    images = Images(experiment, card)
    completed = [answer for answer in effects(done.steps, fx.Complete) if answer.outcome is Outcome.COMPLETED]
    assert completed
    for answer in completed:
        batch: Any = images.image(answer.data_id)[np.newaxis]
        for k in range(1, answer.k + 1):
            readings, batch = runner.run(k, batch)
        assert readings[0].prediction == answer.prediction, f"datum {answer.data_id} at exit {answer.k}"
        assert readings[0].confidence == pytest.approx(answer.confidence, abs=1e-4)
    correct = sum(images.label(answer.data_id) == answer.prediction for answer in completed)
    assert done.report["accuracy"] == pytest.approx(correct / len(completed))


def replays(done: Done) -> None:
    assert done.record.journals is not None
    for path in journal.journals(done.record.journals):
        assert (difference := journal.replay(path, done.experiment, done.record.card)) is None, difference


# ---- runs


@pytest.fixture(scope="module")
def mesh(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Three workers that all hold the whole network; what their processes have in memory is looked at."""
    maps: dict[str, str] = {}

    def look(progress: Progress) -> None:
        for name, pid in progress.pids.items():
            maps[name] = Path(f"/proc/{pid}/maps").read_text()

    # At more than two of them can do (54 per s each): whoever is not needed gets nothing.
    admission = {**BUSY["admission"], "first_interarrival_s": 1 / 140, "interarrival_min_s": 1 / 140}
    busy: dict[str, Any] = {**BUSY, "admission": admission}
    done = carry_out(cluster, tmp_path_factory.mktemp("mesh"), look, topology="3-node-mesh", data_max=150, **busy)
    assert set(maps) == {"n1", "n2", "n3"}
    for name, loaded in maps.items():
        assert "onnxruntime" in loaded and "torch" not in loaded and "/scipy/" not in loaded, name
        assert ("__mypyc.cpython" in loaded) == is_compiled(), name
        assert not threads_memory(loaded), f"{name}: a thread's own memory is given back and taken anew, group by group"
    return done


@pytest.mark.parametrize("pools", ["1", "4"])
def test_memory_of_single_threads_is_recognised(pools: str) -> None:
    program = """if True:
        import threading
        def work():
            kept = [bytearray(10_000) for _ in range(100)]
            print(open("/proc/self/maps").read())
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()"""
    environment = {**os.environ, "MALLOC_ARENA_MAX": pools}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert bool(threads_memory(done.stdout)) == (pools != "1")


def threads_memory(maps: str) -> list[str]:
    """Where glibc keeps memory for single threads: 64 MB at a multiple of that, of which the last part waits."""
    ranges = [
        (int(start, 16), int(end, 16)) for start, end in re.findall(r"^(\w+)-(\w+) ...p 0+ 00:00 0 *$", maps, re.M)
    ]
    size = 64 << 20
    starts = {end: start for start, end in ranges}
    return [
        hex(at) for end, at in starts.items() if at % size == 0 and any(s == end and e == at + size for s, e in ranges)
    ]


def test_every_worker_of_a_mesh_takes_part(mesh: Done) -> None:
    workers = mesh.report["workers"]
    assert all(worker["processed"] > 0 and worker["bytes_sent"] > 0 for worker in workers.values())
    assert mesh.report["completed"] == 150 and mesh.report["duplicates"] == mesh.report["resubmitted"] == 0
    handed_over = sum(worker["offloaded"] for worker in workers.values())
    assert handed_over == sum(worker["received"] for worker in workers.values()) > 0
    assert handed_over == sum(link["tasks"] for link in mesh.report["links"].values())
    assert all(worker["rss_bytes"] > 2**20 and worker["restarts"] == 0 for worker in workers.values())


def test_answers_are_those_of_the_whole_network(mesh: Done) -> None:
    predictions_are_the_whole_network_s(mesh)


def test_journals_of_a_real_run_replay_to_the_same_effects(mesh: Done) -> None:
    assert sorted(mesh.steps) == ["n1-0", "n2-0", "n3-0"] and all(len(steps) > 50 for steps in mesh.steps.values())
    replays(mesh)


def test_progress_is_told_phase_by_phase_and_counts_up(mesh: Done) -> None:
    phases = list(dict.fromkeys(progress.phase for progress in mesh.seen))
    assert phases == ["prepare", "start", "link", "run", "drain", "collect"]
    sources = [node.source for progress in mesh.seen if (node := progress.source) is not None and node.source]
    counts = [source.outcomes["completed"] for source in sources]
    assert counts == sorted(counts) and counts[-1] > 0
    assert {name for progress in mesh.seen for name in progress.nodes} == {"n1", "n2", "n3"}
    assert sorted(mesh.record.phases_s) == sorted(phases)


def test_tasks_travel_along_a_line_of_slices_and_results_back(cluster: Cluster, tmp_path: Path) -> None:
    """No worker holds the whole network, the ends are three links apart, and links are slowed."""
    placement = {"n1": "1-2", "n2": "2-3", "n3": "3-4", "n4": "4-5"}
    links = {"bandwidth": "50 Mbit/s", "latency_s": 0.001}
    busy: dict[str, Any] = {**BUSY, "devices": None, "links": links, "exit": "never"}
    done = carry_out(cluster, tmp_path, topology="line", placement=placement, data_max=60, **busy)
    assert done.report["completed"] == 60 and done.report["exits"] == [0, 0, 0, 0, 60]
    segments = [worker["segments"] for worker in done.report["workers"].values()]
    assert [sum(column) for column in zip(*segments, strict=True)] == [60] * 5
    assert segments[0][2:] == [0, 0, 0] and segments[3][:3] == [0, 0, 0] and segments[3][4] == 60
    predictions_are_the_whole_network_s(done)
    replays(done)


def test_calibrated_offloading_answers_at_the_device_or_with_the_most_confident_verdict_of_all(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        **BUSY,
        "topology": "2-node",
        "placement": {"n1": "1-2", "n2": "3-5"},
        "thresholds": 0.9,
        "exit": {"rule": "calibrated_offloading", "edge": 2},
    }
    done = carry_out(cluster, tmp_path, data_max=120, **settings)
    runner = compute.open_runner(compute.prepare(done.experiment.model), (1, 2, 3, 4, 5))
    images, earlier = Images(done.experiment, done.record.card), 0
    for answer in effects(done.steps, fx.Complete):
        batch: Any = images.image(answer.data_id)[np.newaxis]
        said: list[Any] = []
        for k in range(1, 6):
            readings, batch = runner.run(k, batch)
            said.append(readings[0])
        left = next((k for k in (1, 2) if said[k - 1].confidence >= 0.9), 5)
        surest = said[left - 1]
        if surest.confidence < 0.9:
            surest = max(said, key=lambda reading: reading.confidence)
        assert (answer.k, answer.prediction) == (left, surest.prediction), f"datum {answer.data_id}"
        assert answer.confidence == pytest.approx(surest.confidence, abs=1e-4)
        earlier += surest is not said[left - 1]
    assert 0 < done.report["earlier_verdicts"] == earlier < done.report["exits"][4]
    assert done.report["edge_share"] == sum(done.report["exits"][:2]) / 120
    assert done.report["duplicates"] == done.report["resubmitted"] == 0
    replays(done)


def test_splitee_moves_the_cut_between_device_and_server_while_it_serves(cluster: Cluster, tmp_path: Path) -> None:
    exit_rule = {"rule": "splitee", "depths": [4, 7, 11, 14, 19], "threshold": 0.85, "observe": "all"}
    settings = {**BUSY, "topology": "2-node", "exit": exit_rule, "offloading": "by_exit"}
    done = carry_out(cluster, tmp_path, data_max=120, **settings)
    ends = effects(done.steps, fx.Complete)
    arms = [sum(end.arm == arm for end in ends) for arm in range(1, 6)]
    assert done.report["split"]["arms"] == arms and min(arms) > 0
    offloaded = [end for end in ends if end.k == 5 and end.arm < 5]
    device, server = done.report["workers"]["n1"], done.report["workers"]["n2"]
    assert device["segments"] == [sum(arms[k:]) for k in range(5)]
    assert server["segments"] == [sum(end.arm < k for end in offloaded) for k in range(1, 6)]
    assert 0 < len(offloaded) == server["received"] and done.report["edge_share"] == (120 - len(offloaded)) / 120
    assert all(end.k in (end.arm, 5) for end in ends)
    assert done.report["duplicates"] == done.report["resubmitted"] == 0
    predictions_are_the_whole_network_s(done)
    replays(done)


def test_a_device_answers_or_transmits_over_a_noisy_link_and_noise_costs_the_far_side_its_accuracy(
    cluster: Cluster, tmp_path: Path
) -> None:
    accuracy: dict[float, float] = {}
    for snr_db in (-20.0, 20.0):  # at -10 dB what the link costs is within chance of so few images
        settings: dict[str, Any] = {
            **BUSY,
            "model": "mobilenetv2-cifar10-analog",
            "topology": "2-node",
            "placement": {"n1": "1-2", "n2": "3-5"},
            "links": {"snr_db": snr_db},
            "exit": {"rule": "transmission", "decision": {"rule": "confidence", "threshold": 0.9}},
            "offloading": "by_exit",
        }
        done = carry_out(cluster, tmp_path / str(snr_db), data_max=150, **settings)
        ends = effects(done.steps, fx.Complete)
        left = [end for end in ends if end.k == 2]
        assert len(left) + sum(end.k == 5 for end in ends) == 150 and min(end.confidence for end in left) >= 0.9
        runner = compute.open_runner(compute.prepare(done.experiment.model), (1, 2, 3, 4, 5))
        images, right, as_clean = Images(done.experiment, done.record.card), 0, 0
        for end in ends:
            batch: Any = images.image(end.data_id)[np.newaxis]
            for k in range(1, end.k + 1):
                readings, batch = runner.run(k, batch)
            assert end.k == 5 or readings[0].prediction == end.prediction
            as_clean += end.k == 5 and readings[0].prediction == end.prediction
            right += end.k == 5 and end.prediction == images.label(end.data_id)
        transmitted = 150 - len(left)
        assert transmitted > 40 and as_clean < transmitted, "the far side heard no noise"
        assert as_clean > transmitted / (2 if snr_db > 0 else 20), "the far side heard nothing but noise"
        accuracy[snr_db] = right / transmitted
        assert done.report["edge_share"] == len(left) / 150 and done.report["duplicates"] == 0
        replays(done)
    assert accuracy[-20.0] < accuracy[20.0] - 0.2


def test_links_on_one_radio_channel_carry_together_what_one_of_them_could(cluster: Cluster, tmp_path: Path) -> None:
    """Three processes book one channel, whose bandwidth comes and goes; twice as much in all would be the links'."""
    (tmp_path / "air.txt").write_text("0.2 8e6\n0.2 2e6\n")
    links = {"bandwidth_trace": str(tmp_path / "air.txt"), "latency_s": 0.001, "channel": "air"}
    placement = {"n1": "1", "n2": "2-5", "n3": "2-5"}
    done = carry_out(
        cluster, tmp_path, placement=placement, links=links, thresholds=0.99, duration_s=6.0, topology="3-node-mesh"
    )
    carried_bits = 8 * sum(worker["bytes_sent"] for worker in done.report["workers"].values())
    could_bits = 5e6 * (done.report["duration_s"] + done.report["drain_s"] + 1.0)  # reports travel before and after
    assert done.report["completed"] > 0 == done.report["lost"]
    assert 0.5 * could_bits < carried_bits <= could_bits
    assert not list(Path(tempfile.gettempdir()).glob("mdi-exit-radio-*"))
    replays(done)


def test_a_one_way_ring_works(cluster: Cluster, tmp_path: Path) -> None:
    """n1 -> n2 -> n3 -> n1: acknowledgements and reports flow against the links, results go all the way round."""
    placement = {"n1": "1-2", "n2": "3", "n3": "4-5"}
    busy: dict[str, Any] = {**BUSY, "devices": None, "exit": "never"}
    done = carry_out(cluster, tmp_path, topology="3-node-circular", placement=placement, data_max=60, **busy)
    assert done.report["completed"] == 60
    sent = {(step.node, effect.to) for steps in done.steps.values() for step in steps for effect in step.effects
            if isinstance(effect, fx.SendTasks | fx.SendResults)}  # fmt: skip
    assert sent == {("n1", "n2"), ("n2", "n3"), ("n3", "n1")}
    predictions_are_the_whole_network_s(done)


# ---- deaths


def test_a_killed_worker_loses_nothing_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if not killed and "n2" in progress.nodes and progress.nodes["n2"].processed > 20:
            killed.append(progress.pids["n2"])
            os.kill(killed[0], signal.SIGKILL)

    limits = {"loss_grace_s": 0.5}
    done = carry_out(cluster, tmp_path, kill, topology="3-node-mesh", limits=limits, duration_s=10.0, **BUSY)
    assert killed and done.report["completed"] == done.report["offered"]
    assert any(progress.lost == ("n2",) for progress in done.seen)
    assert re.fullmatch(rf"n2 \(process {killed[0]}\) was lost [\d.]+ s into the run", done.record.notes[0])
    assert re.fullmatch(r"n2 \(process \d+\) was back [\d.]+ s into the run", done.record.notes[1])
    assert done.record.pids["n2"] != killed[0] and done.report["workers"]["n2"]["restarts"] == 1
    again = [step for step in done.steps["n2-1"] if isinstance(step.event, ev.SegmentDone)]
    assert again, "it came back, but was given nothing to do"
    controller = [step.event for step in done.steps["n1-0"] if step.core == "controller"]
    assert controller.index(ev.WorkerLost("n2")) < controller.index(ev.WorkerJoined("n2"))
    replays(done)


def test_a_worker_that_cannot_come_back_stays_down_and_the_run_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1] - 1
    taken: list[socket.socket] = []

    def kill_and_take_its_port(progress: Progress) -> None:
        if not taken and "n2" in progress.nodes and progress.nodes["n2"].processed > 20:
            process = psutil.Process(progress.pids["n2"])
            process.kill()
            process.wait(10)
            taken.append(socket.create_server(("127.0.0.1", port + 1)))

    limits = {"loss_grace_s": 0.5}
    settings: dict[str, Any] = {"topology": "2-node", "limits": limits, "runtime.port_base": port, **BUSY}
    done = carry_out(cluster, tmp_path, kill_and_take_its_port, duration_s=6.0, **settings)
    taken[0].close()
    assert done.report["completed"] > 0 and "n2 stays down: n2: cannot listen on" in done.record.notes[1]


def test_the_source_s_death_ends_the_run_in_one_line(cluster: Cluster) -> None:
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.source is not None and not killed:
            killed.append(progress.pids["n1"])
            os.kill(killed[0], signal.SIGKILL)

    experiment = load_experiment(None, {"topology": "2-node", "duration_s": 60.0, **BUSY})
    with pytest.raises(RunAborted, match=r"^n1: the source's process died[^\n]*$"):
        cluster.run(experiment, kill)


@dataclass(frozen=True, slots=True)
class Faulty:
    """An exit policy with a bug."""

    def remember(self, task: object, reading: object, view: object) -> tuple[()]:
        return ()

    def decide(self, task: object, reading: object, view: object) -> ExitDecision:
        raise ZeroDivisionError("a bug in a policy")


def test_a_worker_on_another_machine_is_refused_where_there_is_only_this_one(cluster: Cluster) -> None:
    """It would be waited for until everybody's patience ends."""
    elsewhere = load_experiment(None, {"topology": "2-node", "runtime.workers": {"n2": "192.0.2.10"}})
    refusal = r"runtime\.workers\.n2: is '192\.0\.2\.10'; a local run has 127\.0\.0\.1 alone; allowed: --address"
    with pytest.raises(ConfigError, match=refusal):
        cluster.run(elsewhere)
    with pytest.raises(ConfigError, match=refusal):
        cluster.profile(elsewhere, 1.0, lambda told: None)


def test_a_bug_of_ours_ends_the_run_and_keeps_its_traceback(cluster: Cluster, tmp_path: Path) -> None:
    experiment = replace(load_experiment(None, {"topology": "2-node", "duration_s": 60.0, **BUSY}), exit=Faulty())
    with pytest.raises(RunAborted, match=r"^n\d: ZeroDivisionError: a bug in a policy; [^\n]*$") as aborted:
        cluster.run(experiment, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    assert str(file) in str(aborted.value) and "in decide" in file.read_text()


def test_a_bug_while_workers_are_being_linked_is_told_as_one(cluster: Cluster, tmp_path: Path) -> None:
    experiment = load_experiment(None, {"topology": "2-node", **BUSY})
    for options in experiment.worker_options.values():
        object.__setattr__(options, "gossip_s", Decimal(1))  # which cannot be added to a time
    with pytest.raises(RunAborted, match=r"^n\d: TypeError: [^\n]*; this is a bug, its traceback is in [^\n]*$"):
        cluster.run(experiment, folder=tmp_path)


def test_a_port_in_use_is_one_line_and_the_cluster_can_be_used_again(cluster: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        experiment = load_experiment(None, {"topology": "2-node", "runtime.port_base": port - 1})
        with pytest.raises(UserError, match=rf"^n2: cannot listen on 127\.0\.0\.1:{port}: the port is in use[^\n]*$"):
            cluster.run(experiment)
    carry_out(cluster, tmp_path, topology="local", data_max=5, **{**BUSY, "devices": None})


def test_a_second_cluster_in_one_process_is_refused(cluster: Cluster) -> None:
    with pytest.raises(UserError, match="already runs"), local_cluster():
        pass


# ---- what is left behind: a process of its own, because it is to be ended

PROGRAM = """
import dataclasses, sys
from mdi_exit.config.load import load_experiment
from mdi_exit.report import build_report
from mdi_exit.runtime import local_cluster

experiment = load_experiment(None, {
    "topology": "3-node-mesh", "devices": "jetson-nano",
    "admission": "always", "arrivals": {"rule": "poisson", "rate_per_s": 50}})

def tell(progress):
    done = progress.source.source.outcomes["completed"] if progress.source else 0
    print(progress.phase, done, *progress.pids.values(), flush=True)

try:
    with local_cluster() as cluster:
        for duration_s in map(float, sys.argv[1:]):
            record = cluster.run(dataclasses.replace(experiment, duration_s=duration_s), tell)
            report = build_report(experiment, record.card, record.tallies, record.facts, "test", "ray")
            print("report", record.interrupted, report["completed"], report["offered"], flush=True)
except KeyboardInterrupt:
    print("nothing to report", flush=True)
"""


@dataclass
class Program:
    """The program above, in a session of its own as a terminal would start it."""

    process: subprocess.Popen[str]
    scratch: Path
    lines: list[str]
    family: list[psutil.Process]
    shared: set[str]  # files in /dev/shm that any of them has had open

    def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """Read its output until a line of which `holds` is true; fail when it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if holds(words := line.split()):
                return words
        pytest.fail("it ended:\n" + "\n".join(self.lines))

    def remember(self) -> None:
        """Note everything it has started so far."""
        self.family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in self.family:
            with contextlib.suppress(psutil.Error, OSError):
                maps = Path(f"/proc/{process.pid}/maps").read_text()
                self.shared |= set(re.findall(r"/dev/shm/\S+", maps))

    def nothing_is_left(self) -> None:
        """No process, hence no port; no file in the temporary folder or in shared memory."""
        assert len(self.family) > 5, "its processes were not found in the first place"
        assert self.process.wait(30) == 0, "\n".join(self.lines)
        _, alive = psutil.wait_procs(self.family, 5)
        assert not alive
        assert list(self.scratch.iterdir()) == []
        assert [path for path in self.shared if Path(path).exists()] == []


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    scratch = Path(tempfile.mkdtemp(prefix="mx"))  # short: Ray's sockets lie below it
    started: list[Program] = []

    def start(*durations_s: float, **environment: str) -> Program:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, durations_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
            | {"TMPDIR": str(scratch), **environment},
        )
        started.append(Program(process, scratch, [], [], set()))
        return started[0]

    yield start
    for one in started:
        assert one.process.stdout is not None
        one.process.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
    shutil.rmtree(scratch)


def is_running(words: list[str]) -> bool:
    """Whether a line tells of a run with answers."""
    return words[0] == "run" and int(words[1]) > 0 and len(words) == 5


@pytest.mark.parametrize(("durations_s", "times"), [([600.0], 1), ([1.0, 600.0], 2)])
def test_a_run_that_ends_and_one_that_is_interrupted_report_what_they_have_and_leave_nothing(
    program: Callable[..., Program], durations_s: list[float], times: int
) -> None:
    one = program(*durations_s)
    if len(durations_s) > 1:
        _, interrupted, completed, offered = one.until(lambda words: words[0] == "report")
        assert interrupted == "False" and int(completed) == int(offered) > 0
    one.until(is_running)
    one.remember()
    for _ in range(times):
        os.killpg(one.process.pid, signal.SIGINT)  # as a terminal does: everybody gets it
    _, interrupted, completed, offered = one.until(lambda words: words[0] == "report")
    assert interrupted == "True" and 0 < int(completed) <= int(offered)
    one.nothing_is_left()


def test_a_termination_while_everything_is_being_started_leaves_nothing(
    program: Callable[..., Program], tmp_path: Path
) -> None:
    """Under a shell that wants no tokens, and whose folder for temporary files is too long a path for sockets."""
    (far := tmp_path / ("far" * 30)).mkdir()
    one = program(600.0, RAY_AUTH_MODE="disabled", TMPDIR=str(far))
    one.until(lambda words: words[0] == "start")
    one.remember()
    servers = [process for process in one.family if process.name() in ("gcs_server", "raylet")]
    assert [server.environ()["RAY_AUTH_MODE"] for server in servers] == ["token", "token"]
    (folder,) = {folder for server in servers for folder in re.findall(r"/tmp/mdi-exit-\w+", str(server.cmdline()))}
    assert Path(folder).exists()
    one.process.send_signal(signal.SIGTERM)
    one.until(lambda words: words == ["nothing", "to", "report"])
    one.nothing_is_left()
    assert not Path(folder).exists() and not list(far.iterdir())
