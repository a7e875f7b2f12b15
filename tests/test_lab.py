"""What a lab is made of and the commands that change it; where root and namespaces are to be had, a lab itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mdi_exit import topology_file
from mdi_exit.config.load import load_experiment
from mdi_exit.errors import UserError
from mdi_exit.lab import cgroups, device, files, shell, spec, state, warden

from .test_ray_cluster import lab_state

PROGRAM = Path(sys.executable).parent / "mdi-exit"


# ---- what it is made of


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine of two cores and 4 GB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(spec, "available_bytes", lambda: 4_000_000_000)


def test_a_number_gives_so_many_equal_devices_each_linked_with_each() -> None:
    lab = spec.load("3")
    assert lab.topology.workers == ("n1", "n2", "n3") and len(lab.topology.links) == 3
    assert lab.address("n3") == "10.77.0.3" and len(set(lab.devices.values())) == 1
    shape = lab.shape("n3", "n1")
    assert shape is not None and shape.bandwidth_bps == 100e6


def test_a_lab_file_says_what_each_device_and_link_is_like(tmp_path: Path) -> None:
    (tmp_path / "graph.yaml").write_text(
        "source: a\nworkers: [a, b, c]\nlinks: [[a, b], {between: [b, c], bandwidth: 5 Mbit/s, loss: 0.1}]"
    )
    file = tmp_path / "my.yaml"
    file.write_text("topology: graph.yaml\nlinks: {latency_s: 0.01}\ndevices: {b: {cpus: 0.25, memory: 1.5 GB}}")
    lab = spec.load(str(file))
    assert lab.devices["b"] == spec.DeviceSpec(0.25, 1_500_000_000)
    slow, quick = lab.shape("c", "b"), lab.shape("a", "b")
    assert slow is not None and (slow.bandwidth_bps, slow.latency_s, slow.loss) == (5e6, 0.01, 0.1)
    assert quick is not None and quick.bandwidth_bps == 100e6
    assert lab.shape("a", "c") is None


def test_shipped_labs_can_be_loaded() -> None:
    assert len(spec.load("two-speeds").devices) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "names no devices; allowed: devices:, topology: or both"),
        ("devices: {n1: {cpus: 0.001}}", "devices.n1.cpus: is 0.001; allowed: 0.05 or more"),
        ("devices: {n1: {cpus: 999}}", "devices.n1.cpus: is 999; allowed: 0.05 to"),
        ("devices: {n1: {memory: 10 MB}}", "devices.n1.memory: is '10 MB'; allowed: 500 MB or more"),
        ("devices: {n1: {memory: 3}}", "devices.n1.memory: is 3; allowed: 500 MB or more"),
        ("devices: {n1: {core: 1}}", "devices.n1: unknown key 'core'"),
        ("devices: {desk: {}}", "devices: holds 'desk' as a name"),
        ("devices: {N1: {}}", "devices: holds 'N1' as a name"),
        ("topology: 2-node\ndevices: {n9: {}}", "devices: unknown device 'n9'"),
        ("topology: 2-node\nlinks: {channel: wifi}", "has a channel or a bandwidth_trace"),
        ("links: {bandwidth: fast}", "links.bandwidth: is 'fast'; allowed: a number with bit/s"),
    ],
)
def test_a_mistake_in_a_lab_file_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as refused:
        spec.load(str(file))
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.usefixtures("two_cores")
def test_so_many_devices_that_ray_would_not_start_in_them_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spec.load("8").devices["n8"].cpus == 0.25 and spec.load("8").warnings == ()
    cores = "an equal share of 2 cores is 0.18 of one, and Ray needs 0.2 to start; allowed: at most 10 devices"
    with pytest.raises(UserError, match=f"^lab of 11: {cores}"):
        spec.load("11")
    memory = "9 devices need some 4.5 GB of memory, of which 4.0 are free; allowed: at most 8 devices now"
    with pytest.raises(UserError, match=f"^lab of 9: {memory}"):
        spec.load("9")
    file = tmp_path / "small.yaml"
    file.write_text("topology: 3-node-mesh\ndevices: {n2: {cpus: 0.1}, n3: {cpus: 0.2}}")
    asked_for = spec.load(str(file))
    assert asked_for.devices["n2"].cpus == 0.1
    assert asked_for.warnings == ("n2: on less than 0.2 of a core Ray may not start",)
    monkeypatch.setattr(spec, "available_bytes", lambda: 1_000_000_000)
    file.write_text("devices: {n1: {memory: 1 GB}, n2: {memory: 1 GB}, n3: {memory: 1 GB}}")
    assert spec.load(str(file)).warnings == ("3 devices need some 1.5 GB of memory, of which 1.0 are free",)


@pytest.mark.parametrize("what", ["0", "101", "no-such-lab"])
def test_a_lab_that_cannot_be_is_refused(what: str) -> None:
    with pytest.raises(UserError, match="allowed"):
        spec.load(what)


# ---- control groups


def test_version_1_groups_lie_below_the_caller(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/session\n2:cpu,cpuacct:/\n0::/\n")
    (tmp_path / "memory" / "session").mkdir(parents=True)
    (tmp_path / "cpu").mkdir()
    groups = cgroups.find("a", tmp_path, own)
    assert groups == cgroups.Groups(1, tmp_path / "cpu/mdi-exit-lab-a", tmp_path / "memory/session/mdi-exit-lab-a")


def test_version_2_groups_are_limited_by_two_files(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    groups = cgroups.find("a", tmp_path, tmp_path / "none")
    cgroups.create(groups, ["n1"])
    cgroups.limit(groups, "n1", spec.DeviceSpec(0.25, 10**9))
    folder = tmp_path / "mdi-exit-lab-a"
    assert (folder / "n1" / "cpu.max").read_text() == "5000 20000"
    assert (folder / "n1" / "memory.max").read_text() == "1000000000"
    assert (folder / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert groups.folders("n1") == [folder / "n1"]


def test_a_machine_without_control_groups_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    with pytest.raises(UserError, match="no cgroup controllers"):
        cgroups.find("a", tmp_path, own)


# ---- what of the machine stays in sight


def test_folders_below_what_is_hidden_are_kept_once(tmp_path: Path) -> None:
    inner = [Path("/tmp/a/b"), Path("/tmp/a"), Path("/usr"), Path("/tmp"), Path("/dev/shm/x")]
    assert device.kept(inner) == ["/dev/shm/x", "/tmp/a"]


# ---- the command line


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux may one become nobody")
def test_without_root_it_says_how_to_call_it() -> None:
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid", "65534", "--clear-groups"]
        if subprocess.run([*command, sys.executable, "-c", ""], capture_output=True, check=False).returncode:
            pytest.skip("this Python cannot be run by another user")
    else:
        command = []
    code = "import sys; sys.argv[1:] = ['lab', 'up']; from mdi_exit.cli import main; main()"
    done = subprocess.run([*command, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"mdi-exit: lab: needs root on Linux and runs as user \d+ .* sudo .*\n", done.stderr)


def test_what_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shell, "path", lambda program: None if program in ("rsync", "sshd") else program)
    with pytest.raises(UserError, match=r"no sshd, rsync here; .* apt install openssh-server rsync"):
        shell.check_machine()


def test_a_program_that_fails_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^lab: trying: last$"):
        shell.run(["sh", "-c", "echo first >&2; echo last >&2; exit 3"], doing="trying")


def test_a_warden_that_cannot_start_is_one_line_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho first >&2; echo last >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    monkeypatch.setattr(state, "ROOT", tmp_path / "labs")
    state.folder("a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot start its warden: last$"):
        warden.start("a")
    assert not state.ROOT.exists()


def test_a_warden_is_known_again_after_the_clock_was_set_and_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "ROOT", tmp_path)
    state.folder("a").mkdir()
    state.sign("a")
    began_s = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: began_s + 3600)
    found = state.warden("a")
    assert found is not None and found.pid == os.getpid() and not state.is_stale("a")
    signed = state.folder("a") / "warden.pid"
    pid, rest = signed.read_text().split(maxsplit=1)
    for other in (f"{pid} 1{rest}", f"{pid} {rest}1", f"{pid} 12.5"):
        signed.write_text(other)
        assert state.warden("a") is None and state.is_stale("a")


def test_only_one_at_a_time_starts_a_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ROOT", tmp_path / "labs")
    refused = pytest.raises(UserError, match="another mdi-exit lab up or down is at work")
    with state.alone("a"), state.alone("b"), refused, state.alone("a"):
        pass
    with state.alone("a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_the_files_of_a_lab_only_those_go_that_are_as_it_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "ROOT", tmp_path / "labs")
    known, out = lab_state(), tmp_path / "out"
    known.out, known.groups = str(out), [str(tmp_path / "no-cpu"), str(tmp_path / "no-memory")]
    place = state.folder(known.name)
    place.mkdir(parents=True)
    (place / device.KEY).write_text("secret")
    files.write(known, spec.load("3"))
    assert sorted(file.name for file in out.iterdir()) == sorted(files.NAMES)
    for name in (files.EXPERIMENT, files.TOKEN):
        (out / name).write_text("mine")
    (out / files.TOPOLOGY).unlink()
    (out / files.TOPOLOGY).mkdir()  # neither ours nor a file: must not stop the rest
    assert state.clear(known.name) == []
    assert sorted(file.name for file in out.iterdir()) == [files.EXPERIMENT, files.TOPOLOGY]
    assert (out / files.EXPERIMENT).read_text() == "mine"


def test_links_that_no_device_has_are_refused() -> None:
    with pytest.raises(UserError, match="no device 'n9'; it has n1, n2, n3"):
        lab_state().device("n9")


# ---- a lab itself


def why_not() -> str:
    """Why no lab can be made here; empty when one can."""
    try:
        shell.check_machine()
        cgroups.find("probe")
        shell.run([*shell.UNSHARE, "ip", "link", "add", "br0", "type", "bridge"], doing="a bridge")
    except UserError as error:
        return str(error)
    return ""


WHY_NOT = why_not()
needs_lab = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def lab(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call `mdi-exit lab`."""
    command = [str(PROGRAM), "lab", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def leftovers(name: str) -> list[str]:
    """What is left of a lab: its folder and its control groups."""
    # Unlike Path.rglob, os.walk goes on where a folder has gone meanwhile: other labs come and go too.
    walk = os.walk("/sys/fs/cgroup")
    found = [f"{top}/{cgroups.PREFIX}{name}" for top, folders, _ in walk if f"{cgroups.PREFIX}{name}" in folders]
    return found + [str(path) for path in [state.folder(name)] if path.exists()]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A lab of two devices: its name, and the folder from which it was started."""
    name, folder = f"test-{os.getpid()}", tmp_path_factory.mktemp("lab")
    done = lab("up", "2", "--name", name, cwd=folder)
    assert done.returncode == 0, done.stderr
    yield name, folder
    ended = lab("down", "--name", name, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    assert "left of it: no process" in ended.stdout
    assert leftovers(name) == [] and list(folder.iterdir()) == []


@needs_lab
def test_a_device_is_a_machine_of_its_own(running: tuple[str, Path]) -> None:
    name, folder = running
    done = lab("ssh", "--name", name, "n2", "hostname; pwd; ls /proc | grep -c '^[0-9]'; ip -o -4 address", cwd=folder)
    host, where, processes, *addresses = done.stdout.splitlines()
    assert (host, where) == ("n2", str(folder)) and int(processes) < 15
    assert any("10.77.0.2/24" in line for line in addresses)
    assert lab("ssh", "--name", name, "n2", "touch", "/tmp/mine", cwd=folder).returncode == 0
    assert lab("ssh", "--name", name, "n1", "ls", "/tmp/mine", cwd=folder).returncode != 0
    assert not Path("/tmp/mine").exists()


@needs_lab
def test_a_device_has_the_memory_and_cores_that_it_was_given(running: tuple[str, Path]) -> None:
    name, folder = running
    assert lab("shape", "n1", "--memory", "600 MB", "--cpus", "0.5", "--name", name, cwd=folder).returncode == 0
    code = "import sys; print(len(b'x' * int(sys.argv[1]) * 10**6))"
    fits = lab("ssh", "--name", name, "n1", sys.executable, "-c", code, "300", cwd=folder)
    assert fits.stdout == "300000000\n", fits.stderr
    assert lab("ssh", "--name", name, "n1", sys.executable, "-c", code, "900", cwd=folder).stdout == ""
    groups = state.load(name).cgroups
    quota = "cpu.max" if groups.version == 2 else "cpu.cfs_quota_us"
    assert (groups.cpu / "n1" / quota).read_text().split()[0] == "10000"


@needs_lab
def test_what_a_lab_writes_can_be_used(running: tuple[str, Path]) -> None:
    name, folder = running
    experiment = load_experiment(folder / name / "experiment.yaml", {})
    assert experiment.runtime.workers == {"n1": "10.77.0.1", "n2": "10.77.0.2"}
    assert topology_file.load(folder / name / "topology.yaml").workers == ("n1", "n2")
    assert (folder / name / "key").stat().st_mode & 0o077 == 0 == (folder / name / "token").stat().st_mode & 0o077


# Prints how many bytes came and in how many seconds.
_RECEIVE = """
import socket, sys, time
with socket.create_server(("", int(sys.argv[1]))) as server:
    server.settimeout(60)
    print("ready", flush=True)
    came, _ = server.accept()
    began_s, count = time.monotonic(), 0
    while part := came.recv(65536):
        count += len(part)
    print(count, time.monotonic() - began_s)
"""


@needs_lab
def test_links_are_as_fast_as_they_are_told_to_be(running: tuple[str, Path]) -> None:
    name, folder = running
    shaped = lab("shape", "n1", "n2", "--bandwidth", "8 Mbit/s", "--name", name, cwd=folder)
    assert shaped.returncode == 0 and shaped.stdout == "link between n1 and n2: 2 directions changed\n"
    status = lab("status", "--name", name, cwd=folder).stdout
    assert len(re.findall(r"n[12] +n[12] +8 Mbit/s", status)) == 2
    sent_bytes, port = 2_000_000, 5001
    words = [str(PROGRAM), "lab", "ssh", "--name", name, "n2", sys.executable, "-c", _RECEIVE, str(port)]
    send = f"head -c {sent_bytes} /dev/zero > /dev/tcp/10.77.0.2/{port}"
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None and receiver.stdout.readline() == "ready\n"
        sent = lab("ssh", "--name", name, "n1", send, cwd=folder)
        got_bytes, took_s = receiver.communicate(timeout=60)[0].split()
    assert sent.returncode == 0, sent.stderr
    assert int(got_bytes) == sent_bytes
    assert float(took_s) >= 1.5  # two seconds' worth, less what may wait; the limit promises no more than this bound


@needs_lab
def test_a_cut_link_comes_back(running: tuple[str, Path]) -> None:
    name, folder = running
    answers = ["ssh", "--name", name, "n1", "timeout 2 bash -c 'true < /dev/tcp/10.77.0.2/22'"]
    for words in (["n2", "--link"], ["n1", "n2"]):
        assert lab("kill", *words, "--name", name, cwd=folder).returncode == 0
        assert lab(*answers, cwd=folder).returncode != 0
        assert lab("kill", *words, "--back", "--name", name, cwd=folder).returncode == 0
        assert lab(*answers, cwd=folder).returncode == 0


@needs_lab
def test_a_device_without_power_is_off_and_comes_back(running: tuple[str, Path]) -> None:
    name, folder = running
    assert lab("kill", "n2", "--name", name, cwd=folder).returncode == 0
    assert re.search(r"n2 .* off", lab("status", "--name", name, cwd=folder).stdout)
    refused = lab("kill", "n2", "--link", "--back", "--name", name, cwd=folder)
    assert refused.returncode == 0
    assert lab("kill", "n2", "--back", "--name", name, cwd=folder).returncode == 0
    assert lab("ssh", "--name", name, "n2", "hostname", cwd=folder).stdout == "n2\n"


@needs_lab
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("words", "off"), [(("n2",), "off"), (("n1", "n2"), "cut")])
def test_what_is_down_for_a_time_comes_back_when_the_command_is_ended(
    running: tuple[str, Path], number: signal.Signals, words: tuple[str, ...], off: str
) -> None:
    name, folder = running
    command = [str(PROGRAM), "lab", "kill", *words, "--for", "3600", "--name", name]

    def heed() -> None:  # also where whoever started the tests ignores it, as nohup does: that is inherited
        signal.signal(number, signal.SIG_DFL)

    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        assert process.stdout is not None and process.stdout.readline().endswith(": down\n")
        assert off in lab("status", "--name", name, cwd=folder).stdout.split()
        process.send_signal(number)
        assert process.communicate(timeout=60)[0].endswith(": up again\n") and process.returncode == 0
    assert off not in lab("status", "--name", name, cwd=folder).stdout.split()
    assert lab("ssh", "--name", name, "n2", "hostname", cwd=folder).stdout == "n2\n"


def look(name: str, folder: Path, file: str) -> tuple[bool, list[tuple[str, str, str]]]:
    """What the doctor says at the desk of a cluster file's machines: are they fit; who, about what, what is bad."""
    done = lab("ssh", "--name", name, "desk", "mdi-exit", "doctor", "--json", "--cluster", file, cwd=folder)
    said = json.loads(done.stdout)
    bad = [found for found in said["findings"] if found["verdict"] == "bad"]
    assert (done.returncode == 0) == said["fit"] == (not bad), done.stderr
    return said["fit"], [(found["where"], found["about"], found["what"]) for found in bad]


@needs_lab
def test_the_doctor_finds_a_lab_fit(running: tuple[str, Path]) -> None:
    name, folder = running
    assert look(name, folder, f"{name}/ray_cluster.yaml") == (True, [])


@needs_lab
def test_the_doctor_says_what_keeps_ray_up_from_a_lab(running: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = running
    key, made = folder / name / "other", folder / "bad.yaml"
    shell.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    good = (folder / name / "ray_cluster.yaml").read_text()
    wrong = (("10.77.0.2", "10.77.0.99"), (f"{name}/key", f"{name}/other"), (f"{name}/token", f"{name}/none"))
    try:
        for before, after in wrong:
            good = good.replace(before, after)
        made.write_text(good)
        state_file = f"/tmp/ray/cluster-lab-{name}.state"
        write = f'mkdir -p /tmp/ray; echo \'{{"10.77.0.1": {{"state": "running"}}}}\' > {state_file}'
        assert lab("ssh", "--name", name, "desk", write, cwd=folder).returncode == 0
        _, bad = look(name, folder, "bad.yaml")
    finally:
        for file in (key, key.with_suffix(".pub"), made):
            file.unlink(missing_ok=True)
    assert ("10.77.0.1", "ssh") in [found[:2] for found in bad] and "ssh does not let us in" in str(bad)
    assert ("10.77.0.99", "ssh") in [found[:2] for found in bad] and "no answer" in str(bad)
    assert [found[1] for found in bad if found[0] == "here"] == ["file_mounts", "state"]
    assert lab("ssh", "--name", name, "desk", "rm", state_file, cwd=folder).returncode == 0


@needs_lab
def test_preflight_says_whether_the_head_can_be_reached(running: tuple[str, Path]) -> None:
    name, folder = running
    script = str(Path(__file__).resolve().parents[1] / "cluster" / "jetson" / "preflight")
    command = ("ssh", "--name", name, "n2", script, "10.77.0.1")
    assert lab(*command, cwd=folder).stdout == "n2: fit\n"
    assert lab("kill", "n1", "n2", "--name", name, cwd=folder).returncode == 0
    blocked = lab(*command, cwd=folder)
    assert lab("kill", "n1", "n2", "--back", "--name", name, cwd=folder).returncode == 0
    assert blocked.returncode == 1
    assert blocked.stdout.startswith("n2: port 6379 of the head 10.77.0.1 cannot be reached; open it")


@needs_lab
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("up", "2"), "is up already"),
        (("ssh", "n7"), "no device 'n7'"),
        (("shape", "n1"), "changes nothing"),
        (("shape", "n1", "n2", "--cpus", "0.5"), "belong to one device"),
        (("shape", "n1", "--bandwidth", "quick"), "is 'quick'; allowed: a number with bit/s"),
        (("kill", "n1", "n2", "--link"), "is about one device"),
        (("kill", "n2", "--for", "1e20"), "--for: is 1e+20; allowed: 0 to 86400 seconds"),
        (("kill", "n2", "--for", "nan"), "--for: is nan; allowed: 0 to 86400 seconds"),
    ],
)
def test_a_mistake_at_a_running_lab_is_one_line(running: tuple[str, Path], words: tuple[str, ...], said: str) -> None:
    name, folder = running
    done = lab(words[0], "--name", name, *words[1:], cwd=folder)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


