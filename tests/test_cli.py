"""The command line as a user meets it: in a process of its own, with its exit status and what it prints where."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from mdi_exit import __version__, assembly, outputs
from mdi_exit.cli import main
from mdi_exit.compiled import is_compiled
from mdi_exit.config.load import load_experiment
from mdi_exit.errors import UserError
from mdi_exit.journal import journals, read, replay
from mdi_exit.report import read_report, write_report
from mdi_exit.runtime import cluster
from mdi_exit.runtime.cluster import LOCAL_ENVIRONMENT

from .recorded import record


def mdi_exit(
    *arguments: str | Path, folder: Path, changes: Mapping[str, str] | None = None, within_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `mdi-exit` in a folder, in an environment with `changes`."""
    program = [sys.executable, "-c", "from mdi_exit.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONWARNINGS": "default", **(changes or {})}
    return subprocess.run(
        program, cwd=folder, capture_output=True, text=True, timeout=within_s, env=environment, check=False
    )


def here(
    *arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> subprocess.CompletedProcess[str]:
    """The same within this process: quicker, for what ends before anything is started."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["mdi-exit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(arguments, ended.value.code, printed.out, printed.err)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which it was refused; fails the test unless it is just that."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and done.stdout == "", (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mdi-exit: ")]
    assert len(lines) == 1 and done.stderr.splitlines()[-1] == lines[0], done.stderr
    return lines[0]


def image(path: Path, size: int = 32, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (shade, 120, 30)).save(path)


def dataset(folder: Path) -> Path:
    """A small data set of two of CIFAR-10's classes."""
    for number in range(4):
        image(folder / "images" / ("cat" if number % 2 else "dog") / f"{number}.png", shade=40 * number)
    return folder / "images"


def test_help_is_quick_to_come() -> None:
    """No command drags in what it does not need: `--help` and typing errors must feel immediate."""
    heavy = ("torch", "ray", "matplotlib", "numpy", "networkx", "onnxruntime", "zmq", "PIL")
    script = (
        "import sys; sys.argv = ['mdi-exit', 'run', '--help']\n"
        "from mdi_exit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]" and "EXPERIMENT" in done.stdout.upper()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], ("argument 'experiment'", "; see mdi-exit run --help")),
        (["run", "find-rate", "--seed", "-1"], ("--seed", "; see mdi-exit run --help")),
        (["run", "--sed", "1"], ("--sed", "--seed", "; see mdi-exit run --help")),
        (["train", "--data"], ("--data", "--help")),
        (["demo", "--seconds", "soon"], ("--seconds", "; see mdi-exit demo --help")),
        (["fly"], ("fly", "; see mdi-exit --help")),
    ],
)
def test_typing_errors_are_refused_in_one_line(
    arguments: list[str],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = here(*arguments, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    line = refused(done)
    assert done.stderr == line + "\n" and all(word in line.lower() for word in words), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0), (["run", "--help"], 0)])
