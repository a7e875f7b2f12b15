"""What happened at a node: one `Step` per event that a core handled, kept in a file, read back, replayed.

A core decides from its events, its options and its seed alone. So a recorded journal, fed to fresh cores, has to give
the very same effects; `replay` says where it does not. A file holds the steps of one life (epoch) of one node:

    b"mdi-exit journal 1\\n", then records: length of the body, CRC-32 of these 4 bytes, CRC-32 of the body, body.

Numbers are 4 bytes, big-endian. The first body is a JSON object, the header; every further one is `wire.pack` of
(now, core, event, effects). A file that ends within a record belongs to a process that was killed: what is before it
counts. Any other change of any byte is found, and refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, cast

from mdi_exit import assembly, wire
from mdi_exit.config import Experiment
from mdi_exit.core.effects import Effect
from mdi_exit.core.events import ControllerEvent, Event, WorkerEvent
from mdi_exit.errors import UserError
from mdi_exit.models.card import Card

MAGIC = b"mdi-exit journal 1\n"
SUFFIX = ".journal"
_PREFIX = struct.Struct(">III")
_BUFFER_BYTES = 1 << 16  # what a killed worker may lose at most, and how rarely the disk is bothered
_BUFFER_S = 1.0  # a quiet node's steps do not wait longer than this for the next one to push them out

CoreName = Literal["worker", "controller"]


class JournalError(UserError):
    """A file that is no journal, or a damaged one."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of `handle`: at `now`, a core of life `epoch` of `node` took `event` in and answered `effects`."""

    now: float
    node: str
    epoch: int
    core: CoreName
    event: Event
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """Whose journal it is, and what its cores were made of: `experiment` is `Experiment.plain()`."""

    node: str
    epoch: int
    experiment: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first step at which fresh cores decided otherwise."""

    file: str
    number: int  # of the step in its file, from 1
    step: Step
    effects: tuple[Effect, ...]  # what the fresh core answered

    def __str__(self) -> str:
        return (
            f"{self.file}: step {self.number} at {self.step.now:.6f} s, the {self.step.core} of {self.step.node}, "
            f"{self.step.event}: recorded {list(self.step.effects)}, now {list(self.effects)}"
        )


# ---- writing


class JournalWriter:
    """Appends the steps of one life of one node to a new file, through a bounded buffer."""

    def __init__(self, folder: Path, header: Header) -> None:
        """Create NODE-EPOCH.journal in the folder; raises JournalError when that cannot be."""
        self.path = folder / f"{header.node}-{header.epoch}{SUFFIX}"
        self._life = (header.node, header.epoch)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("wb", buffering=_BUFFER_BYTES)
            self._file.write(MAGIC)
        except OSError as error:
            raise self._failed(error) from error
        self._flushed_s = -_BUFFER_S
        described = {"node": header.node, "epoch": header.epoch, "experiment": dict(header.experiment)}
        self._append(json.dumps(described, sort_keys=True).encode())

    def write(self, step: Step) -> None:
        """Append a step; raises JournalError when the disk does not take it."""
        assert (step.node, step.epoch) == self._life, "a step of another life"
        self._append(_body(step))

    def close(self) -> None:
        """Write out what is buffered and close; a second call does nothing."""
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _append(self, body: bytes) -> None:
        size = struct.pack(">I", len(body))
        now_s = time.monotonic()
        try:
            self._file.write(size + struct.pack(">II", zlib.crc32(size), zlib.crc32(body)) + body)
            if now_s - self._flushed_s >= _BUFFER_S:  # the operating system keeps it even when this process is killed
                self._file.flush()
                self._flushed_s = now_s
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> JournalError:
        return JournalError(f"{self.path}: cannot be written ({error.strerror})")


class JournalFolder:
    """Writes all steps of a run to its journals, a file per life, and keeps their fingerprint. Used as a context."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        """An older run's journals in the folder go: they would pass for this one's. Raises JournalError."""
        self.fingerprint = Fingerprint()
        self._folder, self._experiment = folder, experiment.plain()
        self._writers: dict[tuple[str, int], JournalWriter] = {}
        clear(folder)

    def __call__(self, step: Step) -> None:
        """Write a step; raises JournalError when the disk does not take it."""
        life = (step.node, step.epoch)
        if life not in self._writers:
            self._writers[life] = JournalWriter(self._folder, Header(*life, self._experiment))
        self._writers[life].write(step)
        self.fingerprint.add(step)

    def __enter__(self) -> JournalFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.ExitStack() as all_of_them:
            for writer in self._writers.values():
                all_of_them.callback(writer.close)


def clear(folder: Path) -> None:
    """Remove the journals in a folder. Raises JournalError."""
    for path in journals(folder):
        try:
            path.unlink()
        except OSError as error:
            raise JournalError(f"{path}: cannot be removed ({error.strerror})") from error


def _body(step: Step) -> bytes:
    return wire.pack((step.now, step.core, step.event, step.effects))


# ---- reading


def journals(folder: Path) -> list[Path]:
    """The journal files in a folder, by name."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def read_header(path: Path) -> Header:
    """Whose journal a file is. Raises JournalError."""
    return _header(path, next(_bodies(path), b""))


