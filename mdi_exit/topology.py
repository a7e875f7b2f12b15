"""The graph: which workers there are, which links join them, and what each worker must know of it.

The only import of networkx, only where files are checked and graphs drawn: it is large for a small device.
MDI-Exit's N_n are the one-hop neighbours of n (papers.md section 1.2); its topologies Local, 2-Node, 3-Node-Mesh,
3-Node-Circular and 5-Node-Mesh are shipped, and any graph of a user's is taken in which every worker can be reached
from the source and can return results to it. A one-way link carries tasks and results one way; acknowledgements,
reports and what the source makes known go against it, too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mdi_exit.core.types import Routes
from mdi_exit.errors import UserError
from mdi_exit.shaping import Shape

if TYPE_CHECKING:
    import networkx as nx


class TopologyError(UserError):
    """A graph that cannot be used; `where` is the key to blame, such as links[2]."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where, self.what = where, what


@dataclass(frozen=True, slots=True)
class Link:
    """What joins two neighbours, and what each of its directions is like."""

    a: str
    b: str
    one_way: bool = False  # tasks and results go from a to b only
    shape: Shape = Shape()  # noqa: RUF009 - frozen

    @property
    def label(self) -> str:
        """Its name in the run report."""
        return f"{self.a}->{self.b}" if self.one_way else f"{self.a}-{self.b}"


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a topology file says of one worker; an experiment may say otherwise."""

    device: str | None = None  # a device profile's name or path
    slice: str | tuple[int, ...] | None = None  # what it hosts: "all", "first-last" or a list
    speed: float = 1.0  # how much faster than its device profile it is
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of core.types.WorkerOptions


@dataclass(frozen=True, slots=True)
class Topology:
    """Workers in the file's order, the links between them, and the source among them.

    Raises TopologyError for duplicated or unknown names, self links, duplicated links, and workers that the source
    cannot reach or that cannot answer it.
    """

    name: str
    source: str
    workers: tuple[str, ...]
    links: tuple[Link, ...]
    settings: Mapping[str, WorkerSettings] = field(default_factory=dict, hash=False)
    description: str = ""
    file: str = ""  # where it was read, for messages
    _carriers: Mapping[tuple[str, str], Link] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_names(self)
        _check_links(self)
        _check_connected(self)
        carriers = {(link.b, link.a): link for link in self.links}  # answers against one-way links
        carriers |= {(link.a, link.b): link for link in self.links}
        carriers |= {(link.b, link.a): link for link in self.links if not link.one_way}
        object.__setattr__(self, "_carriers", carriers)

    def settings_of(self, worker: str) -> WorkerSettings:
        return self.settings.get(worker, WorkerSettings())

    def carrier(self, sender: str, receiver: str) -> Link | None:
        """The link on which frames from `sender` to `receiver` travel.

        Answers and reports against a one-way link use that link, unless another one leads their way.
        """
        return self._carriers.get((sender, receiver))

    def channels(self) -> tuple[str, ...]:
        """The radio channels that links share, in the file's order."""
        named = [link.shape.channel for link in self.links]
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def hops_from_source(self) -> dict[str, int]:
        """Links a task crosses at least from the source to each worker."""
        out: dict[str, list[str]] = {worker: [] for worker in self.workers}
        for a, b in _directions(self, self.workers):
            out[a].append(b)
        hops = _hops(out, [self.source])
        return {worker: hops[worker] for worker in self.workers}

    def layout(self) -> dict[str, tuple[float, float]]:
        """A place within the unit square for each worker, for drawing; the source is on the left."""
        if len(self.workers) == 1:
            return {self.source: (0.5, 0.5)}
        import networkx as nx

        placed = nx.kamada_kawai_layout(_graph(self, self.workers).to_undirected())
        points = [complex(*placed[worker]) for worker in self.workers]
        source = points[self.workers.index(self.source)]
        turn = -abs(source) / source if abs(source) > 1e-6 else 1.0  # a source in the middle stays there
        turned = [point * turn for point in points]
        size = 2 * max(abs(point) for point in turned)
        across = _unit([point.real for point in turned], size)
        up = _unit([point.imag for point in turned], size)
        return dict(zip(self.workers, zip(across, up, strict=True), strict=True))

    def plain(self) -> dict[str, Any]:
        """The graph as JSON-able data."""
        return {
            "name": self.name,
            "source": self.source,
            "workers": list(self.workers),
            "links": [
                {
                    "label": link.label,
                    "a": link.a,
                    "b": link.b,
                    "one_way": link.one_way,
                    "bandwidth_bps": link.shape.bandwidth_bps,
                    "bandwidth_trace": link.shape.bandwidth_trace and list(map(list, link.shape.bandwidth_trace.steps)),
                    "channel": link.shape.channel,
                    "encoding": link.shape.encoding,
                    "fading": link.shape.fading,
                    "latency_s": link.shape.latency_s,
                    "loss": link.shape.loss,
                    "snr_db": link.shape.snr_db,
                }
                for link in self.links
            ],
        }


