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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from mdi_exit.config import Experiment
from mdi_exit.errors import UserError
from mdi_exit.runtime.record import Observer, RunRecord, ignore
from mdi_exit.runtime.signals import Interrupt

# Nothing of ours goes through the object store but a tally now and then; less than 75 MB Ray refuses.
_OBJECT_STORE_BYTES = 80_000_000
_LISTENING_WITHIN_S = 5.0
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
            first = str(error).strip().partition("\n")[0]
            raise UserError(f"Ray cluster {address}: cannot be joined ({first})") from error
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
    """Raise UserError when nobody listens at an address: Ray would find out in two minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit()):
        raise UserError(
            f"Ray cluster {address!r}: allowed are auto and HOST:PORT of its head, such as 192.168.1.10:6379"
        )
    try:
        socket.create_connection((host, int(port)), _LISTENING_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"Ray cluster {address}: nobody answers there ({error}); is its head up?") from error


def _end(processes: list[psutil.Process]) -> None:
    """Wait for Ray's processes, and end those that do not by themselves."""
    _, alive = psutil.wait_procs(processes, _LEFT_ALONE_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, _LEFT_ALONE_S)
