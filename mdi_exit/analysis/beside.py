"""A run beside the best that any policy could do: what its report says under `optimum`.

rate_per_s      the fluid bound for the thresholds in force, for the data of this very run; None where `why` says why
ratio           what was answered per second over that, by `report.settled` (`answered_over` says of which part of the
                run); bottlenecks: what binds, and its share
notes           what the bound knows nothing of
fixed_rate      when data came from outside: the accuracy that thresholds allow at that rate, beside what was reached
                (of all that was offered); possible: false, and why, for a rate beyond what any threshold allows
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mdi_exit import assembly
from mdi_exit.analysis.fixed_rate import RateError, best_common, best_per_exit
from mdi_exit.analysis.fluid import FluidProblem, problem_of
from mdi_exit.analysis.optimum import optimum
from mdi_exit.config import Experiment
from mdi_exit.models.card import Card
from mdi_exit.policies.exit import DriftPlusPenalty, NeverExit, ThresholdExit
from mdi_exit.policies.learned import LearnedExit
from mdi_exit.report import Report, settled, settled_over
from mdi_exit.simulation.frames import FrameSizes
from mdi_exit.trace import ExitTrace

_NAMED = 6  # links in a note
_WHERE_TOO = "decides where data go as well, which the bound leaves open"
_REASONS: Mapping[type, str] = {
    DriftPlusPenalty: "looks at queues too, and which data leave then no trace can tell",
    LearnedExit: "learns as it goes, so that which data leave changes from one to the next",
}
_SAME = 1e-9  # thresholds nearer than that are the same


def beside_optimum(
    experiment: Experiment,
    card: Card,
    trace: ExitTrace,
    report: Report,
    measured_s: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any] | None:
    """Compare a run's report with the bound; None when nothing was offered. `trace` is the whole one.

    Results are taken to travel free, and acknowledgements to be as short as the shortest frame, so that the bound
    stays one. Raises OptimumError where there is none, as for a worker whose times are not known.
    """
    if not report["offered"]:
        return None
    used = trace.rows([assembly.datum_index(experiment, d, len(trace)) for d in range(report["offered"])])
    header_bytes = FrameSizes(experiment.topology.source).tasks(1)
    problem = problem_of(_by_thresholds(experiment), card, used, measured_s=measured_s, header_bytes=header_bytes)
    fixed = _fixed_rate(problem, used, report) if experiment.arrivals else None
    return {**_rate(experiment, problem, report), "fixed_rate": fixed, "notes": _notes(experiment)}


def _notes(experiment: Experiment) -> list[str]:
    varying = [link.label for link in experiment.topology.links if link.shape.bandwidth_trace]
    if not varying:
        return []
    named = ", ".join(varying[:_NAMED] + (["..."] if len(varying) > _NAMED else []))
    return [f"The bound takes the mean of a bandwidth_trace ({named}): it knows nothing of what waits while it is low."]


def _by_thresholds(experiment: Experiment) -> Experiment:
    """The experiment without an exit rule that weighs more than thresholds: of those a trace says nothing."""
    alone = isinstance(experiment.exit, NeverExit | ThresholdExit)
    return experiment if alone else dataclasses.replace(experiment, exit=ThresholdExit())


def _rate(experiment: Experiment, problem: FluidProblem, report: Report) -> dict[str, Any]:
    """The bound, if the thresholds alone decided and stayed what they were."""
    first = sum(experiment.thresholds) / len(experiment.thresholds) if experiment.thresholds else 1.0
    held = all(math.isclose(report["threshold"][key], first, rel_tol=_SAME) for key in ("mean", "final"))
    answered_per_s = settled(report)["throughput_per_s"]
    answered = {"answered_per_s": answered_per_s, "answered_over": settled_over(report)}
    names, why = experiment.policy_names(), ""
    if _by_thresholds(experiment) is not experiment:
        reason = next((words for kind, words in _REASONS.items() if isinstance(experiment.exit, kind)), _WHERE_TOO)
        why = f"exit {names['exit']} {reason}"
    elif experiment.churn:
        why = "workers come and go (churn), and the bound is of those that the topology names"
    elif not held:
        why = f"admission {names['admission']} changed the thresholds, and each setting of them has its own"
    if why:
        return {**answered, "rate_per_s": None, "ratio": None, "binding": "", "bottlenecks": [], "why": why}
    bound = optimum(problem)
    return {
        **answered,
        "rate_per_s": bound.rate_per_s,
        "ratio": answered_per_s / bound.rate_per_s,
        "why": why,
        "binding": bound.binding(),
        "bottlenecks": [{"name": found.name, "share": found.share} for found in bound.bottlenecks],
    }


def _fixed_rate(problem: FluidProblem, used: ExitTrace, report: Report) -> dict[str, Any]:
    """What thresholds allow at the rate at which data came."""
    rate_per_s = report["offered"] / report["duration_s"]
    reached = {"rate_per_s": rate_per_s, "accuracy_offered": report["accuracy_offered"]}
    try:
        common, per_exit = best_common(problem, used, rate_per_s), best_per_exit(problem, used, rate_per_s)
    except RateError as error:
        return {**reached, "possible": False, "why": str(error)}
    return {
        **reached,
        "possible": True,
        "best_common": {"thresholds": list(common.thresholds), "accuracy": common.accuracy},
        "best_per_exit": {"thresholds": list(per_exit.thresholds), "accuracy": per_exit.accuracy},
    }
