"""The whole way: a lab, `ray up` on it, the doctor, a run during which a device's link fails, `ray down`, nothing left.

Each step is the command that the README prints. A minute or two, most of it Ray starting on slow devices.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from .test_lab import PROGRAM, lab, leftovers, needs_lab

NODES = 3
_RAY_WITHIN_S = 300.0  # generous: a busy machine


@needs_lab
@pytest.mark.timeout(600)
def test_a_run_on_a_cluster_of_devices_loses_nothing_when_a_link_fails(tmp_path: Path) -> None:
    name = f"whole-{os.getpid()}"
    at = ("ssh", "--name", name)
    up = lab("up", str(NODES), "--name", name, "--out", "lab", cwd=tmp_path)
    assert up.returncode == 0, up.stderr
    try:
        ray_up = lab(*at, "desk", "ray", "up", "--yes", "lab/ray_cluster.yaml", cwd=tmp_path)
        assert ray_up.returncode == 0, ray_up.stdout[-2000:]
        wait_for_all_nodes(at, tmp_path)
        doctor = lab(*at, "n1", "mdi-exit", "doctor", "--address", "10.77.0.1:6379", "--json", cwd=tmp_path)
        assert doctor.returncode == 0 and json.loads(doctor.stdout)["fit"], doctor.stdout + doctor.stderr
        report = run_while_a_link_fails(name, tmp_path)
        ray_down = lab(*at, "desk", "ray", "down", "--yes", "lab/ray_cluster.yaml", cwd=tmp_path)
        assert ray_down.returncode == 0, ray_down.stdout[-2000:]
    finally:
        down = lab("down", "--name", name, cwd=tmp_path)
    assert down.returncode == 0, down.stderr
    assert leftovers(name) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # what the run has written
    assert report["lost"] == report["failed"] == 0
    assert report["completed"] == report["offered"] - report["shed"] > 0
    assert len(report["workers"]) == NODES
    assert all(worker["received"] > 0 for name, worker in report["workers"].items() if name != "n1")  # the source


def wait_for_all_nodes(at: tuple[str, ...], folder: Path) -> None:
    """Return when all devices have joined; `ray up` itself waits for the head alone."""
    until_s, seen = time.monotonic() + _RAY_WITHIN_S, ""
    while time.monotonic() < until_s:
        seen = lab(*at, "n1", "RAY_AUTH_MODE=token ray status", cwd=folder).stdout
        if re.search(rf"^ {NODES} local\.cluster\.node$", seen, re.MULTILINE):
            return
        time.sleep(1.0)
    monitor = lab(*at, "n1", "tail -n 30 /tmp/ray/session_latest/logs/monitor.*", cwd=folder).stdout
    pytest.fail(f"not all devices joined:\n{seen}\n{monitor}")


def run_while_a_link_fails(name: str, folder: Path) -> dict[str, Any]:
    """Run the lab's experiment, pull a device's cable out for two seconds once it runs; return the report."""
    run = ["mdi-exit", "run", "lab/experiment.yaml", "--address", "10.77.0.1:6379", "--out", "out"]
    words = [str(PROGRAM), "lab", "ssh", "--name", name, "n1", *run, "--set", "duration_s=10", "--json"]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "answered" in line:
                break
        killed = lab("kill", "n2", "--link", "--for", "2", "--name", name, cwd=folder)
        output, rest = process.communicate()
    assert process.returncode == 0, said + rest
    assert killed.stdout == "link of n2: down\nlink of n2: up again\n", killed.stderr
    report: dict[str, Any] = json.loads(output)
    return report
