"""One run, from an experiment to a record, phase by phase."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mdi_exit import compute
from mdi_exit.compute import PreparedNet
from mdi_exit.config import Experiment, check_real
from mdi_exit.core.events import AdmissionClosed, DrainExpired
from mdi_exit.errors import UserError
from mdi_exit.report_nodes import WorkerFacts
from mdi_exit.runtime.actor import Closed
from mdi_exit.runtime.calls import Calls, wait_for_the_end_of
from mdi_exit.runtime.crew import Crew, check_places
from mdi_exit.runtime.fit import check_groups
from mdi_exit.runtime.images import Images
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.record import Observer, Progress, RunAborted, RunRecord
from mdi_exit.runtime.signals import Interrupt

_LOOK_S = 0.5  # how often everybody is asked how they stand, which takes some of a worker's time
_GIVE_UP_S = 5.0  # for the controller to close its ledger once it was told to, and for workers to say what they did
_HURRY_S = 1.0  # the same when the user is impatient


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how a run takes place, apart from the experiment."""

    observer: Observer
    folder: Path | None  # for journals, and for the traceback of a bug
    is_local: bool  # everybody is on this machine
    interrupt: Interrupt


def run(experiment: Experiment, setting: Setting) -> RunRecord:
    """Run an experiment on the cluster that Ray is connected to; see `Cluster.run`."""
    channels = experiment.topology.channels()
    if not channels or experiment.runtime.emulate == "none":
        return _run(experiment, setting, None)
    if not setting.is_local:
        raise UserError(
            f"{experiment.topology.name}: links on channel {', '.join(channels)}, which are emulated only where all "
            "workers are on one machine; allowed: a local run, or links without a channel"
        )
    with tempfile.TemporaryDirectory(prefix="mdi-exit-radio-") as folder:
        return _run(experiment, setting, Path(folder))


def _run(experiment: Experiment, setting: Setting, channels: Path | None) -> RunRecord:
    setting.interrupt.check()
    check_real(experiment)
    if setting.is_local:
        check_places(experiment)
    calls = Calls(lambda: setting.interrupt.requested, setting.is_local)
    phases = _Phases(setting.observer)
    phases.enter("prepare")
    crew = Crew(experiment, calls)
    try:
        prepared = compute.prepare(experiment.model, experiment.runtime.backend)
        check_groups(experiment, prepared.features)
        Images(experiment, prepared.card)  # wrong data are to be told of now, not by a worker
        phases.enter("start")
        lives = _lives(experiment, prepared, setting, channels)
        crew.open(lives, "127.0.0.1" if setting.is_local else "")
        phases.enter("link")
        crew.link()
        _admit_and_drain(experiment, crew, calls, setting.interrupt, phases)
        phases.enter("collect")
        closed = crew.close(_HURRY_S if setting.interrupt.urgent else _GIVE_UP_S)
    except RunAborted as error:
        raise _with_its_traceback_kept(error, setting.folder) from None
    finally:
        crew.kill()
        if setting.is_local:
            wait_for_the_end_of(crew.pids.values())
    phases.leave()
    return RunRecord(
        card=prepared.card,
        tallies=crew.tallies(closed),
        facts={name: _facts(closed.get(name), crew.lives(name)) for name in experiment.topology.workers},
        journals=_journals(closed, setting.folder, crew.notes) if experiment.runtime.journal else None,
        notes=(*crew.notes, *(note for done in closed.values() for note in done.notes)),
        interrupted=not crew.finished,
        phases_s=phases.took_s,
        pids=crew.pids,
    )


