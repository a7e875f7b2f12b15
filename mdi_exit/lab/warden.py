"""The process that a lab hangs on: `python -m mdi_exit.lab.warden NAME`, started by `lab up`, outside its namespaces.

It makes the lab's namespaces, waits, and clears up when they end: told to by `down` (SIGTERM), because `lab up` ended
before it had said that all is well (its end of standard input closes), or because the first process was killed. Should
the warden itself be killed, the kernel ends that first process and with it everything; the empty control groups and the
folder in /run are then left to the next `lab` command.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

import mdi_exit
from mdi_exit.errors import UserError
from mdi_exit.lab import shell, state

READY = b"r"  # from the warden: the namespaces are there
KEEP = b"k"  # to the warden: the lab is up and outlives whoever started it
# The first process of a process namespace inherits the orphans there and has to take note of their end.
_INIT = """
import os, signal, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
"""
# With the warden ends unshare, with unshare the first process, with that everything.
_UNSHARE = ("setpriv", "--pdeathsig", "KILL", *shell.UNSHARE)


class _Ended(Exception):
    """Somebody wants the lab to end."""


def main(lab: str) -> None:
    """Be the warden of a lab whose folder is there."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    first = None
    try:
        state.sign(lab)
        first = subprocess.Popen([*_UNSHARE, sys.executable, "-I", "-S", "-c", _INIT], stdin=subprocess.DEVNULL)
        os.write(sys.stdout.fileno(), READY)
        _watch(first)
    except _Ended:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if first is not None:
            first.kill()
            first.wait()
        state.clear(lab)


def start(lab: str) -> IO[bytes]:
    """Start the warden of a lab whose folder is there, and wait until the namespaces are.

    What it returns keeps the lab alive while open. Raises UserError; the folder is then removed.
    """
    log = (state.folder(lab) / "warden.log").open("w+b")
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mdi_exit.lab.warden", lab],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for this program; the warden hears of its end
            cwd="/",  # with -m Python looks for modules in the current folder first, and this one is root
            env={**os.environ, "PYTHONPATH": _python_path()},
        )
        assert process.stdin is not None and process.stdout is not None
        is_ready = False
        try:
            with process.stdout:
                is_ready = process.stdout.read(1) == READY
        finally:
            if not is_ready:  # also at Ctrl-C
                process.stdin.close()  # tells it to end
                process.wait()
                state.clear(lab)
        if is_ready:
            return process.stdin
        log.seek(0)
        words = log.read().decode("utf-8", "replace").strip().splitlines()
    raise UserError(f"lab: cannot start its warden: {words[-1] if words else 'no word from it'}")


def init_pid(warden: psutil.Process) -> int | None:
    """The first process of the lab's process namespace, by this machine's numbers, once it runs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in warden.children(recursive=True):
            if child.cmdline()[:1] == [sys.executable]:
                return child.pid
    return None


def _python_path() -> str:
    """Where the warden finds what this program finds: the same folders, as seen from another current folder."""
    given = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]  # empty: the current folder
    return os.pathsep.join(str(Path(each).resolve()) for each in [str(Path(mdi_exit.__file__).parents[1]), *given])


def _watch(first: subprocess.Popen[bytes]) -> None:
    """Return when the first process has ended, or when whoever started this has, without a word."""
    ended = os.pidfd_open(first.pid)
    waiting = [ended, sys.stdin.fileno()]
    while True:
        ready, _, _ = select.select(waiting, [], [])
        if ended in ready:
            return
        if os.read(sys.stdin.fileno(), 1) != KEEP:
            return
        waiting = [ended]


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Ended


if __name__ == "__main__":
    main(sys.argv[1])
