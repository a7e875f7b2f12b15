"""The run report: what the tallies of all nodes amount to, as plain data under the keys that other programs rely on.

Keys are added, never renamed (`SCHEMA`). Times are seconds since admission opened. How the figures are measured:

duration_s      the admission window, from its opening to its closing; `drain_s` is what came after
throughput_per_s  completions within the admission window per second of it: what the drain still completes is left out
steady          the second half of the window: what an adaptation that began far off arrived at
interarrival_s  as decided, or the mean that a given arrival process has; what came is `offered`, and offered_per_s
accuracy        of the completed data; accuracy_offered counts a shed, failed or lost one as wrong, but not what was in
                flight when a run was interrupted
edge_share      of the answers, those that the source gave itself; `earlier_verdicts` counts those of an earlier exit
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from mdi_exit.config import Experiment
from mdi_exit.core.effects import RecordControl
from mdi_exit.errors import UserError
from mdi_exit.jsonfile import read_json, write_json
from mdi_exit.machine import machine
from mdi_exit.models.card import Card
from mdi_exit.report_nodes import WorkerFacts, link_rows, ratio, worker_rows
from mdi_exit.samples import Point
from mdi_exit.tally import NodeTally, SourceTally

SCHEMA = 1
FILE = "report.json"
NO_OUTCOME = "unanswered when the run was interrupted, and not counted as wrong"
_DECISIONS = ("interarrival_s", "threshold", "input_queue", "output_queue")  # of a RecordControl
_SERIES = ("time_s", *_DECISIONS, "offered_per_s", "throughput_per_s", "accuracy", "latency_s")

Report = dict[str, Any]


class ReportError(UserError):
    """A file that is no report of this version."""


def build_report(
    experiment: Experiment,
    card: Card,
    tallies: Iterable[NodeTally],
    facts: Mapping[str, WorkerFacts],
    command: str,
    runtime: Literal["ray", "simulation"],
    journal: str | None = None,
) -> Report:
    """Merge the tallies of every life of every node into one report.

    Every datum has exactly one outcome: that is asserted when the controller finished. When it did not, because the
    run was interrupted, what was in flight counts as lost, `reasons` says so, and no accuracy takes it for wrong.
    """
    nodes = _merged(tallies)
    source_node = nodes.get(experiment.topology.source)
    source = (source_node and source_node.source) or SourceTally([0] * experiment.exits, [0] * experiment.exits, False)
    names = experiment.policy_names()
    return {
        "schema": SCHEMA,
        "command": command,
        "name": experiment.name,
        "seed": experiment.seed,
        "model": Path(experiment.model).stem,
        "model_identity": card.identity,
        "dataset": _short(experiment.dataset),
        "topology": experiment.topology.name,
        "runtime": runtime,
        "policies": {key: names[key] for key in ("exit", "offloading", "admission")},
        "arrivals": names["arrivals"],
        "thresholds": list(experiment.thresholds),
        **_outcomes(source),
        **source.choices.report(experiment, source_node.worker.answered if source_node else 0),
        **_adaptation(experiment, source),
        "workers": worker_rows(experiment, nodes, facts, sum(_window(source))),
        "links": link_rows(experiment, nodes),
        "series": _series(experiment, source),
        "machine": machine(),
        "journal": journal,
        "experiment": {**experiment.plain(), "file": _short(experiment.file), "model": _short(experiment.model)},
    }


def write_report(folder: Path, report: Report) -> Path:
    """Write report.json into the folder; raises FileError."""
    path = folder / FILE
    write_json(path, report)
    return path


def read_report(folder: Path) -> Report:
    """Read what `write_report` wrote, given its folder or the file; raises FileError or ReportError."""
    path = folder / FILE if folder.is_dir() else folder
    report = read_json(path)
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise ReportError(f"{path}: schema is {schema!r}; allowed: {SCHEMA}, of a report that mdi-exit wrote")
    return dict(report)


def _merged(tallies: Iterable[NodeTally]) -> dict[str, NodeTally]:
    nodes: dict[str, NodeTally] = {}
    for tally in tallies:
        if tally.node not in nodes:
            nodes[tally.node] = NodeTally(tally.node, len(tally.worker.segments))
        nodes[tally.node].merge(tally)
    return nodes


def _short(path: str) -> str:
    """A file or data set as it is called, without the folders of this machine."""
    return Path(path).name if "/" in path else path


# ---- data


def _outcomes(source: SourceTally) -> Report:
    outcomes = dict(source.outcomes)
    reasons = {outcome: dict(counts) for outcome, counts in source.reasons.items()}
    without = source.offered - sum(outcomes.values())
    assert without >= 0 and (without == 0 or source.finished_s is None), "a datum without an outcome, or with two"
    if without:
        outcomes["lost"] += without
        reasons.setdefault("lost", {})[NO_OUTCOME] = without
    admitted_s, drain_s = _window(source)
    labelled = source.labelled
    p50, p95, p99 = source.latencies.percentiles((0.50, 0.95, 0.99))
    return {
        "duration_s": admitted_s,
        "drain_s": drain_s,
        "interrupted": source.finished_s is None,
        "offered": source.offered,
        "admitted": source.admitted,
        "resubmitted": source.resubmitted,
        **outcomes,
        "duplicates": source.duplicates,
        "reasons": reasons,
        "accuracy": ratio(source.correct, source.completed) if labelled else None,
        "accuracy_offered": ratio(source.correct, source.offered - without) if labelled else None,
        "throughput_per_s": source.completed_while_open / admitted_s if admitted_s else 0.0,
        "latency_s": {"mean": ratio(source.latencies.sum_s, source.completed), "p50": p50, "p95": p95, "p99": p99},
        "exits": list(source.exits),
        "exit_accuracy": [
            ratio(correct, left) if labelled else None
            for correct, left in zip(source.exit_correct, source.exits, strict=True)
        ],
    }


def _window(source: SourceTally) -> tuple[float, float]:
    """Lengths of the admission window and of the drain, as far as the run got."""
    opened_s, reached_s = source.opened_s, source.last_s
    if opened_s is None:
        return 0.0, 0.0
    closed_s = reached_s if source.closed_s is None else source.closed_s
    return closed_s - opened_s, max(0.0, reached_s - closed_s)


def _adaptation(experiment: Experiment, source: SourceTally) -> Report:
    """mu and T_e: as last decided, and the mean of what was decided, one decision every period."""
    first = _before_any_decision(experiment)
    last, n = source.control or first, source.controls
    return {
        "interarrival_s": {
            "final": last.interarrival_s,
            "mean": source.interarrival_sum_s / n if n else first.interarrival_s,
        },
        "threshold": {"final": last.threshold, "mean": source.threshold_sum / n if n else first.threshold},
        "steady": _steady(source),
    }


def _before_any_decision(experiment: Experiment) -> RecordControl:
    """What the controller starts with."""
    thresholds, arrivals = experiment.thresholds, experiment.arrivals
    interarrival_s = arrivals.mean_interarrival_s if arrivals else experiment.admission.first_interarrival_s
    return RecordControl(interarrival_s, sum(thresholds) / len(thresholds) if thresholds else 1.0, 0, 0, 0)


def settled(report: Report) -> Report:
    """What a run arrived at: its second half where it had to find its rate, all of it where the rate was given.

    A part of a run with a given rate may answer more than was asked of it, working off what waited before.
    """
    return report if report["arrivals"] else report["steady"] or report


def settled_over(report: Report) -> str:
    """Of which part of the run `settled` is, in words."""
    return "all of the run" if settled(report) is report else "second half"


def _steady(source: SourceTally) -> Report | None:
    """The second half of the admission window, to the resolution of the series; None when that is too coarse."""
    if source.opened_s is None or source.closed_s is None:
        return None
    width_s = source.timeline.width_s
    window_s = source.closed_s - source.opened_s
    first, end = math.ceil(window_s / 2 / width_s), math.floor(window_s / width_s)
    points = (source.timeline.points + [Point()] * end)[first:end]  # nothing completes in a point that is missing
    if not points:
        return None
    completed, correct = sum(p.completed for p in points), sum(p.correct for p in points)
    controls = [p.control for p in points if p.control]
    return {
        "from_s": first * width_s,
        "until_s": end * width_s,
        "completed": completed,
        "offered_per_s": sum(p.offered for p in points) / (len(points) * width_s),
        "throughput_per_s": completed / (len(points) * width_s),
        "accuracy": ratio(correct, completed) if source.labelled else None,
        "interarrival_s": ratio(sum(c.interarrival_s for c in controls), len(controls)),
        "threshold": ratio(sum(c.threshold for c in controls), len(controls)),
    }


def _series(experiment: Experiment, source: SourceTally) -> Report:
    """What the run did over time, up to the last answer; a decision holds until the next one, or admission closes."""
    width_s, points = source.timeline.width_s, source.timeline.points
    control = _before_any_decision(experiment)
    columns: dict[str, list[float | None]] = {key: [] for key in _SERIES}
    for number, point in enumerate(points):
        control = point.control or control
        columns["time_s"].append(number * width_s)
        over_s = number * width_s - (math.inf if source.closed_s is None else source.closed_s)  # since admission closed
        for key in _DECISIONS:
            columns[key].append(None if over_s > 0 else getattr(control, key))
        columns["offered_per_s"].append(None if over_s >= 0 else point.offered / width_s)
        columns["throughput_per_s"].append(point.completed / width_s)
        columns["accuracy"].append(ratio(point.correct, point.completed) if source.labelled else None)
        columns["latency_s"].append(ratio(point.latency_sum_s, point.completed))
    return dict(columns)