def _admit_and_drain(experiment: Experiment, crew: Crew, calls: Calls, interrupt: Interrupt, phases: _Phases) -> None:
    """Admit data for as long as the experiment says, then wait for what is in flight; either ends with an interrupt."""

    def work(within_s: float) -> None:
        until_s = time.monotonic() + within_s
        while not (crew.finished or interrupt.requested) and (left_s := until_s - time.monotonic()) > 0:
            if phases.look_due():
                crew.look()
                phases.tell(left_s, crew)
            calls.attend(min(left_s, phases.until_look_s()))

    phases.enter("run")
    crew.begin()
    work(experiment.duration_s)
    if interrupt.requested:
        return
    phases.enter("drain")
    crew.tell(AdmissionClosed())
    work(experiment.drain_s)
    if not (crew.finished or interrupt.requested):
        crew.tell(DrainExpired())
        work(_GIVE_UP_S)
    if not (crew.finished or interrupt.requested):
        raise RunAborted(f"{experiment.topology.source}: the controller did not finish when it was told to")


class _Phases:
    """Which phase a run is in, since when, and telling the observer."""

    def __init__(self, observer: Observer) -> None:
        self.took_s: dict[str, float] = {}
        self._observer = observer
        self._began_s = self._entered_s = time.monotonic()
        self._look_s = 0.0  # when to look next
        self._phase = ""

    def enter(self, phase: str) -> None:
        self.leave()
        self._phase, self._entered_s, self._look_s = phase, time.monotonic(), 0.0
        self._observer(Progress(phase, time.monotonic() - self._began_s, 0.0))

    def leave(self) -> None:
        if self._phase:
            self.took_s[self._phase] = time.monotonic() - self._entered_s

    def look_due(self) -> bool:
        """Whether it is time to look again; if so, the next time is a period later."""
        if time.monotonic() < self._look_s:
            return False
        self._look_s = time.monotonic() + _LOOK_S
        return True

    def until_look_s(self) -> float:
        return max(0.0, self._look_s - time.monotonic())

    def tell(self, left_s: float, crew: Crew) -> None:
        elapsed_s = time.monotonic() - self._began_s
        self._observer(Progress(self._phase, elapsed_s, left_s, dict(crew.snapshots), crew.lost, crew.pids))


def _lives(experiment: Experiment, prepared: PreparedNet, setting: Setting, channels: Path | None) -> dict[str, Life]:
    """Everybody's first life. On other machines the slice travels with it, and journals are kept aside until asked
    for."""
    started_unix_s, number = time.time(), secrets.token_hex(4)
    lives = {}
    for name in experiment.topology.workers:
        if setting.is_local:
            net, journals = prepared, _journal_folder(setting.folder)
        else:
            net = prepared.carrying(experiment.hosted[name])
            journals = Path(tempfile.gettempdir()) / f"mdi-exit-{number}-{name}"
        if not experiment.runtime.journal:
            journals = None
        lives[name] = Life(experiment, net, name, 0, started_unix_s, journals, not setting.is_local, channels)
    return lives


def _journal_folder(folder: Path | None) -> Path | None:
    return None if folder is None else folder.absolute() / "journals"


def _journals(closed: Mapping[str, Closed], folder: Path | None, notes: list[str]) -> Path | None:
    """Write the journals that came from other machines; return where all are.

    Where the disk does not take them the run's figures are worth having all the same: then a note says so.
    """
    journals = _journal_folder(folder)
    try:
        for done in closed.values():
            for name, content in done.journals.items() if journals else ():
                assert journals is not None
                journals.mkdir(parents=True, exist_ok=True)
                (journals / name).write_bytes(content)
    except OSError as error:
        notes.append(f"{journals}: journals cannot be written ({error.strerror})")
    return journals


def _facts(closed: Closed | None, lives: int) -> WorkerFacts:
    if closed is None:
        return WorkerFacts(restarts=lives)
    return WorkerFacts(
        closed.bytes_sent, closed.rss_bytes, closed.processor_s, closed.computing_s, closed.pace_missed, lives
    )


def _with_its_traceback_kept(error: RunAborted, folder: Path | None) -> RunAborted:
    """Put the traceback of a bug into a file, and the file's name into the line that the user sees."""
    if not error.traceback:
        return error
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="mdi-exit-traceback-")) if folder is None else folder
    file = place / "traceback.txt"
    file.write_text(error.traceback, encoding="utf-8")
    return RunAborted(f"{error}; this is a bug, its traceback is in {file}")
