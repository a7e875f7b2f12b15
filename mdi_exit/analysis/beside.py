"""A run beside the best that any policy could do: what its report says under `optimum`.

rate_per_s      the fluid bound for the thresholds in force, for the data of this very run; None when they changed
ratio           what was answered per second (`report.settled`) over that; bottlenecks: what binds, and its share
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
from mdi_exit.policies.exit import NeverExit, ThresholdExit
from mdi_exit.report import Report, settled
from mdi_exit.simulation.frames import FrameSizes
from mdi_exit.trace import ExitTrace

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
    return {**_rate(experiment, problem, report), "fixed_rate": fixed}


def _by_thresholds(experiment: Experiment) -> Experiment:
    """The experiment without an exit rule that weighs queues too: of those a trace says nothing."""
    alone = isinstance(experiment.exit, NeverExit | ThresholdExit)
    return experiment if alone else dataclasses.replace(experiment, exit=ThresholdExit())


def _rate(experiment: Experiment, problem: FluidProblem, report: Report) -> dict[str, Any]:
    """The bound, if the thresholds alone decided and stayed what they were."""
    first = sum(experiment.thresholds) / len(experiment.thresholds) if experiment.thresholds else 1.0
    held = all(math.isclose(report["threshold"][key], first, rel_tol=_SAME) for key in ("mean", "final"))
    answered_per_s = settled(report)["throughput_per_s"]
    if not held or _by_thresholds(experiment) is not experiment:
        return {"rate_per_s": None, "answered_per_s": answered_per_s, "ratio": None, "binding": "", "bottlenecks": []}
    bound = optimum(problem)
    return {
        "rate_per_s": bound.rate_per_s,
        "answered_per_s": answered_per_s,
        "ratio": answered_per_s / bound.rate_per_s,
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