def test_help_is_printed_on_stdout(
    arguments: list[str],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = here(*arguments, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert done.returncode == status and "Usage: mdi-exit " in done.stdout and done.stderr == ""


def test_the_version_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here("--version", folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    said = f"mdi-exit {__version__}{' (compiled)' if is_compiled() else ''}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml"], ("nowhere.yaml", "no such file", "find-rate", "without-exits")),
        (["run", "a" * 300], ("no such file", "find-rate")),
        (["run", "find-rate", "--set", "thresholds"], ("--set", "KEY=VALUE")),
        (["run", "find-rate", "--set", "thresholds=[0.5"], ("--set", "thresholds", "YAML")),
        (["run", "find-rate", "--set", "offloading.rule=luck"], ("offloading", "luck", "mdi_exit")),
        (["report", "nowhere"], ("nowhere", "cannot be read")),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    arguments: list[str],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refused(here(*arguments, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys))
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == []


# ---- bad input: what a user can get wrong in an experiment

BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown key": ("thresholdz: 0.8", ("thresholdz", "thresholds")),
    "unknown key of a policy": (
        "admission: {rule: always, speed: 3}\narrivals: {rule: constant, rate_per_s: 3}",
        ("speed",),
    ),
    "wrong type": ("duration_s: long", ("duration_s",)),
    "unknown policy": ("offloading: telepathy", ("offloading", "telepathy", "mdi_exit")),
    "unknown topology": ("topology: 9-node-torus", ("topology", "9-node-torus", "3-node-mesh")),
    "threshold outside": ("thresholds: 1.5", ("thresholds", "1.5")),
    "threshold zero": ("thresholds: [0.5, 0, 0.5, 0.5]", ("thresholds",)),
    "negative rate": ("admission: always\narrivals: {rule: poisson, rate_per_s: -3}", ("rate_per_s", "above 0")),
    "segment hosted nowhere": ("topology: 2-node\nplacement: {n1: 1-2, n2: 4-5}", ("placement", "segment 3")),
    "unknown worker": ("placement: {n7: all}", ("placement", "n7", "n1")),
    "no such checkpoint": ("model: resnet9000", ("model", "resnet9000")),
    "no such data": ("dataset: my-pictures", ("dataset", "my-pictures")),
    "not YAML": ("topology: [", ("bad.yaml",)),
    "not an experiment": ("- 1\n- 2", ("bad.yaml",)),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_wrong_experiment_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, words = BAD[name]
    (tmp_path / "bad.yaml").write_text(text)
    line = refused(here("run", "bad.yaml", folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys))
    assert "bad.yaml" in line and all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


def _disconnected(folder: Path) -> None:
    (folder / "graph.yaml").write_text("source: a\nworkers: [a, b, c]\nlinks: [[a, b]]\n")
    (folder / "bad.yaml").write_text("topology: graph.yaml")


def _corrupt_checkpoint(folder: Path) -> None:
    _checkpoint(folder)
    (folder / "net.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:100_000])


def _card_of_another_network(folder: Path) -> None:
    _checkpoint(folder)
    card = json.loads((folder / "net.json").read_text())
    (folder / "net.json").write_text(json.dumps({**card, "temperatures": [1.0, 1.0]}))


def _checkpoint(folder: Path) -> None:
    weights = Path(__file__).resolve().parents[1] / "mdi_exit" / "assets" / "mobilenetv2-cifar10.safetensors"
    for suffix in (".safetensors", ".json"):
        (folder / f"net{suffix}").write_bytes(weights.with_suffix(suffix).read_bytes())
    (folder / "bad.yaml").write_text("model: net.safetensors\nduration_s: 1")


def _empty_data(folder: Path) -> None:
    (folder / "images" / "cat").mkdir(parents=True)
    (folder / "bad.yaml").write_text("dataset: ./images\nduration_s: 1")


def _no_classes(folder: Path) -> None:
    image(folder / "images" / "loose.png")
    (folder / "bad.yaml").write_text("dataset: ./images\nduration_s: 1")


def _mixed_sizes(folder: Path) -> None:
    image(dataset(folder) / "dog" / "large.png", size=48)
    (folder / "bad.yaml").write_text("dataset: ./images\nduration_s: 1")


def _another_size(folder: Path) -> None:
    image(folder / "images" / "cat" / "large.png", size=48)
    (folder / "bad.yaml").write_text("dataset: ./images\nduration_s: 1")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (_disconnected, ("graph.yaml", "links", "c is cut off")),
        (_corrupt_checkpoint, ("net.safetensors",)),
        (_card_of_another_network, ("net.json", "temperatures", "5")),
        (_empty_data, ("images",)),
        (_no_classes, ("images", "loose.png")),
        (_mixed_sizes, ("images", "cat/1.png is 32x32", "dog/large.png is 48x48", "resize: true")),
        (_another_size, ("images are 48x48, the network takes 32x32; allowed: that size, or resize: true",)),
    ],
)
def test_wrong_files_are_refused_in_one_line(
    prepare: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path
) -> None:
    prepare(tmp_path)
    line = refused(mdi_exit("run", "bad.yaml", folder=tmp_path))
    assert all(word in line for word in words), line


# ---- runs


