"""A Ray cluster to run experiments on: one of our own on this machine, or one that is already there.

Ours listens on the loopback interface alone, asks every connection for a token, tells nobody anything (no dashboard,
no usage statistics), and leaves nothing behind: no process, no port, no file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mdi_exit.config import Experiment
from mdi_exit.errors import UserError
from mdi_exit.runtime.record import Observer, RunRecord, ignore
from mdi_exit.runtime.signals import Interrupt

if TYPE_CHECKING:
    from mdi_exit.runtime.profiling import Profiled

# Nothing of ours goes through the object store but a tally now and then; less than 75 MB Ray refuses.
_OBJECT_STORE_BYTES = 80_000_000
_LISTENING_WITHIN_S = 5.0
_GREETS_WITHIN_S = 15.0  # a busy device
# Ray speaks gRPC, that is HTTP/2 (RFC 9113, 3.4): a server's first frame is its SETTINGS, of type 4.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_TYPE_AT = 3  # after its length
_START_IT = "ray up FILE, or ray start --head --port=6379"
_TEMPORARY_MAX = 24  # characters of $TMPDIR that leave room for the names of Ray's sockets
_LEFT_ALONE_S = 5.0  # how long Ray's processes may take to end by themselves
_ENVIRONMENT = {
    # Said outright, because Ray's default differs between ways of starting it.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray before 2.60 hides GPUs from whoever reserves none; several workers may share one, so they reserve none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default a call to an actor that was killed fails only after a second or two, waiting for details of its death.
    "RAY_timeout_ms_task_wait_for_death_info": "100",
    "RAY_core_worker_internal_heartbeat_ms": "100",
    # By default Ray's workers are the last to get a busy core (niceness 15), and then keep no pace: any other program
    # that computes halves what they do. They are as nice as the program that started them.
    "RAY_worker_niceness": "0",
    # A worker computes in a thread, and each thread has a pool of memory of its own by default, of which glibc gives
    # whole pieces back and takes them anew, whatever `compute.open_runner` says. In some runs each group of tasks comes
    # to a piece's edge, and the system hands out its memory anew, zeroed page by page, for much of the time.
    "MALLOC_ARENA_MAX": "1",
    # Ray prints a page to the terminal when an actor is killed; we say it in a line, in the run's notes.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
# What Ray does on desktop systems by default: keep to the loopback interface. (It turns an address of 127.0.0.1 into
# the machine's public one otherwise.)
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
LOCAL_ENVIRONMENT = {**_ENVIRONMENT, **_LOOPBACK}  # of the process that starts a cluster of our own
_UNGUARDED = "this cluster asks for no token (RAY_AUTH_MODE): whoever reaches its ports can run code on its machines"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running Ray cluster; `run` as many experiments on it as you like, one after the other."""

    is_local: bool
    interrupt: Interrupt
    warnings: tuple[str, ...] = ()  # for the notes of every run

    def run(self, experiment: Experiment, observer: Observer = ignore, folder: Path | None = None) -> RunRecord:
        """Run an experiment in real time; `folder` is where its journals go, if it keeps any.

        Raises UserError for what cannot be done, RunAborted when it cannot go on, KeyboardInterrupt when it was
        interrupted before there was anything to report.
        """
        from mdi_exit.runtime import launch  # only now: it imports Ray, which must not be before the environment is set

        record = launch.run(experiment, launch.Setting(observer, folder, self.is_local, self.interrupt))
        return replace(record, notes=(*self.warnings, *record.notes))

    def profile(self, experiment: Experiment, seconds: float, tell: Callable[[str], None]) -> Profiled:
        """Measure an experiment's machines and links, each alone; see `profiling.profile`."""
        from mdi_exit.runtime import profiling  # only now, as above

        return profiling.profile(experiment, self.is_local, lambda: self.interrupt.requested, seconds, tell)

    def trial(
        self, measured: Profiled, experiment: Experiment, seconds: float, tell: Callable[[str], None]
    ) -> Profiled:
        """Run all of them together, and say what that showed beside what was measured; see `trial.measure`."""
        from mdi_exit.runtime import launch, trial  # only now, as above

        setting = launch.Setting(ignore, None, self.is_local, self.interrupt)
        return trial.measure(measured, experiment, setting, seconds, tell)


