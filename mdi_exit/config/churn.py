"""Who comes and goes during an experiment, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mdi_exit.topology import Topology
from mdi_exit.yamlfile import Place, build, describe

if TYPE_CHECKING:
    from mdi_exit.config.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Churn:
    """What happens to a worker.

    crash: it dies with all it holds and all it has sent that is not there yet. leave: nobody gives it tasks any more;
    it goes when it has worked off or handed on those that it has. join: it is there (again), with empty queues; one
    that is about to leave stays. A worker that is to come late leaves at second 0.
    """

    at_s: float
    worker: str
    kind: Literal["crash", "leave", "join"]


def check_real(experiment: Experiment) -> None:
    """Refuse what only a simulation can do. Raises ConfigError."""
    if experiment.churn:
        what = "is for simulations; real workers die and come back by themselves"
        raise Place(experiment.file).at("churn").refuse(what, "no churn here; mdi-exit simulate takes it")


def churn(entries: Any, topology: Topology, place: Place) -> tuple[Churn, ...]:
    """The changes that an experiment file lists, in order of time. Raises ConfigError."""
    if not isinstance(entries, list | tuple):
        raise place.refuse(f"is {describe(entries)}", "a list of mappings such as {at_s: 5, worker: n2, kind: leave}")
    others = [name for name in topology.workers if name != topology.source]
    changes = []
    for number, entry in enumerate(entries):
        where = place.at(number)
        if not isinstance(entry, Mapping):
            raise where.refuse(f"is {describe(entry)}", "a mapping such as {at_s: 5, worker: n2, kind: leave}")
        change = build(Churn, entry, where)
        if change.worker == topology.source:
            raise where.at("worker").refuse("is the source, without which nothing runs", ", ".join(others) or "nobody")
        if change.worker not in others:
            raise where.at("worker").unknown("worker", change.worker, others)
        if not 0 <= change.at_s < math.inf:
            raise where.at("at_s").refuse(f"is {change.at_s}", "seconds since the beginning, 0 or more")
        changes.append(change)
    return tuple(sorted(changes, key=lambda change: change.at_s))