def test_a_port_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        setting = f"runtime.port_base={port}"
        line = refused(mdi_exit("run", "find-rate", "--set", "topology=local", "--set", setting, folder=tmp_path))
    assert str(port) in line and "in use" in line and "port_base" in line


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """A real run of two workers on images of our own, one of them broken, with journals."""
    folder = tmp_path_factory.mktemp("run")
    (dataset(folder) / "dog" / "broken.png").write_bytes(b"not a picture")
    (folder / "mine.yaml").write_text(
        "topology: 2-node\ndevices: jetson-nano\nlinks: {bandwidth: 20 Mbit/s}\nduration_s: 2.5\n"
        "dataset: ./images\nruntime: {journal: true}\nadmission: {rule: rate_adaptation, first_interarrival_s: 0.02}\n"
    )
    yield folder, mdi_exit("run", "mine.yaml", "--seed", "3", "--out", "results", folder=folder)


def test_a_run_says_what_became_of_every_image(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = ran
    assert done.returncode == 0, done.stderr
    report = read_report(folder / "results")
    assert report["runtime"] == "ray" and report["seed"] == 3 and report["name"] == "mine"
    assert report["completed"] > 20 and report["lost"] == report["shed"] == report["duplicates"] == 0
    assert report["offered"] == report["completed"] + report["failed"]
    assert report["accuracy"] is not None and sum(report["exits"]) == report["completed"]
    assert not report["interrupted"] and report["duration_s"] > 1  # of the 2.5 asked for, however slow the machine is
    assert 0 < report["throughput_per_s"] * report["duration_s"] < report["completed"] + 0.5
    assert report["series"]["time_s"][-1] <= report["duration_s"] + report["drain_s"]
    for row in report["workers"].values():
        assert row["processed"] > 0 and row["rss_bytes"] > 20e6 and row["pace_missed"] is not None
    assert report["links"]["n1-n2"]["tasks"] > 0 and report["first_result_s"] > 0


def test_an_unreadable_image_is_named_and_the_run_goes_on(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = ran
    report = read_report(folder / "results")
    ((reason, count),) = report["reasons"]["failed"].items()
    assert "broken.png" in reason and count == report["failed"] > 0 and f"{count} failed: " in done.stdout


def test_a_run_prints_tables_on_stdout_and_plain_progress_on_stderr(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = ran
    for text in (done.stdout, done.stderr):
        assert all(character == "\n" or character.isprintable() for character in text)
    for title in ("Summary", "Per exit", "Per worker", "Per link", "Results in results"):
        assert title in done.stdout
    assert "answered  queues n1 " in done.stderr and "Warning" not in done.stderr
    files = sorted(path.relative_to(folder / "results").as_posix() for path in (folder / "results").rglob("*.*"))
    journals = ["journals/n1-0.journal", "journals/n2-0.journal"]
    figures = [f"{name}.{kind}" for name in ("throughput-accuracy", "time-series") for kind in ("png", "svg")]
    assert files == sorted([*journals, "report.json", *figures])


def test_journals_of_real_devices_replay_with_identical_effects(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = ran
    experiment = load_experiment(folder / "mine.yaml", {"seed": 3})
    card = assembly.load_card(experiment)
    paths = journals(folder / "results" / "journals")
    assert [path.name for path in paths] == ["n1-0.journal", "n2-0.journal"]
    for path in paths:
        assert sum(1 for _ in read(path)) > 100
        assert replay(path, experiment, card) is None
    other = load_experiment(folder / "mine.yaml", {"seed": 3, "thresholds": 0.3})
    assert replay(paths[0], other, card) is not None


def test_a_report_is_shown_again_as_it_was(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = ran
    figure = folder / "results" / "time-series.svg"
    drawn = figure.read_bytes()
    figure.unlink()
    again = mdi_exit("report", "results", folder=folder)
    assert again.returncode == 0 and again.stdout == done.stdout and again.stderr == ""
    assert figure.read_bytes() == drawn
    as_json = mdi_exit("report", "results/report.json", "--json", folder=folder)
    assert json.loads(as_json.stdout) == read_report(folder / "results")


class Greeting(socketserver.BaseRequestHandler):
    """Begins as a server of HTTP/2 does, with an empty SETTINGS frame, and says no more."""

    def handle(self) -> None:
        """Answer, and wait for the end."""
        self.request.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        while self.request.recv(4096):
            pass


@contextlib.contextmanager
def listening(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    """Where somebody listens who is not Ray."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("joins", [False, True], ids=["one of our own", "one that is joined"])
def test_a_cluster_that_ray_does_not_give_is_one_line_with_its_reason(joins: bool, tmp_path: Path) -> None:
    with listening(Greeting) as somebody:
        token = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "nowhere")}
        address = ["--address", somebody] if joins else []
        line = refused(mdi_exit("run", "find-rate", *address, folder=tmp_path, changes=token))
    assert ("cannot be joined (" if joins else "cannot start Ray on this machine (") in line
    assert token["RAY_AUTH_TOKEN_PATH"] in line and not (tmp_path / "runs").exists()


def test_an_address_where_something_else_listens_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with listening(socketserver.BaseRequestHandler) as somebody:  # it closes at once
        done = mdi_exit("run", "find-rate", "--address", somebody, folder=tmp_path)
    said = f"Ray cluster {somebody}: what listens there is no Ray, or hangs; allowed: the address and port of a head"
    assert said in refused(done) and "ray start --head --port=6379" in done.stderr


class Dribbling(socketserver.BaseRequestHandler):
    """The same byte by byte; it ends after `sends`."""

    sends = 9

    def handle(self) -> None:
        """Answer as it comes through a bad line."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for each in bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])[: self.sends]:
            self.request.sendall(bytes([each]))
            time.sleep(0.02)
        while self.sends == 9 and self.request.recv(4096):
            pass


class Broken(Dribbling):
    """It closes before it has said what it is."""

    sends = 3


@pytest.mark.parametrize(("handler", "is_ray"), [(Greeting, True), (Dribbling, True), (Broken, False)])
def test_a_head_whose_greeting_comes_in_pieces_is_one(
    handler: type[socketserver.BaseRequestHandler], is_ray: bool
) -> None:
    with listening(handler) as somebody:
        host, _, port = somebody.rpartition(":")
        with socket.create_connection((host, int(port)), 60) as asking:
            assert cluster._greets(asking) == is_ray


def test_that_no_ray_runs_here_is_told_with_how_to_start_one() -> None:
    rays = "Could not find any running Ray instance. Please specify the one to connect to by setting `--address` flag"
    assert cluster._why(ConnectionError(rays)).startswith("none runs on this machine; allowed: HOST:PORT of a head")


# It listens on the loopback interface alone, and ends when its standard input does.
_HEAD = """
import logging, sys, ray
ray.init(address="local", include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False,
         logging_level=logging.ERROR, _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


def test_a_joined_cluster_that_asks_for_no_token_is_warned_of(tmp_path: Path) -> None:
    unguarded = {**LOCAL_ENVIRONMENT, "RAY_AUTH_MODE": "disabled"}
    with (
        tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short,  # Ray makes sockets in it
        subprocess.Popen(
            [sys.executable, "-c", _HEAD, short], stdin=-1, stdout=-1, text=True, env={**os.environ, **unguarded}
        ) as head,
    ):
        assert head.stdin is not None and head.stdout is not None
        address = head.stdout.readline().strip()
        words = ["--set", "topology=2-node", "--set", "duration_s=1", "--out", "results", "--address", address]
        done = mdi_exit("run", "find-rate", *words, folder=tmp_path, changes=unguarded)
        head.stdin.close()
    assert done.returncode == 0 and address.startswith("127.0.0.1:"), done.stderr
    (note,) = [note for note in read_report(tmp_path / "results")["notes"] if "RAY_AUTH_MODE" in note]
    assert "asks for no token" in note and note in done.stdout


def test_a_run_that_fails_leaves_the_results_of_an_older_one_alone(tmp_path: Path) -> None:
    write_report(tmp_path / "results", record("find-rate", 1.0).report())
    older = {path: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.jpg").write_bytes(b"no image")
    refused(mdi_exit("run", "find-rate", "--set", "dataset=flat", "--out", "results", folder=tmp_path))
    assert {path: path.read_bytes() for path in (tmp_path / "results").iterdir()} == older
    (tmp_path / "file").write_text("")
    line = refused(mdi_exit("run", "find-rate", "--out", "file", folder=tmp_path))
    assert "--out file" in line and "allowed" in line


def test_results_whose_folder_nobody_named_do_not_replace_older_ones(tmp_path: Path) -> None:
    words = ("simulate", "find-rate", "--set", "duration_s=0.5", "--no-optimum", "--seed")
    for seed, name in enumerate(("find-rate-simulated", "find-rate-simulated-2", "find-rate-simulated-3")):
        done = mdi_exit(*words, str(seed), folder=tmp_path)
        assert done.returncode == 0 and f"Results in runs/{name}: report.json" in done.stdout
    seeds = [read_report(folder)["seed"] for folder in sorted((tmp_path / "runs").iterdir())]
    assert seeds == [0, 1, 2]


def test_runs_that_begin_at_once_get_a_folder_each(tmp_path: Path) -> None:
    """An empty folder is no free one: another run may just have made it."""
    together = threading.Barrier(8)

    def claim(number: int) -> Path:
        with outputs.claimed(tmp_path / "runs" / "name") as folder:
            together.wait(60)
            (folder / "report.json").write_text(str(number))
            return folder

    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(claim, range(8)))
    assert {folder.name for folder in folders} == {"name", *(f"name-{number}" for number in range(2, 9))}
    assert [(folder / "report.json").read_text() for folder in folders] == [str(number) for number in range(8)]


def test_a_run_of_which_nothing_is_left_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.jpg").write_bytes(b"no image")
    refused(mdi_exit("run", "find-rate", "--set", "dataset=flat", folder=tmp_path))
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs" / "find-rate").mkdir(parents=True)
    refused(mdi_exit("run", "find-rate", "--set", "dataset=flat", folder=tmp_path))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["find-rate"], "that one was there"
    with pytest.raises(UserError, match="half"), outputs.claimed(tmp_path / "runs" / "find-rate") as folder:
        (folder / "journal").write_text("")
        raise UserError("half")
    assert [path.name for path in folder.iterdir()] == ["journal"], "what it did write stays"


def test_json_of_a_run_names_its_folder_on_standard_error(tmp_path: Path) -> None:
    words = ("find-rate", "--set", "duration_s=0.5", "--no-optimum", "--json")
    done = mdi_exit("simulate", *words, folder=tmp_path)
    assert json.loads(done.stdout)["name"] == "find-rate"
    said = [line for line in done.stderr.splitlines() if "Results in" in line]
    assert len(said) == 1 and said[0].startswith("Results in runs/find-rate-simulated: report.json, "), done.stderr


@pytest.mark.parametrize("verb", ["run", "simulate"])
@pytest.mark.parametrize("where", ["a file", "nobody may look", "nobody may write", "no folders here"])
def test_a_runs_folder_that_cannot_be_used_is_one_line_with_the_remedy(
    where: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    if where == "a file":
        runs.write_text("")
    elif where.startswith("nobody"):
        if os.geteuid() == 0:
            pytest.skip("root may")
        runs.mkdir(mode=0o000 if where == "nobody may look" else 0o555)
    folder = Path("/proc") if where == "no folders here" else tmp_path
    done = here(verb, "find-rate", folder=folder, monkeypatch=monkeypatch, capsys=capsys)
    if runs.exists():
        runs.chmod(0o755)  # so that it can be cleared up
    line = refused(done)
    assert "runs/find-rate" in line and "cannot be written to (" in line and "allowed: another folder, by --out" in line


_TRAINING = ["mobilenetv2-cifar10", "--data", "sample"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "find-rate"],
        ["demo"],
        ["topologies"],
        ["train", "--data", "sample"],
        ["calibrate", *_TRAINING, "--separate"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("out", ["/proc", "/proc/results", "file/results"])
def test_where_nothing_can_be_written_is_told_of_before_any_work(
    arguments: list[str],
    out: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first line is the last one: nothing is read, and no cluster started, before it."""
    (tmp_path / "file").write_text("")
    done = here(*arguments, "--out", out, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    line = refused(done)
    assert done.stderr == line + "\n" and "--out" in line and "allowed: a folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("out", ["/proc/trace.npz", "/dev/null", "folder", "file/trace.npz"])
def test_where_no_trace_can_be_written_is_told_of_before_any_work(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    done = here("trace", *_TRAINING, "--out", out, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert done.stderr == refused(done) + "\n" and "--out" in done.stderr and "allowed: a f" in done.stderr


def test_a_figure_that_the_disk_does_not_take_is_one_line_after_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(tmp_path / "results", record("find-rate", 1.0).report())
    (tmp_path / "results" / "time-series.svg").symlink_to("/dev/full")
    done = here("report", "results", folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert done.returncode == 2 and "Summary" in done.stdout and "Results in" not in done.stdout
    assert done.stderr == "mdi-exit: results: cannot be written (No space left on device)\n"


def in_a_terminal(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Start `mdi-exit` as a shell does: at the head of a process group, all of which Ctrl-C reaches."""
    program = [sys.executable, "-c", "from mdi_exit.cli import main; main()", *arguments]
    return subprocess.Popen(program, cwd=folder, stdout=-1, stderr=-1, text=True, start_new_session=True)


def test_a_report_that_the_disk_does_not_take_is_one_line_after_the_tables(tmp_path: Path) -> None:
    settings = ["--out", "results", "--set", "topology=2-node", "--set", "duration_s=3"]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "report.json").symlink_to("/dev/full")
    with in_a_terminal("run", "find-rate", *settings, folder=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        shown, rest = process.communicate(timeout=60)
    assert process.returncode == 2 and "Summary" in shown and "Results in" not in shown, (shown, rest)
    assert rest.splitlines()[-1] == "mdi-exit: results/report.json: cannot be written (No space left on device)"
    assert "Traceback" not in rest


def test_ctrl_c_gives_the_report_of_the_part_that_was_done(tmp_path: Path) -> None:
    settings = ["--out", "results", "--set", "topology=2-node", "--set", "duration_s=60"]
    with in_a_terminal("run", "find-rate", *settings, folder=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if " answered" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        shown, rest = process.communicate(timeout=60)
    assert process.returncode == 130, (said, shown, rest)
    report = read_report(tmp_path / "results")
    assert report["interrupted"] and report["completed"] > 0 and report["duration_s"] < 50
    assert report["offered"] == sum(report[key] for key in ("completed", "shed", "failed", "lost"))
    assert "The run was interrupted" in shown and "Traceback" not in rest
    assert (tmp_path / "results" / "throughput-accuracy.png").exists()


def test_ctrl_c_before_anything_ran_is_a_line_and_status_130(tmp_path: Path) -> None:
    with in_a_terminal("run", "find-rate", folder=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "starting a Ray cluster" in line:
                break
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        shown, rest = process.communicate(timeout=60)
    assert process.returncode == 130 and shown == "" and "Traceback" not in rest, rest
    assert rest.splitlines()[-1] == "mdi-exit: interrupted before there was anything to report"


_CTRL_C_WHILE_RAY_IS_IMPORTED = """
import os, signal, sys
from mdi_exit.cli import main

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "ray._raylet":
            os.kill(os.getpid(), signal.SIGINT)
            print("went on")

sys.meta_path.insert(0, Finder())
main()
"""


def test_ctrl_c_does_not_cut_an_import_of_ray_short(tmp_path: Path) -> None:
    """Parts of Ray lose the exception on the way, and the run would go on as if nobody had asked it to end."""
    command = [sys.executable, "-c", _CTRL_C_WHILE_RAY_IS_IMPORTED, "run", "find-rate"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "went on\n"), done.stderr
    assert done.stderr.splitlines()[-1] == "mdi-exit: interrupted before there was anything to report"
