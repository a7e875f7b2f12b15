"""Run system programs, here or in the namespaces of a process; what fails is one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from mdi_exit.errors import UserError

# What is needed, and the package that brings it on Debian and Ubuntu.
_PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "bash": "bash",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "rsync": "rsync",
}
# Namespaces of its own for the command that follows, which is the first process of its process namespace.
UNSHARE = ("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"  # where sshd lies, often not on a user's path


def check_machine() -> None:
    """Raise UserError unless a lab can be made here: Linux, root, the programs."""
    if sys.platform != "linux" or os.geteuid() != 0:
        who = f"as user {os.geteuid()} on {sys.platform}"
        raise UserError(f"lab: needs root on Linux and runs {who}; call it as: sudo $(command -v mdi-exit) lab ...")
    missing = {program: package for program, package in _PROGRAMS.items() if path(program) is None}
    if missing:
        packages = " ".join(dict.fromkeys(missing.values()))
        raise UserError(f"lab: no {', '.join(missing)} here; on Debian and Ubuntu: sudo apt install {packages}")


def path(program: str) -> str | None:
    """Where a program lies; sshd wants to be called by its full path."""
    return shutil.which(program) or shutil.which(program, path=_SYSTEM)


def run(words: Sequence[str], text: str = "", doing: str = "") -> str:
    """Run a program with `text` as its input and return its output. Raises UserError with its last complaint."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"lab: {doing or words[0]}: {lines[-1] if lines else f'exit status {done.returncode}'}")
    return done.stdout


def inside(pid: int, *kinds: str) -> list[str]:
    """The words before a command that is to run in some namespaces of a process: net, mount, pid, uts, ipc."""
    return ["nsenter", "--target", str(pid), *(f"--{kind}" for kind in kinds)]
