"""What is known of the labs of this machine: a folder each in /run/mdi-exit-lab, which `down` removes.

state.json     State, rewritten whole
warden.pid     the warden's process: its number and when it began, so that a number used again is not taken for it
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mdi_exit.errors import UserError
from mdi_exit.lab import DEFAULT, cgroups

ROOT = Path("/run/mdi-exit-lab")
_STATE, _WARDEN, _LOCK = "state.json", "warden.pid", ".lock"


@dataclass(slots=True)
class LinkState:
    """One direction between two devices as it is now."""

    sender: str
    receiver: str
    bandwidth_bps: float | None
    latency_s: float
    loss: float
    cut: bool = False


@dataclass(slots=True)
class DeviceState:
    """A device as it is now."""

    address: str
    cpus: float
    memory_bytes: int
    link_down: bool = False  # its only cable is out


@dataclass(slots=True)
class State:
    """A lab as it is now."""

    name: str
    out: str  # the folder with what the user needs of it
    init_pid: int  # the first process of the lab's namespaces
    netem: bool  # the kernel delays and loses packets; otherwise the topology file has mdi-exit do so
    version: int  # of the control groups
    groups: list[str]  # their folders: cpu, memory
    kept: list[str]  # folders of this machine that stay visible in the lab
    environment: dict[str, str]  # of a session on a device
    devices: dict[str, DeviceState] = field(default_factory=dict)
    links: list[LinkState] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=dict)  # in `out`: the SHA-256, or None: a secret, goes anyway

    @property
    def cgroups(self) -> cgroups.Groups:
        return cgroups.Groups(self.version, Path(self.groups[0]), Path(self.groups[1]))

    def device(self, name: str) -> DeviceState:
        """A device by name; raises UserError."""
        if name not in self.devices:
            raise UserError(f"lab {self.name}: no device {name!r}; it has {', '.join(self.devices)}")
        return self.devices[name]


def folder(lab: str) -> Path:
    return ROOT / lab


def names() -> list[str]:
    """The labs of this machine, also those of which only rubbish is left."""
    return sorted(path.name for path in ROOT.glob("[!.]*") if path.is_dir()) if ROOT.is_dir() else []


def save(state: State) -> None:
    path = folder(state.name) / _STATE
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(state)), encoding="utf-8")
    new.replace(path)


def load(lab: str) -> State:
    """The state of a lab that is up; raises UserError for one that is not."""
    path = folder(lab) / _STATE
    if warden(lab) is None or not path.is_file():
        named = "" if lab == DEFAULT else f" --name {lab}"
        raise UserError(f"lab {lab}: is not up; start it with mdi-exit lab up 3{named}")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    content["devices"] = {name: DeviceState(**device) for name, device in content["devices"].items()}
    content["links"] = [LinkState(**link) for link in content["links"]]
    return State(**content)


@contextlib.contextmanager
def changing(lab: str) -> Iterator[State]:
    """The state, to be changed within: one command at a time, saved at the end."""
    load(lab)
    with (folder(lab) / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = load(lab)
        yield state
        save(state)


@contextlib.contextmanager
def alone(lab: str) -> Iterator[None]:
    """Be the only one that starts or clears this lab. Raises UserError when another one is at it."""
    path = ROOT.with_name(f"{ROOT.name}-{lab}.lock")  # beside the folder, which comes and goes meanwhile
    busy = f"lab {lab}: another mdi-exit lab up or down is at work on it; try again when it has ended"
    path.touch(mode=0o600)  # not for others to hold
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino != os.fstat(lock.fileno()).st_ino:  # another one has ended just now
                raise UserError(busy)
        except (BlockingIOError, FileNotFoundError):
            raise UserError(busy) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


# ---- the warden


def sign(lab: str) -> None:
    """Write down that this process is the lab's warden."""
    (folder(lab) / _WARDEN).write_text(f"{os.getpid()} {_identity(os.getpid())}", encoding="utf-8")


def warden(lab: str) -> psutil.Process | None:
    """The lab's warden if it lives."""
    try:
        pid, identity = (folder(lab) / _WARDEN).read_text(encoding="utf-8").split(maxsplit=1)
        return psutil.Process(int(pid)) if _identity(int(pid)) == identity else None
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None


def _identity(pid: int) -> str | None:
    """What tells a process from all others of this number, whatever is done to the clock; None when it has ended.

    That is which start of the machine it belongs to, and when it began in ticks since then (proc_pid_stat(5), field
    22). Raises OSError.
    """
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return None if fields[0] in "ZX" else f"{fields[19]} {boot}"  # fields[0] is field 3


def is_stale(lab: str) -> bool:
    """Whether a lab's warden has ended; another command may just be about to start one."""
    return (folder(lab) / _WARDEN).exists() and warden(lab) is None


def written(lab: str) -> dict[Path, str | None]:
    """The files that a lab has written for the user, with their SHA-256, or None when they go whatever they hold."""
    with contextlib.suppress(OSError, ValueError):
        content: dict[str, Any] = json.loads((folder(lab) / _STATE).read_text(encoding="utf-8"))
        return {Path(content["out"]) / name: digest for name, digest in content["files"].items()}
    return {}


def is_changed(file: Path, digest: str | None) -> bool:
    """Whether a file that a lab wrote has become the user's: it holds something else now, or cannot be read."""
    if digest is None or not os.path.lexists(file):
        return False
    try:
        content = file.read_bytes()
    except OSError:
        return True
    return content != b"" and hashlib.sha256(content).hexdigest() != digest  # empty: `up` was killed as it wrote


def clear(lab: str) -> list[str]:
    """Remove all that a lab left outside of its namespaces, which are gone; return what could not be removed."""
    place = folder(lab)
    left: list[str] = []
    content: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((place / _STATE).read_text(encoding="utf-8"))
    if content:
        cpu, memory = map(Path, content["groups"])
        left += map(str, cgroups.remove(cgroups.Groups(content["version"], cpu, memory)))
        for file, digest in written(lab).items():
            if not is_changed(file, digest):
                with contextlib.suppress(OSError):  # `down` says what is left
                    file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what the user put there stays
            Path(content["out"]).rmdir()
    gone = place.with_name(f".{lab}-{os.getpid()}")  # its name is free at once, not file by file
    with contextlib.suppress(OSError):
        place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(OSError):  # there are other labs
        ROOT.rmdir()
    return left + [str(path) for path in (place, gone) if os.path.lexists(path)]
