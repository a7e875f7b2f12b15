"""A tally of a node of an experiment, which knows from the topology what links make of payloads."""

from __future__ import annotations

from collections.abc import Callable

from mdi_exit.config import Experiment
from mdi_exit.core.types import Task
from mdi_exit.tally import NodeTally

__all__ = ("NodeTally", "tally_of")


def tally_of(experiment: Experiment, node: str, label_of: Callable[[int], int] | None, epoch: int) -> NodeTally:
    """The tally of one life of `node`; `label_of` is for the source."""
    tally = NodeTally(node, experiment.exits, label_of, epoch)

    def travels_bytes(to: str, task: Task) -> int:
        link = experiment.topology.carrier(node, to)
        return link.shape.travels_bytes(task.k, task.payload_bytes) if link else task.payload_bytes

    tally.travels_bytes = travels_bytes
    return tally