@needs_lab
def test_commands_for_a_lab_that_is_not_up_say_so(tmp_path: Path) -> None:
    for words in (["down"], ["status"], ["ssh", "--name", "nowhere", "n1"], ["kill", "n1"]):
        done = lab(*words, *([] if "--name" in words else ["--name", "nowhere"]), cwd=tmp_path)
        assert done.returncode == 2 and "is not up" in done.stderr and done.stderr.count("\n") == 1


@needs_lab
def test_modules_of_the_current_folder_do_not_run(tmp_path: Path) -> None:
    name, ran = f"cwd-{os.getpid()}", tmp_path / "ran"
    (tmp_path / "psutil.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise SystemExit(1)\n")
    up = lab("up", "1", "--name", name, cwd=tmp_path)
    down = lab("down", "--name", name, cwd=tmp_path)
    assert not ran.exists()
    assert (up.returncode, down.returncode) == (0, 0), up.stderr + down.stderr


@needs_lab
def test_a_file_that_was_edited_outlives_its_lab(tmp_path: Path) -> None:
    name = f"edit-{os.getpid()}"
    assert lab("up", "1", "--name", name, "--out", "out", cwd=tmp_path).returncode == 0
    mine = tmp_path / "out" / files.EXPERIMENT
    mine.write_text(mine.read_text() + "# mine\n")
    ended = lab("down", "--name", name, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith(f" but, as they were changed since: {mine}\n")
    assert list(mine.parent.iterdir()) == [mine] and leftovers(name) == []


@needs_lab
def test_of_labs_of_one_name_that_come_up_at_once_one_does(tmp_path: Path) -> None:
    name, out = f"twin-{os.getpid()}", tmp_path / "out"
    words = [str(PROGRAM), "lab", "up", "1", "--name", name, "--out"]
    twins = [
        subprocess.Popen([*words, str(out / str(i))], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for i in range(4)
    ]
    said = [twin.communicate(timeout=120)[1] for twin in twins]
    assert sorted(twin.returncode for twin in twins) == [0, 2, 2, 2], said
    refused = [each for twin, each in zip(twins, said, strict=True) if twin.returncode]
    assert all(re.search(r"^mdi-exit: .*(is up already|another mdi-exit lab up).*\n$", each) for each in refused), said
    assert lab("ssh", "--name", name, "n1", "hostname", cwd=tmp_path).stdout == "n1\n"
    ended = lab("down", "--name", name, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert leftovers(name) == [] and not list(out.rglob("*.yaml"))


@needs_lab
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_lab_that_is_interrupted_while_it_comes_up_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    name = f"stop-{os.getpid()}"
    words = [str(PROGRAM), "lab", "up", "9", "--name", name]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "n1 is up" in process.stderr.readline()
        process.send_signal(number)
    wait_until_gone(name)
    assert list(tmp_path.iterdir()) == []


@needs_lab
def test_when_the_warden_is_killed_everything_ends_and_the_next_lab_clears_up(tmp_path: Path) -> None:
    name = f"kill-{os.getpid()}"
    assert lab("up", "1", "--name", name, cwd=tmp_path).returncode == 0
    groups = state.load(name).cgroups
    keeper = state.warden(name)
    assert keeper is not None
    keeper.kill()
    until_s = time.monotonic() + 60
    while cgroups.members(groups, "n1") and time.monotonic() < until_s:
        time.sleep(0.05)
    assert cgroups.members(groups, "n1") == []
    assert lab("up", "1", "--name", name, "--out", "other", cwd=tmp_path).returncode == 0
    assert lab("down", "--name", name, cwd=tmp_path).returncode == 0
    wait_until_gone(name)


def wait_until_gone(name: str) -> None:
    """Return when nothing is left of a lab; fail when it stays."""
    until_s = time.monotonic() + 60
    while (left := leftovers(name)) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert left == []
