"""What a run report says of each worker and of each link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mdi_exit.config import Experiment
from mdi_exit.tally import LinkTally, NodeTally, WorkerTally


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What only the driver knows of a worker; None where it has no such thing, as in a simulation."""

    bytes_sent: int | None = None
    rss_bytes: int | None = None
    processor_s: float | None = None  # processor time of the process since admission opened, all its threads
    computing_s: tuple[float, ...] | None = None  # of it, that of segments 1..K
    pace_missed: float | None = None  # share of the computations in which the host was slower than the device
    restarts: int = 0


def worker_rows(
    experiment: Experiment, nodes: Mapping[str, NodeTally], facts: Mapping[str, WorkerFacts], run_s: float
) -> dict[str, Any]:
    """Per worker. Means are over the time that it was up of the run's `run_s` seconds from the opening of admission to
    the last outcome, those of queues weighted by time; utilization is the share of it spent computing. How long a node
    idles after that does not matter."""
    rows: dict[str, Any] = {}
    for name in experiment.topology.workers:
        node, known = nodes.get(name), facts.get(name, WorkerFacts())
        tally = node.worker if node else WorkerTally([0] * experiment.exits)
        watched_s = min(tally.observed_s, run_s)
        rows[name] = {
            "slice": list(experiment.hosted[name]),
            "processed": tally.processed,
            "segments": list(tally.segments),
            "failed": tally.failed,
            "offloaded": tally.offloaded,
            "received": tally.received,
            "input_queue_mean": ratio(tally.input_task_s, watched_s),
            "output_queue_mean": ratio(tally.output_task_s, watched_s),
            "compute_delay_s": ratio(tally.busy_s, tally.processed),
            "utilization": ratio(tally.busy_s, watched_s),
            "bytes_sent": known.bytes_sent,
            "rss_bytes": known.rss_bytes,
            "processor_s": known.processor_s,
            "pace_missed": known.pace_missed,
            "restarts": known.restarts,
        }
    return rows


def link_rows(experiment: Experiment, nodes: Mapping[str, NodeTally]) -> dict[str, Any]:
    """Per link, its two directions together. transfer_delay_s: mean over tasks, from hand-over to acknowledgement."""
    rows: dict[str, Any] = {}
    for link in experiment.topology.links:
        both = LinkTally()
        for sender, receiver in ((link.a, link.b), (link.b, link.a))[: 1 if link.one_way else 2]:
            if sender in nodes and receiver in nodes[sender].worker.links:
                both.merge(nodes[sender].worker.links[receiver])
        rows[link.label] = {
            "tasks": both.tasks,
            "bytes": both.bytes,
            "transfer_delay_s": ratio(both.busy_s, both.tasks),
            "refused": both.refused,
            "undelivered": both.undelivered,
        }
    return rows


def ratio(part: float, whole: float) -> float | None:
    """A share or a mean, None of nothing."""
    return part / whole if whole else None
