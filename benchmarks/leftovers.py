"""What is there of a lab after it was taken down, counted by the kernel's own books; for lab.py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

import psutil

from mdi_exit.lab import cgroups, device, state

_KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "uts")


def spaces_of(name: str) -> frozenset[str]:
    """The namespaces of a lab that is up and are its own, as the kernel calls them."""
    lab = state.load(name)
    first = [lab.init_pid, *(pid for each in lab.devices if (pid := device.first_pid(lab.cgroups, each)))]
    return frozenset(space for pid in first for space in _spaces(pid)) - frozenset(_spaces(os.getpid()))


def remains(name: str, spaces: Collection[str], folder: Path) -> dict[str, int]:
    """How much there is of a lab that had these namespaces, and its files in `folder`."""
    held = [set(_spaces(pid)) & set(spaces) for pid in psutil.pids()]
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    groups = [top for top, _, _ in os.walk("/sys/fs/cgroup") if f"{cgroups.PREFIX}{name}" in Path(top).parts]
    own = state.folder(name)
    return {
        "processes": sum(map(bool, held)),
        "namespaces": len(set().union(*held)),
        "mounts": sum(str(own) in line or str(folder) in line for line in mounts),
        "control groups": len(groups),
        "files": sum(path.exists() for path in (own, folder)),
    }


def _spaces(pid: int) -> list[str]:
    found = []
    for kind in _KINDS:
        with contextlib.suppress(OSError):  # it has just ended
            found.append(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    return found
