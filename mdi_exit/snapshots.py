"""How a run and its nodes stand, for a progress display; tally.py makes these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """How a run stands, for a progress display."""

    offered: int
    admitted: int
    outcomes: dict[str, int]
    exits: tuple[int, ...]
    accuracy: float | None  # of what has completed; None while nothing has, or without labels
    throughput_per_s: float  # over the last seconds
    interarrival_s: float | None  # None before the first adaptation
    threshold: float | None
    opened_s: float | None
    closed_s: float | None


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """How a node stands, for a progress display."""

    node: str
    epoch: int
    now: float
    input_queue: int
    output_queue: int
    processed: int
    offloaded: int
    received: int
    utilization: float
    source: SourceSnapshot | None