def read(path: Path) -> Iterator[Step]:
    """The steps of a journal up to its end or to where its writer was killed. Raises JournalError for damage."""
    bodies = _bodies(path)
    header = _header(path, next(bodies, b""))
    for number, body in enumerate(bodies, 1):
        try:
            now, core, event, effects = wire.unpack(body)
        except (wire.WireError, TypeError, ValueError) as error:
            raise JournalError(f"{path}: step {number} is not one of this version's ({error})") from error
        yield Step(now, header.node, header.epoch, core, event, effects)


class Fingerprint:
    """Of exactly the steps it was given: equal for two runs that went the same way, and only then."""

    def __init__(self) -> None:
        self._summary = hashlib.sha256()

    def add(self, step: Step) -> None:
        """Take in the next step."""
        body = _body(step)
        self._summary.update(f"{step.node} {step.epoch} {len(body)} ".encode())
        self._summary.update(body)

    def __str__(self) -> str:
        return self._summary.hexdigest()


def digest(steps: Iterable[Step]) -> str:
    """The fingerprint of these steps."""
    found = Fingerprint()
    for step in steps:
        found.add(step)
    return str(found)


def _header(path: Path, body: bytes) -> Header:
    try:
        content = json.loads(body)
        return Header(content["node"], content["epoch"], content["experiment"])
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(f"{path}: a journal without a header, so whose it is is not known") from error


def _bodies(path: Path) -> Iterator[bytes]:
    """What the records of a file hold, up to an incomplete last one."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise JournalError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            raise JournalError(f"{path}: not a journal of this version (those begin with {MAGIC.decode().strip()!r})")
        while len(prefix := file.read(_PREFIX.size)) == _PREFIX.size:
            size, size_check, body_check = _PREFIX.unpack(prefix)
            damaged = zlib.crc32(prefix[:4]) != size_check
            if not damaged:
                if len(body := file.read(size)) < size:
                    return
                damaged = zlib.crc32(body) != body_check
            if damaged:
                raise JournalError(f"{path}: damaged in the record before byte {file.tell()}; record the run again")
            yield body


# ---- replaying


def replay(path: Path, experiment: Experiment, card: Card) -> Difference | None:
    """Feed a journal's events to fresh cores; return the first step that they answer differently, None for none.

    Raises JournalError when the file is damaged or is of a worker that the experiment does not have.
    """
    header = read_header(path)
    if header.node not in experiment.topology.workers:
        raise JournalError(f"{path}: of worker {header.node!r}, which {experiment.name} does not have")
    worker = assembly.worker_core(experiment, card, header.node, header.epoch)
    controller = assembly.controller_core(experiment, card)
    for number, step in enumerate(read(path), 1):
        effects: Sequence[Effect]
        if step.core == "worker":
            effects = worker.handle(cast(WorkerEvent, step.event), step.now)
        else:
            effects = controller.handle(cast(ControllerEvent, step.event), step.now)
        if tuple(effects) != step.effects:
            return Difference(path.name, number, step, tuple(effects))
    return None