@contextlib.contextmanager
def local_cluster() -> Iterator[Cluster]:
    """Start a cluster on this machine and end it afterwards, whatever happens."""
    if _no_token_wanted():  # by a shell of the user's, for some other cluster
        del os.environ["RAY_AUTH_MODE"]
    _prepare_environment(LOCAL_ENVIRONMENT)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault(
            "RAY_AUTH_TOKEN", secrets.token_hex(32)
        )  # for every cluster of this process: Ray keeps it
    with Interrupt() as interrupt:
        import ray  # within: in the middle of it a KeyboardInterrupt gets lost, or ends the program without a word

        interrupt.check()
        # A short path: Ray makes Unix sockets below it, whose names may have 107 characters.
        short = len(tempfile.gettempdir()) <= _TEMPORARY_MAX
        scratch = Path(tempfile.mkdtemp(prefix="mdi-exit-", dir=None if short else "/tmp"))
        try:
            try:
                ray.init(
                    address="local",
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(scratch),
                )
            except (OSError, ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                first = str(error).strip().partition("\n")[0]
                raise UserError(f"cannot start Ray on this machine ({first})") from error
            interrupt.take()  # ray.init has taken SIGTERM
            yield Cluster(True, interrupt)
        finally:
            processes = psutil.Process().children(recursive=True)
            ray.shutdown()
            _end(processes)
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def joined_cluster(address: str) -> Iterator[Cluster]:
    """Use the cluster that `ray up` or `ray start` has started: at HOST:PORT, or "auto" for the one of this machine."""
    if address != "auto":
        _check_listening(address)
    _prepare_environment(_ENVIRONMENT)
    with Interrupt() as interrupt:
        import ray  # within, as above

        interrupt.check()
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(f"Ray cluster {address}: cannot be joined ({_why(error)})") from error
        try:
            interrupt.take()
            yield Cluster(False, interrupt, (_UNGUARDED,) if _no_token_wanted() else ())
        finally:
            ray.shutdown()


def run_experiment(experiment: Experiment, observer: Observer = ignore, folder: Path | None = None) -> RunRecord:
    """Run one experiment on a cluster of its own."""
    with local_cluster() as cluster:
        return cluster.run(experiment, observer, folder)


def _prepare_environment(wanted: dict[str, str]) -> None:
    """Set what Ray reads when it is imported; what the user has set stays. Raises UserError when it is too late."""
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    if "ray" in sys.modules:
        if sys.modules["ray"].is_initialized():
            raise UserError("Ray already runs in this process; end that with ray.shutdown() first")
        if missing:
            raise UserError(
                "Ray was imported before it could be told to start safely; import it inside `with local_cluster()`"
            )
    os.environ.update(missing)


def _no_token_wanted() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "token") != "token"


def _check_listening(address: str) -> None:
    """Raise UserError when no Ray listens at an address: Ray would find out in two minutes, with a page of warnings."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit()):
        raise UserError(
            f"Ray cluster {address!r}: allowed are auto and HOST:PORT of its head, such as 192.168.1.10:6379"
        )
    try:
        with socket.create_connection((host, int(port)), _LISTENING_WITHIN_S) as asking:
            is_ray = os.environ.get("RAY_USE_TLS", "0") != "0" or _greets(asking)
    except (OSError, OverflowError) as error:
        reason = f"({error}); allowed: the address of a head that is up: {_START_IT}"
        raise UserError(f"Ray cluster {address}: nobody answers there {reason}") from error
    if not is_ray:
        head = f"the address and port of a head that is up: {_START_IT}"
        raise UserError(f"Ray cluster {address}: what listens there is no Ray, or hangs; allowed: {head}")


def _greets(asking: socket.socket) -> bool:
    """Whether the other end answers as Ray's server does."""
    until_s, said = time.monotonic() + _GREETS_WITHIN_S, b""
    asking.settimeout(_GREETS_WITHIN_S)
    with contextlib.suppress(OSError):  # it closed, or says nothing
        asking.sendall(_GREETING)
        while len(said) < _FRAME_TYPE_AT + 1:  # a stream may come in pieces of any size
            asking.settimeout(max(0.0, until_s - time.monotonic()))
            if not (piece := asking.recv(_FRAME_TYPE_AT + 1 - len(said))):
                break
            said += piece
    return said[_FRAME_TYPE_AT:] == b"\x04"


def _why(error: Exception) -> str:
    """Ray's reason in a line, with the remedy where tokens or versions differ: of that its first line says nothing."""
    said = str(error).strip()
    if "authentication token" in said.lower():
        wrong = "has no token" if "no authentication token" in said.lower() else "has another token than its head"
        return f"this machine {wrong}; allowed: the head's: scp HEAD:.ray/auth_token ~/.ray/auth_token"
    if "could not find any running ray instance" in said.lower():
        return f"none runs on this machine; allowed: HOST:PORT of a head elsewhere, or start one: {_START_IT}"
    if "version mismatch" not in said.lower():
        return said.partition("\n")[0]
    return f"{' '.join(said.split())[:400]}; allowed: the same Ray and Python, to the patch version, as on the head"


def _end(processes: list[psutil.Process]) -> None:
    """Wait for Ray's processes, and end those that do not by themselves."""
    _, alive = psutil.wait_procs(processes, _LEFT_ALONE_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, _LEFT_ALONE_S)
