"""CPU and memory limits of devices: control groups, version 2 or version 1.

With version 1 a lab's groups lie below the group of whoever called `lab up`, so that its limits hold for the lab
too. Version 2 allows no group with processes to have limited children, but for the root; there they lie.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mdi_exit.errors import UserError
from mdi_exit.lab.spec import DeviceSpec

PREFIX = "mdi-exit-lab-"
_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 20_000  # of the CPU quota. Short, so that a slow device is slow all the time and not by fits and starts
_GONE_WITHIN_S = 5.0
_STEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one lab: for each controller ("cpu", "memory") its folder; with version 2 they are the same."""

    version: int
    cpu: Path
    memory: Path

    def folders(self, device: str) -> list[Path]:
        """The folders of a device's groups."""
        return list(dict.fromkeys([self.cpu / device, self.memory / device]))

    def mounts(self, device: str) -> list[tuple[Path, Path]]:
        """(what, where) to mount inside the device, so that Ray finds its memory limit where it looks for one."""
        if self.version == 2:
            return [(self.cpu / device, _ROOT)]
        return [(self.cpu / device, _ROOT / "cpu"), (self.memory / device, _ROOT / "memory")]


def find(lab: str, root: Path = _ROOT, own: Path = Path("/proc/self/cgroup")) -> Groups:
    """Where the groups of a lab are to be. Raises UserError when this machine limits nothing."""
    if "memory" in _words(root / "cgroup.controllers") and "cpu" in _words(root / "cgroup.controllers"):
        return Groups(2, root / f"{PREFIX}{lab}", root / f"{PREFIX}{lab}")
    below = {}
    for line in own.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            below[controller] = root / controller / path.lstrip("/") / f"{PREFIX}{lab}"
    if not all(name in below and below[name].parent.is_dir() for name in ("cpu", "memory")):
        raise UserError("lab: no cgroup controllers cpu and memory here; mount cgroup2 at /sys/fs/cgroup")
    return Groups(1, below["cpu"], below["memory"])


def create(groups: Groups, devices: Iterable[str]) -> None:
    """Make the groups, still without limits. Raises UserError."""
    try:
        if groups.version == 2:
            (groups.cpu.parent / "cgroup.subtree_control").write_text("+cpu +memory")
        for base in dict.fromkeys([groups.cpu, groups.memory]):
            base.mkdir(exist_ok=True)
        if groups.version == 2:
            (groups.cpu / "cgroup.subtree_control").write_text("+cpu +memory")
        for device in devices:
            for folder in groups.folders(device):
                folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"lab: cannot make control groups ({error}); inside a container it has to be a privileged one"
        ) from error


def limit(groups: Groups, device: str, spec: DeviceSpec) -> None:
    """Set a device's limits; they hold at once. Raises UserError when it already uses more memory than that."""
    quota_us = round(spec.cpus * _PERIOD_US)
    cpu, memory = groups.cpu / device, groups.memory / device
    try:
        if groups.version == 2:
            (cpu / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
            (memory / "memory.max").write_text(str(spec.memory_bytes))
        else:
            (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (cpu / "cpu.cfs_quota_us").write_text(str(quota_us))
            (memory / "memory.limit_in_bytes").write_text(str(spec.memory_bytes))
    except OSError as error:
        raise UserError(f"lab: {device}: cannot be limited so ({error}); it may use more memory already") from error


def members(groups: Groups, device: str) -> list[int]:
    """The processes of a device, by this machine's numbers."""
    pids: dict[int, None] = {}
    for folder in groups.folders(device):
        with contextlib.suppress(FileNotFoundError):
            pids |= dict.fromkeys(map(int, _words(folder / "cgroup.procs")))
    return list(pids)


def end(groups: Groups, device: str) -> None:
    """End every process of a device at once, as a power cut does, and wait until they are gone."""
    until_s = time.monotonic() + _GONE_WITHIN_S
    while (pids := members(groups, device)) and time.monotonic() < until_s:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_STEP_S)


def remove(groups: Groups) -> list[Path]:
    """End all processes in a lab's groups and remove the groups; return those that could not be."""
    left = []
    for base in dict.fromkeys([groups.cpu, groups.memory]):
        for folder in [*(child for child in base.glob("*") if child.is_dir()), base]:
            if folder != base:
                end(groups, folder.name)
            until_s = time.monotonic() + _GONE_WITHIN_S
            while folder.exists() and time.monotonic() < until_s:
                with contextlib.suppress(OSError):  # busy, until the kernel has let go of the last process
                    folder.rmdir()
                    break
                time.sleep(_STEP_S)
            left += [folder] if folder.exists() else []
    return left


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []
