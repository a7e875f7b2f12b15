"""What one machine is like: versions, processor, addresses, memory, disk, clock, token. Standard library only.

It runs in three ways: here, within a Ray worker, and piped into a bare `python -` over ssh, where it prints its facts
as JSON. So it imports nothing of ours, needs no more than Python 3.8, and never fails: what cannot be found is None.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "onnxruntime", "numpy", "pyzmq", "msgpack", "mdi-exit")
PROBED = ("numpy", "onnxruntime", "zmq", "torch")  # imported in a process of their own: an illegal instruction ends it
FLAGS = ("avx2", "avx512f", "asimd", "neon", "atomics")
START_LOG = "~/ray_start.log"  # where ray_cluster.yaml has devices write what `ray start` says
_LOG_LINES = 20
_PROBE_WITHIN_S = 90  # torch from a slow card
_SIOCGIFADDR = 0x8915  # ioctl: the IPv4 address of an interface


def survey(probe: bool = True) -> dict[str, Any]:
    """Facts of this machine as plain data; with `probe`, also whether the libraries can be imported (seconds)."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": {name: _version(name) for name in PACKAGES},
        "imports": {name: _imports(name) for name in PROBED} if probe else {},
        "machine": platform.machine(),
        "glibc": platform.libc_ver()[1] or None,
        "flags": [flag for flag in FLAGS if flag in (_cpu("flags") or _cpu("Features") or "").split()],
        "cpu_part": _cpu("CPU part"),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "addresses": addresses(),
        "memory_bytes": _memory("MemTotal"),
        "available_bytes": available_bytes(),
        "disk_bytes": {str(place): _free(place) for place in (Path.home(), Path(tempfile.gettempdir()))},
        "unix_s": time.time(),
        "auth_mode": os.environ.get("RAY_AUTH_MODE"),
        "token": _token(),
        "token_readable_by_others": _loose(Path.home() / ".ray" / "auth_token"),
        "programs": {name: shutil.which(name) is not None for name in ("ssh", "rsync")},
        "ray_runs": _runs("raylet"),
        "start_log": _log(Path(START_LOG).expanduser()),
    }


def available_bytes(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Memory that this process may still take: what is free, or what the control groups that it is in leave of it.

    File cache that the kernel would give back counts as free. Both versions of control groups are known. None where
    the system does not say.
    """
    free = [left for left in (_memory("MemAvailable"),) if left is not None]
    for line in (_text(own) or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            top, limit_file = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            top, limit_file = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            limit, used_bytes = (_text(folder / limit_file) or "").strip(), group_used_bytes(folder)
            if limit.isdigit() and used_bytes is not None:
                free.append(max(0, int(limit) - used_bytes))
            if folder == top:
                break
    return min(free, default=None)


def group_used_bytes(group: Path) -> int | None:
    """What a control group and those below it use, without what the kernel could take back from its file cache.

    None where its folder does not say. Both versions of control groups are known.
    """
    versions = (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file"))
    for file, cache in versions:
        used = (_text(group / file) or "").strip()
        if used.isdigit():
            stat = dict(
                line.split(None, 1) for line in (_text(group / "memory.stat") or "").splitlines() if " " in line
            )
            return max(0, int(used) - int(stat.get(cache, 0)))
    return None


def addresses() -> dict[str, str]:
    """The IPv4 addresses of this machine by network interface."""
    try:
        import fcntl
    except ImportError:  # not on this system
        return {}
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # no IPv4 address
                continue
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _imports(name: str) -> str | None:
    """None when it can be imported, or was never installed; otherwise what went wrong in a few words."""
    code = f"import importlib.util as u, sys\nif u.find_spec({name!r}) is None: sys.exit(3)\nimport {name}"
    command = [sys.executable, "-c", code]
    try:  # with -c Python looks for modules in the current folder first, which may be anybody's
        done = subprocess.run(command, cwd="/", capture_output=True, timeout=_PROBE_WITHIN_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)[:200]
    if done.returncode in (0, 3):
        return None
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}{' (illegal instruction)' if done.returncode == -4 else ''}"
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else f"exit status {done.returncode}"


def _cpu(key: str) -> str | None:
    said = (line.partition(":") for line in (_text(Path("/proc/cpuinfo")) or "").splitlines())
    return next((value.strip() for name, _, value in said if name.strip() == key), None)


def _memory(key: str) -> int | None:
    said = (line.split() for line in (_text(Path("/proc/meminfo")) or "").splitlines())
    return next((int(words[1]) * 1024 for words in said if words[:1] == [f"{key}:"]), None)


def _free(place: Path) -> int | None:
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def _token() -> str | None:
    """The start of a hash of the token that Ray would show: enough to compare, too little to use."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    token = os.environ.get("RAY_AUTH_TOKEN") or _text(file)
    return hashlib.sha256(token.strip().encode()).hexdigest()[:8] if token else None


def _runs(program: str) -> bool | None:
    """Whether a process of this name (at most 15 characters) is to be seen; None where the system lists none."""
    try:
        with os.scandir("/proc") as entries:
            pids = [entry.name for entry in entries if entry.name.isdigit()]
    except OSError:
        return None
    return any((_text(Path("/proc", pid, "comm")) or "").strip() == program for pid in pids) if pids else None


def _loose(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def _log(path: Path) -> list[str] | None:
    text = _text(path)
    return None if text is None else text.splitlines()[-_LOG_LINES:]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


if __name__ == "__main__":
    print(json.dumps(survey()))