def routes(
    topology: Topology,
    hosted: Mapping[str, tuple[int, ...]],
    exits: int,
    alive: Collection[str],
    version: int,
    leaving: Collection[str] = (),
) -> dict[str, Routes]:
    """What each worker of `alive` must know of the graph that is left of them.

    A task for segment k goes to a neighbour that hosts k, or to one that is strictly nearer to a worker that does,
    counted in links over living workers, so that no task can go in circles; a result goes to neighbours that are
    strictly nearer to the source. Neighbours are in the file's order: those that are nearer are all one link nearer.
    What the source makes known reaches each worker once, by as few links as can be.
    To a worker that is `leaving` nothing new is sent; it still hands on what it has.
    """
    present = [worker for worker in topology.workers if worker in alive]
    out: dict[str, list[str]] = {worker: [] for worker in present}
    into: dict[str, list[str]] = {worker: [] for worker in present}
    for a, b in _directions(topology, present):
        out[a].append(b)
        into[b].append(a)
    rank = {worker: number for number, worker in enumerate(present)}
    for neighbours in (*out.values(), *into.values()):
        neighbours.sort(key=rank.__getitem__)
    peers = {worker: sorted({*out[worker], *into[worker]}, key=rank.__getitem__) for worker in present}
    # Against the links' directions, but not to those who are leaving.
    back = {worker: [] if worker in leaving else into[worker] for worker in present}
    hosts = [[w for w in present if k in hosted[w] and w not in leaving] for k in range(1, exits + 1)]
    to_segment = [_hops(back, workers) for workers in hosts]
    source = [topology.source] if topology.source in present else []
    to_source, heard = _hops(back, source), _hops(peers, source)
    teller = {m: next((n for n in peers[m] if _nearer(heard, n, m)), None) for m in present}
    answer = {}
    for worker in present:
        open_to = [m for m in out[worker] if m not in leaving]
        toward_segment = tuple(
            tuple(m for m in open_to if hops.get(m, math.inf) == 0 or _nearer(hops, m, worker)) for hops in to_segment
        )
        answer[worker] = Routes(
            version=version,
            toward_segment=toward_segment,
            toward_source=tuple(m for m in open_to if _nearer(to_source, m, worker)),
            report_to=tuple(into[worker]),
            peers=tuple(peers[worker]),
            news_to=tuple(m for m in peers[worker] if teller[m] == worker),
        )
    return answer


def _unit(values: list[float], size: float) -> list[float]:
    """The values stretched to 0..1, or all in the middle when they differ by next to nothing of the drawing's size."""
    low, span = min(values), max(values) - min(values)
    return [round((value - low) / span, 3) if span > 0.02 * size else 0.5 for value in values]


def _nearer(hops: Mapping[str, int], m: str, worker: str) -> bool:
    return hops.get(m, math.inf) < hops.get(worker, math.inf)


def _hops(steps: Mapping[str, Sequence[str]], starts: Sequence[str]) -> dict[str, int]:
    """Steps from the nearest of `starts` to each worker that can be reached.

    By hand: a source makes prices from routes, and networkx would take much of its memory for this.
    """
    hops, waiting = dict.fromkeys(starts, 0), deque(starts)
    while waiting:
        worker = waiting.popleft()
        for m in steps[worker]:
            if m not in hops:
                hops[m] = hops[worker] + 1
                waiting.append(m)
    return hops


def _directions(topology: Topology, present: Collection[str]) -> list[tuple[str, str]]:
    there = [link for link in topology.links if link.a in present and link.b in present]
    back = [(link.b, link.a) for link in there if not link.one_way]
    return list(dict.fromkeys([*((link.a, link.b) for link in there), *back]))


def _graph(topology: Topology, present: Collection[str]) -> nx.DiGraph[str]:
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(present)
    graph.add_edges_from(_directions(topology, present))
    return graph


def _check_names(topology: Topology) -> None:
    seen: dict[str, None] = {}
    for worker in topology.workers:
        if worker in seen:
            raise TopologyError("workers", f"{worker!r} is named twice; allowed: each name once")
        seen[worker] = None
    if not topology.workers:
        raise TopologyError("workers", "there are none; allowed: one or more names")
    known = ", ".join(topology.workers)
    if topology.source not in seen:
        raise TopologyError("source", f"unknown worker {topology.source!r}; allowed: {known}")
    for worker in topology.settings:
        if worker not in seen:
            raise TopologyError("workers", f"settings for an unknown worker {worker!r}; allowed: {known}")


def _check_links(topology: Topology) -> None:
    directions: dict[tuple[str, str], int] = {}
    for index, link in enumerate(topology.links):
        where = f"links[{index}]"
        for end in (link.a, link.b):
            if end not in topology.workers:
                raise TopologyError(where, f"unknown worker {end!r}; allowed: {', '.join(topology.workers)}")
        if link.a == link.b:
            raise TopologyError(where, f"joins {link.a!r} to itself; allowed: two different workers")
        ways = [(link.a, link.b)] if link.one_way else [(link.a, link.b), (link.b, link.a)]
        for way in ways:
            if way in directions:
                other = f"links[{directions[way]}]"
                raise TopologyError(where, f"{way[0]!r} to {way[1]!r} is already {other}; allowed: each way once")
            directions[way] = index


def _check_connected(topology: Topology) -> None:
    import networkx as nx

    graph, source = _graph(topology, topology.workers), topology.source
    joined = nx.node_connected_component(graph.to_undirected(), source)
    _refuse_cut_off(topology, joined, "the graph is not connected: {names} cut off from the source {source!r}")
    outward = nx.descendants(graph, source) | {source}
    _refuse_cut_off(topology, outward, "{names} out of reach of the source {source!r} along the one-way links")
    homeward = nx.ancestors(graph, source) | {source}
    _refuse_cut_off(topology, homeward, "{names} without a way back to the source {source!r} for results")


def _refuse_cut_off(topology: Topology, reached: Collection[str], what: str) -> None:
    missing = [worker for worker in topology.workers if worker not in reached]
    if missing:
        names = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'}"
        allowed = "allowed: every worker has a way from the source and back"
        raise TopologyError("links", f"{what.format(names=names, source=topology.source)}; {allowed}")
