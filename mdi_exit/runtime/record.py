"""What a run in real time gives: how it stands while it goes on, and what is known when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mdi_exit.errors import UserError
from mdi_exit.models.card import Card
from mdi_exit.report_nodes import WorkerFacts
from mdi_exit.snapshots import NodeSnapshot
from mdi_exit.tally import NodeTally


class RunAborted(UserError):
    """A run that could not go on: its source was lost, a worker would not start, or a bug of ours stopped one."""

    def __init__(self, line: str, traceback: str = "") -> None:
        super().__init__(line)
        self.traceback = traceback  # of the bug, in the process where it happened


@dataclass(frozen=True, slots=True)
class Progress:
    """How a run stands, a few times a second. In the phases before "run" only `phase` and `elapsed_s` say anything."""

    phase: str  # one of PHASES
    elapsed_s: float  # since the run was asked for
    left_s: float  # until admission closes, or, in "drain", until what is in flight is given up
    nodes: Mapping[str, NodeSnapshot] = field(default_factory=dict)  # by worker; a lost one is missing
    lost: tuple[str, ...] = ()  # workers that are down just now
    pids: Mapping[str, int] = field(default_factory=dict)  # the processes of those that are up

    @property
    def source(self) -> NodeSnapshot | None:
        """The one node whose snapshot knows of the controller."""
        return next((node for node in self.nodes.values() if node.source is not None), None)


INTERRUPTED = "interrupted"  # why there is no trial
PHASES = ("prepare", "start", "link", "run", "drain", "collect")
Observer = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Observe nothing."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run leaves behind; `report.build_report` makes the report of it."""

    card: Card
    tallies: tuple[NodeTally, ...]  # one per life of a worker; of a life that was killed, the last one that was told
    facts: Mapping[str, WorkerFacts]
    journals: Path | None  # the folder of the journals, one file per life
    notes: tuple[str, ...]  # what went otherwise than planned, in order: workers lost, workers back
    interrupted: bool  # it was told to end before every datum had its outcome
    phases_s: Mapping[str, float]  # how long each phase took
    pids: Mapping[str, int]  # of each worker's last process
