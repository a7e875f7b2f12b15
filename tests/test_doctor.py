"""The doctor: what it makes of surveys, how it gets them, and a real cluster of two nodes under its eyes."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mdi_exit import survey as surveying
from mdi_exit.health import Finding, Way, fit, judge, judge_clock, judge_ray, judge_way
from mdi_exit.remote import Devices, devices_of, survey_devices, trouble
from mdi_exit.yamlfile import ConfigError

from .test_cli import here, mdi_exit, refused

HEALTHY: Mapping[str, Any] = {
    "host": "nano1",
    "python": "3.11.7",
    "executable": "python3",
    "packages": {**dict.fromkeys(surveying.PACKAGES, "1.0"), "torch": "2.13.0+cpu"},
    "imports": dict.fromkeys(surveying.PROBED),
    "machine": "aarch64",
    "glibc": "2.36",
    "flags": ["asimd"],
    "cpu_part": "0xd42",
    "openblas_coretype": None,
    "addresses": {"lo": "127.0.0.1", "docker0": "172.17.0.1", "wlan0": "192.168.1.11"},
    "memory_bytes": 4_000_000_000,
    "available_bytes": 3_000_000_000,
    "disk_bytes": {"home": 9_000_000_000},
    "unix_s": 0.0,
    "auth_mode": "token",
    "token": "00aa11bb",
    "token_readable_by_others": False,
    "programs": {"ssh": True, "rsync": True},
    "ray_runs": True,
    "start_log": None,
}


def other(package: str, version: str | None) -> dict[str, Any]:
    """Packages of which this one is of another version, or missing."""
    return {"packages": {**HEALTHY["packages"], package: version}}


def amiss(name: str = "b", address: str = "192.168.1.11", **changed: Any) -> list[Finding]:
    """What is wrong with machine b, which differs from a healthy one in this."""
    found = judge({"a": HEALTHY, "b": {**HEALTHY, **changed}}, {"a": "192.168.1.11", "b": address})
    return [each for each in found if each.verdict != "fine" and each.where == name]


def test_equal_and_healthy_machines_are_fit() -> None:
    assert amiss("a") == amiss("b") == []
    assert fit(judge({"a": HEALTHY, "b": HEALTHY}))


@pytest.mark.parametrize(
    ("changed", "verdict", "what", "remedy"),
    [
        ({"python": "3.11.9"}, "bad", "3.11.9, but 3.11.7 on a", "Ray wants the same patch version"),
        (other("ray", "2.59.0"), "bad", "ray 2.59.0, but 1.0 on a", "pip install ray==1.0"),
        (other("onnxruntime", "2"), "warn", "onnxruntime 2, but 1.0 on a", "onnxruntime==1.0"),
        (other("ray", None), "bad", "ray not installed in python3", "constraints.txt"),
        (other("torch", None), "warn", "torch is not installed", "on the machine"),
        ({"imports": {"numpy": "ended by signal 4 (illegal instruction)"}}, "bad", "numpy cannot", "OPENBLAS"),
        ({"imports": {"torch": "libc.so.6: version `GLIBC_2.28' not found"}}, "bad", "torch cannot", "an older wheel"),
        ({"cpu_part": "0xd07"}, "warn", "Cortex-A57", "OPENBLAS_CORETYPE=ARMV8"),
        ({"glibc": "2.27"}, "warn", "2.27 is older", "torch 2.5.1 is the last"),
        ({"glibc": None}, "warn", "musl", "glibc"),
        ({"machine": "x86_64"}, "warn", "no AVX2", "newer"),
        ({"available_bytes": 200_000_000}, "bad", "0.2 GB available, 0.7 wanted", "mdi-exit plan --memory-max"),
        ({"available_bytes": 500_000_000}, "warn", "0.5 GB available", "zram"),
        ({"disk_bytes": {"home": 1_000}}, "bad", "0.0 GB free in home", "free space"),
        ({"token": "ffffffff"}, "bad", "another token than on a", "copy ~/.ray/auth_token of a to b"),
        ({"token": None}, "bad", "no token", "ray get-auth-token --generate"),
        ({"auth_mode": "disabled"}, "warn", "RAY_AUTH_MODE is disabled", "RAY_AUTH_MODE=token"),
        ({"token_readable_by_others": True}, "warn", "read by others", "chmod 600"),
        ({"address": "10.0.0.9"}, "bad", "Ray uses 10.0.0.9, which is no address", "--node-ip-address=ADDRESS"),
        ({"address": "172.17.0.1"}, "warn", "172.17.0.1 of docker0", "--node-ip-address=ADDRESS"),
    ],
)  # fmt: skip
def test_each_fault_is_one_finding_with_its_remedy(
    changed: dict[str, Any], verdict: str, what: str, remedy: str
) -> None:
    (found,) = amiss(**changed)
    assert found.verdict == verdict and what in found.what and remedy in found.remedy


def test_an_old_python_is_bad_also_on_a_machine_alone() -> None:
    (found,) = [each for each in judge({"b": {**HEALTHY, "python": "3.9.2"}}) if each.verdict != "fine"]
    assert found.about == "python" and "3.10" in found.remedy and not fit([found])


def test_a_machine_alone_needs_no_token() -> None:
    (found,) = [each for each in judge({"b": {**HEALTHY, "token": None}}) if each.verdict != "fine"]
    assert found.verdict == "warn" and fit([found])


@pytest.mark.parametrize(("offset_s", "error_s", "verdict"), [(0.2, 0.15, "fine"), (-0.3, 0.01, "warn"), (9, 1, "bad")])
def test_clocks_are_judged_beyond_what_the_looking_may_be_wrong(offset_s: float, error_s: float, verdict: str) -> None:
    assert judge_clock("b", offset_s, error_s).verdict == verdict


def test_a_port_that_does_not_answer_names_port_and_machines() -> None:
    found = judge_way(Way("a", "b", "10.0.0.2", 7001, None, "timed out"))
    assert found.verdict == "bad" and found.where == "a -> b" and "open port 7001 on b for a" in found.remedy
    assert judge_way(Way("a", "b", "10.0.0.2", 7001, 0.002)).verdict == "fine"


def test_where_ray_does_not_run_is_told_with_the_command_that_starts_it() -> None:
    runs, ended, unknown = HEALTHY, {**HEALTHY, "ray_runs": False}, {**HEALTHY, "ray_runs": None}
    (nowhere,) = judge_ray({"a": ended, "b": ended}, "mine.yaml")
    assert nowhere.where == "a, b" and nowhere.remedy == "start it: ray up mine.yaml" and fit([nowhere])
    fine, missing = judge_ray({"a": runs, "b": ended, "c": unknown}, "mine.yaml")
    assert (fine.where, fine.verdict) == ("a", "fine")
    assert (missing.where, missing.verdict) == ("b", "warn") and "ray up mine.yaml" in missing.remedy


def test_a_process_is_seen_by_its_name() -> None:
    own = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert surveying._runs(own) is True and surveying._runs("no-such-program") is False


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used", "cache"),
    [
        ("0::/lab/n1", "", "memory.max", "memory.current", "inactive_file"),
        ("7:cpu,memory:/lab/n1", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_memory_is_what_the_tightest_control_group_leaves(
    line: str, folder: str, limit: str, used: str, cache: str, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text(f"1:name=systemd:/\n{line}\n", encoding="utf-8")
    group = tmp_path / "cgroup" / folder / "lab" / "n1"
    group.mkdir(parents=True)
    free = surveying.available_bytes(tmp_path / "cgroup", tmp_path / "own")
    assert free is not None and free > 10_000_000  # of the machine that the tests run on
    for place, most, taken in ((group.parent, "9000000", "2000000"), (group, "max", "1000000")):
        (place / limit).write_text(f"{most}\n")
        (place / used).write_text(f"{taken}\n")
    assert surveying.available_bytes(tmp_path / "cgroup", tmp_path / "own") == 7_000_000
    (group / limit).write_text("3000000\n")
    assert surveying.available_bytes(tmp_path / "cgroup", tmp_path / "own") == 2_000_000
    (group / "memory.stat").write_text(f"anon 300000\nactive_file 90000\n{cache} 600000\n")
    assert surveying.available_bytes(tmp_path / "cgroup", tmp_path / "own") == 2_600_000


# ---- over ssh

NO_KEY = "Warning: Identity file id not accessible: No such file or directory.\n"
DEVICES = Devices("mine", ("10.0.0.1", "10.0.0.2"), "ubuntu", "id", {})


@pytest.mark.parametrize(
    ("said", "what", "remedy"),
    [
        ("ubuntu@10.0.0.2: Permission denied (publickey).", "does not let us in", "ssh-copy-id -i id ubuntu@10.0.0.2"),
        (f"{NO_KEY}Permission denied (publickey).", "the key id cannot be read", "ssh_private_key under auth"),
        (f"{NO_KEY}ssh: connect to host 10.0.0.2 port 22: Connection timed out", "no answer", "is it on"),
        ("ssh: connect to host 10.0.0.2 port 22: Connection timed out", "no answer", "is it on"),
        ("ssh: connect to host 10.0.0.2 port 22: No route to host", "no answer", "is it on"),
        ("ssh: connect to host 10.0.0.2 port 22: Connection refused", "no ssh server", "on 10.0.0.2: sudo apt install"),
        ("ssh: Could not resolve hostname x: Name unknown", "no such name", "addresses"),
        ("SyntaxError: future feature annotations is not defined", "too old", "3.10"),
        ("bash: exec: python3: not found", "no Python", "PATH"),
        ("Segmentation fault", "no survey came; it said: Segmentation fault", "ssh ubuntu@10.0.0.2"),
        ("", "it said: nothing", "ssh ubuntu@10.0.0.2"),
    ],
)
def test_what_ssh_says_is_told_with_its_remedy(said: str, what: str, remedy: str) -> None:
    found = trouble(DEVICES, "10.0.0.2", said)
    assert found.verdict == "bad" and what in found.what and remedy in found.remedy


def ssh_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called ssh first in the path; its last argument is the command for the other machine."""
    program = folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f"#!/bin/bash\n{does}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_a_survey_needs_nothing_but_a_python_over_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray_start.log").write_text("Ray runtime started\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    ssh_that('if [[ "$*" == *10.0.0.2* ]]; then echo "Permission denied" >&2; exit 255; fi\nexec bash -c "${!#}"',
             tmp_path, monkeypatch)  # fmt: skip
    answers = survey_devices(DEVICES)
    facts, denied = answers["10.0.0.1"], answers["10.0.0.2"]
    assert isinstance(denied, Finding) and "let us in" in denied.what
    assert not isinstance(facts, Finding) and facts["start_log"] == ["Ray runtime started"]
    assert set(facts) == set(HEALTHY) == set(surveying.survey(probe=False))


CLUSTER = (
    "cluster_name: x\nprovider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2]}\nauth: {ssh_user: ubuntu}\n"
)


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("local", "aws", "provider.type: is 'aws'; allowed: local"),
        ("[10.0.0.2]", "10.0.0.2", "provider.worker_ips: is '10.0.0.2'; allowed: a list of addresses"),
        ("head_ip: 10.0.0.1, ", "", "provider.head_ip: is empty; allowed: the head's address"),
        ("ssh_user: ubuntu", "", "auth.ssh_user: is empty"),
        ("auth:", "author:", "auth: is empty; allowed: a mapping"),
    ],
)
def test_a_wrong_cluster_file_is_one_line(before: str, after: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "ray_cluster.yaml"
    file.write_text(CLUSTER, encoding="utf-8")
    assert devices_of(file) == Devices("x", ("10.0.0.1", "10.0.0.2"), "ubuntu", None, {})
    file.write_text(CLUSTER.replace(before, after), encoding="utf-8")
    with pytest.raises(ConfigError) as refusal:
        devices_of(file)
    assert complaint in str(refusal.value)


def test_devices_that_ssh_does_not_reach_are_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray_cluster.yaml").write_text(CLUSTER, encoding="utf-8")
    ssh_that('echo "ssh: connect to host: Connection refused" >&2; exit 255', tmp_path, monkeypatch)
    done = mdi_exit("doctor", "--cluster", "ray_cluster.yaml", folder=tmp_path)
    assert done.returncode == 1 and "Not fit: " in done.stdout and "sudo apt install openssh-server" in done.stdout
    assert done.stdout.count("ssh: no ssh server answers") == 2, "this machine may have faults of its own beside them"


# ---- the command


def test_this_machine_is_fit_for_its_own_tests(tmp_path: Path) -> None:
    done = mdi_exit("doctor", "--json", folder=tmp_path)
    content = json.loads(done.stdout)
    assert done.returncode == 0 and content["fit"] is True and done.stderr == ""
    assert {"python", "packages", "processor", "glibc", "memory", "disk", "token", "network"} <= {
        found["about"] for found in content["findings"]
    }


def test_an_address_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        line = refused(here("doctor", "--address", address, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys))
    assert address in line and "nobody answers there" in line


_TWO_NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


_ANOTHER_PYTHON = """
import sys
import ray._private.utils
version = ray._private.utils.compute_version_info()
ray._private.utils.compute_version_info = lambda: (version[0], "3.10.99")
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.mark.ray
def test_a_head_with_another_python_is_one_line_with_both_versions_and_the_remedy(tmp_path: Path) -> None:
    guarded = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32, "RAY_USAGE_STATS_ENABLED": "0"}
    command, environment = [sys.executable, "-W", "ignore", "-c", _ANOTHER_PYTHON], {**os.environ, **guarded}
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True, env=environment) as head:
        assert head.stdin is not None and head.stdout is not None
        address = head.stdout.readline().strip()
        try:
            line = refused(mdi_exit("doctor", "--address", address, folder=tmp_path, changes=guarded, within_s=120))
        finally:
            head.stdin.close()
    assert "Python: 3.10.99" in line and platform.python_version() in line
    assert "allowed: the same Ray and Python, to the patch version, as on the head" in line


@pytest.mark.ray
def test_the_nodes_of_a_cluster_are_looked_at_and_reach_each_other(tmp_path: Path) -> None:
    guarded = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32, "RAY_USAGE_STATS_ENABLED": "0"}
    command, environment = [sys.executable, "-W", "ignore", "-c", _TWO_NODES], {**os.environ, **guarded}
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True, env=environment) as nodes:
        assert nodes.stdin is not None and nodes.stdout is not None
        address = nodes.stdout.readline().strip()
        try:
            done = mdi_exit("doctor", "--address", address, "--json", folder=tmp_path, changes=guarded, within_s=240)
            with socket.socket() as taken:
                taken.bind(("", 0))
                taken.listen()
                base = taken.getsockname()[1]
                busy = mdi_exit(
                    "doctor", "--address", address, "--port-base", str(base), folder=tmp_path, changes=guarded
                )
        finally:
            nodes.stdin.close()
    content = json.loads(done.stdout)
    said = {(found["where"], found["about"]): found for found in content["findings"]}
    host = address.partition(":")[0]
    assert done.returncode == 0 and content["fit"], done.stdout
    assert {(host, "clock"), (f"{host} (2)", "python"), (f"{host} -> {host} (2)", "port")} <= set(said)
    assert busy.returncode == 1 and f"cannot listen on {host}:{base}" in busy.stdout
    assert "another --port-base, or end what uses the port" in busy.stdout
