"""Run drawn cases one after the other until one does something that it must not."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from mdi_exit.fuzzing.cases import OPEN_S, Case, drawn
from mdi_exit.fuzzing.oracles import Watch, require
from mdi_exit.report import build_report
from mdi_exit.simulation.links import NO_FAULTS
from mdi_exit.simulation.run import Simulation

_AFTER_S = 10.0  # after the last outcome, stray copies are worked off, so long at a time
_AFTER_MAX = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that went wrong, and how."""

    case: Case
    error: str
    traceback: str
    step: str  # the last one


def check(case: Case, watch: Watch) -> None:
    """Run a case to its end. Raises oracles.Violation, or whatever else a bug raises."""
    simulation = Simulation(case.experiment, case.card, case.trace, {}, case.faults, watch)
    world = watch.world = simulation.world
    healed_s = 1.0 + max([OPEN_S, *(change.at_s for change in case.experiment.churn)])
    simulation.advance(healed_s, beyond_finish=True)
    world.faults, until_s = NO_FAULTS, healed_s
    while not world.finished and until_s < case.experiment.duration_s + case.experiment.drain_s:
        until_s += _AFTER_S
        simulation.advance(until_s)
    for _ in range(_AFTER_MAX):
        if all(core.idle for core in world.workers.values()):
            break
        world.run(world.now + _AFTER_S)
    watch.check_end(case.mode)
    record = simulation.record()
    report = build_report(case.experiment, case.card, record.tallies, record.facts, "fuzz", "simulation")
    closed = sum(report[outcome] for outcome in ("completed", "shed", "failed", "lost"))
    require(report["offered"] == closed == len(watch.outcomes), "the report does not add up")


def hunt(first: int, count: int, progress: Callable[[int], None] = lambda done: None) -> Finding | None:
    """Check the cases `first`, `first` + 1, ...; return the first that goes wrong."""
    for done in range(count):
        case = drawn(first + done)
        watch = Watch(case.experiment.offloading.may_rest)
        try:
            check(case, watch)
        except Exception as error:  # whatever it is, it is what was looked for
            words = f"{type(error).__name__}: {error}"
            return Finding(case, words, traceback.format_exc(), str(watch.last))
        progress(done + 1)
    return None
