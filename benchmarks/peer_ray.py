"""The network in two halves, each a Ray actor: chained by actor calls, by a compiled graph, by Ray Serve's handles.

Each follows Ray 2.60's documentation: one core per actor and so one thread of ONNX Runtime; references are passed on,
not values; a bounded number of calls ahead; for Serve the flags of its performance guide, async methods and a raised
max_ongoing_requests, and no HTTP: what feeds it is a Python program, as everywhere here. A compiled graph is static, so
its second half is called for every group, and answers at once where all have left.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_stage import Net, Stage, filled

SERVE = {  # has to be in the environment before Ray starts
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",  # which would have each replica serve HTTP
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
# Of this program alone, which has no event loop for a router to run in; to be set when Ray runs.
SERVE_CALLER = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"}
_AHEAD = 8  # calls; a compiled graph takes 10 by default
_SERVE_AHEAD = 32


class Half:
    """One end of the network; the base of the actors."""

    def __init__(self, net: Net, segments: tuple[int, ...]) -> None:
        self._stage = Stage(net, segments, threads=1)

    def first(self, batch: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any] | None]:
        """Answers of those that leave here, and the features of the others."""
        return self._stage.run(batch)

    def second(self, before: tuple[NDArray[np.int64], NDArray[Any] | None]) -> NDArray[np.int64]:
        """All answers of the group."""
        answers, feature = before
        return answers if feature is None else filled(answers, self._stage.run(feature)[0])

    def whole(self, batch: NDArray[Any]) -> NDArray[np.int64]:
        """For an actor that has both halves."""
        return self._stage.run(batch)[0]


def _actors(net: Net, *slices: tuple[int, ...]) -> list[Any]:
    import ray

    return [ray.remote(num_cpus=1)(Half).remote(net, segments) for segments in slices]


def _halves(net: Net, cut: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(range(1, cut + 1)), tuple(range(cut + 1, net.exits + 1))


class Calls:
    """Something that makes references out of groups."""

    def __init__(self, call: Any, window: int = _AHEAD) -> None:
        self._call, self.window = call, window

    def submit(self, batch: NDArray[Any]) -> Any:
        return self._call(batch)

    def collect(self, ticket: Any) -> NDArray[np.int64]:
        import ray

        answers: NDArray[np.int64] = np.array(ray.get(ticket))  # copied: a compiled graph wants its buffer back
        return answers


@contextmanager
def ray_actor_chain(net: Net, cut: int) -> Iterator[Calls]:
    """The second actor is called with the reference to what the first one will answer."""
    import ray

    first, second = _actors(net, *_halves(net, cut))
    try:
        yield Calls(lambda batch: second.second.remote(first.first.remote(batch)))
    finally:
        for actor in (first, second):
            ray.kill(actor)


@contextmanager
def ray_actor_pool(net: Net, cut: int) -> Iterator[Calls]:
    """Two actors that have the whole network each, in turn: no chain, but what suits one so small."""
    import ray

    everything = tuple(range(1, net.exits + 1))
    actors = _actors(net, everything, everything)
    number = 0

    def call(batch: NDArray[Any]) -> Any:
        nonlocal number
        number += 1
        return actors[number % 2].whole.remote(batch)

    try:
        yield Calls(call)
    finally:
        for actor in actors:
            ray.kill(actor)


@contextmanager
def ray_compiled_graph(net: Net, cut: int) -> Iterator[Calls]:
    """The same two actors with a path through both that was compiled beforehand."""
    import ray
    from ray.dag import InputNode

    first, second = _actors(net, *_halves(net, cut))
    with InputNode() as batch:
        graph = second.second.bind(first.first.bind(batch)).experimental_compile()
    try:
        yield Calls(graph.execute)
    finally:
        graph.teardown()
        for actor in (first, second):
            ray.kill(actor)


class Requests:
    """A Serve application, called through its handle."""

    def __init__(self, handle: Any) -> None:
        self._handle, self.window = handle, _SERVE_AHEAD

    def submit(self, batch: NDArray[Any]) -> Any:
        return self._handle.remote(batch)

    def collect(self, ticket: Any) -> NDArray[np.int64]:
        answers: NDArray[np.int64] = ticket.result()
        return answers


class ServedFirst:
    """The first half; calls the second one only for what has not left."""

    def __init__(self, net: Net, segments: tuple[int, ...], following: Any) -> None:
        self._stage, self._following = Stage(net, segments, threads=1), following

    async def __call__(self, batch: NDArray[Any]) -> NDArray[np.int64]:
        answers, feature = self._stage.run(batch)
        return answers if feature is None else filled(answers, await self._following.remote(feature))


class ServedSecond:
    """The second half."""

    def __init__(self, net: Net, segments: tuple[int, ...]) -> None:
        self._stage = Stage(net, segments, threads=1)

    async def __call__(self, feature: NDArray[Any]) -> NDArray[np.int64]:
        return self._stage.run(feature)[0]


@contextmanager
def ray_serve(net: Net, cut: int) -> Iterator[Requests]:
    """Two deployments of one replica each, composed by a handle."""
    os.environ.update(SERVE_CALLER)
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    options: dict[str, Any] = {"num_replicas": 1, "max_ongoing_requests": 100, "ray_actor_options": {"num_cpus": 1}}
    ours, theirs = _halves(net, cut)
    served = serve.deployment(**options)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
    try:
        second = served(ServedSecond).bind(net, theirs)
        handle = serve.run(served(ServedFirst).bind(net, ours, second), route_prefix=None)
        yield Requests(handle)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
