"""Which worker hosts which segments.

"all" is the paper's case: every worker can run any task it is handed, and the assignment emerges from the queues
(papers.md section 1.2). Slices are for devices that cannot hold the whole network. "auto" is ours (reconstructed from
nothing): a static split by speed and memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mdi_exit.core.types import Limits
from mdi_exit.errors import UserError
from mdi_exit.topology import Topology, routes

Slice = str | int | tuple[int, ...]  # "all", "first-last", one segment, or a list
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


class PlacementError(UserError):
    """A placement with which some data could never be finished; `worker` is whom to blame, if anyone."""

    def __init__(self, what: str, worker: str = "") -> None:
        super().__init__(f"{worker}: {what}" if worker else what)
        self.worker, self.what = worker, what


@dataclass(frozen=True, slots=True)
class Capacity:
    """What "auto" must know of a worker."""

    segment_s: tuple[float, ...]  # time of segments 1..K there
    memory_bytes: int


def place(
    spec: Slice | Mapping[str, Slice],
    topology: Topology,
    exits: int,
    capacities: Mapping[str, Capacity] | None = None,
    segment_bytes: tuple[int, ...] = (),
) -> dict[str, tuple[int, ...]]:
    """The segments each worker hosts, ascending, for a `spec` of an experiment's.

    `spec` is a slice for every worker, "auto", or a mapping from workers to slices ("all" for those it leaves out).
    Raises PlacementError for what is no contiguous slice of 1..K, an unknown worker, or devices too small for "auto".
    """
    if spec == "auto":
        return _auto(topology, exits, capacities or {}, segment_bytes or (0,) * exits)
    each = spec if isinstance(spec, Mapping) else dict.fromkeys(topology.workers, spec)
    for worker in each:
        if worker not in topology.workers:
            raise PlacementError(f"unknown worker {worker!r}; allowed: {', '.join(topology.workers)}")
    return {worker: _slice(each.get(worker, "all"), exits, worker) for worker in topology.workers}


def check(hosted: Mapping[str, tuple[int, ...]], topology: Topology, exits: int, limits: Limits) -> None:
    """Refuse a placement with which a task could not be computed; raises PlacementError with the reason.

    Follows each task that there can be, from where segment k-1 was computed to the nearest worker that hosts k.
    """
    for k in range(1, exits + 1):
        if not any(k in segments for segments in hosted.values()):
            raise PlacementError(f"segment {k} of {exits} is hosted nowhere; allowed: each segment by somebody")
    route = routes(topology, hosted, exits, topology.workers, version=0)
    for k in range(1, exits + 1):
        starts = [w for w in topology.workers if (w == topology.source if k == 1 else k - 1 in hosted[w])]
        for start in starts:
            hops, holder = 0, start
            while k not in hosted[holder]:
                hops, holder = hops + 1, route[holder].toward_segment[k - 1][0]
            if hops > limits.hops_max:
                raise PlacementError(
                    f"segment {k} is {hops} links away from {start}, which hands on tasks for it; "
                    f"allowed: {limits.hops_max} (limits.hops_max)"
                )


def _slice(spec: Slice, exits: int, worker: str) -> tuple[int, ...]:
    """The segments of one worker's specification."""
    allowed = f"allowed: all, first-last within 1-{exits} such as 1-{exits}, or a list of consecutive segments"
    said = f"[{', '.join(map(str, spec))}]" if isinstance(spec, tuple) else repr(spec)
    segments: tuple[int, ...] = ()
    if spec == "all":
        segments = tuple(range(1, exits + 1))
    elif isinstance(spec, tuple) and all(type(k) is int for k in spec):
        segments = spec
    elif isinstance(spec, str | int) and (matched := _RANGE.fullmatch(str(spec))):
        first, last = int(matched[1]), int(matched[2] or matched[1])
        segments = tuple(range(first, min(last, first + exits) + 1))  # one too many says enough
    if not segments:
        raise PlacementError(f"{said} is no slice; {allowed}", worker)
    if min(segments) < 1 or max(segments) > exits:
        raise PlacementError(f"{said} is not within the model's {exits} segments; {allowed}", worker)
    if segments != tuple(range(segments[0], segments[0] + len(segments))):
        raise PlacementError(f"{said} is not contiguous; {allowed}", worker)
    return segments


def _auto(
    topology: Topology, exits: int, capacities: Mapping[str, Capacity], segment_bytes: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """Share the network's work out by speed, in order of the hops from the source.

    Each worker gets a stretch of the work as long as its speed, and hosts every segment that its stretch touches, so
    that neighbouring slices overlap where a boundary falls into a segment. What is too much for a device's memory is
    given up from the end of its slice that it does least of; what is then hosted nowhere goes to whoever has room
    next to it. A way out that would need slices to be shuffled is not looked for.
    """
    hops = topology.hops_from_source()
    order = sorted(topology.workers, key=hops.__getitem__)  # stable: the file's order among equals
    if capacities and len(capacities) < len(order):
        missing = next(worker for worker in order if worker not in capacities)
        raise PlacementError("auto wants a device profile for every worker or for none", missing)
    speed = {w: 1 / sum(capacities[w].segment_s) if capacities else 1.0 for w in order}
    work = [sum(c.segment_s[k] / sum(c.segment_s) for c in capacities.values()) or 1.0 for k in range(exits)]
    ends = [sum(work[: k + 1]) / sum(work) for k in range(exits)]
    hosted: dict[str, list[int]] = {}
    start = 0.0
    for worker in order:
        end = start + speed[worker] / sum(speed.values())
        share = [min(end, ends[k]) - max(start, ends[k] - work[k] / sum(work)) for k in range(exits)]
        segments = [k for k in range(1, exits + 1) if share[k - 1] > 1e-9]
        memory = capacities[worker].memory_bytes if capacities else None
        while memory is not None and segments and sum(segment_bytes[k - 1] for k in segments) > memory:
            # what the first or last worker gives up must lie next to somebody else's slice
            droppable = {order[0]: segments[-1:], order[-1]: segments[:1]}.get(worker, [segments[0], segments[-1]])
            segments.remove(min(droppable, key=lambda k: share[k - 1]))
        if not segments:
            raise PlacementError(f"auto: no segment due there fits into its device's {memory} bytes", worker)
        hosted[worker], start = segments, end
    _fill_gaps(hosted, exits, capacities, segment_bytes)
    return {worker: tuple(hosted[worker]) for worker in topology.workers}


def _fill_gaps(
    hosted: dict[str, list[int]], exits: int, capacities: Mapping[str, Capacity], segment_bytes: tuple[int, ...]
) -> None:
    """Give segments that memory left over to workers with room whose slices they extend; `check` reports the rest."""
    for k in [*range(1, exits + 1), *range(exits, 0, -1)]:  # both ways, so that a slice can grow on either side
        if any(k in segments for segments in hosted.values()):
            continue
        for worker, segments in hosted.items():
            room = capacities[worker].memory_bytes - sum(segment_bytes[j - 1] for j in segments)
            if k in (segments[0] - 1, segments[-1] + 1) and segment_bytes[k - 1] <= room:
                hosted[worker] = sorted([*segments, k])
                break
