"""Random connected graphs of unequal workers and links, for benchmarks that ask what holds beyond the paper's five.

5 to 12 workers; a random spanning tree and about as many links again; speeds within 8x of each other, bandwidths
within 20x, latencies 1 to 10 ms. Every second graph has workers that host a slice only, every fourth has all its links
on one radio channel.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

from mdi_exit import placement
from mdi_exit.config import Experiment
from mdi_exit.shaping import Shape
from mdi_exit.topology import Link, Topology

SLOWEST_SPEED, FASTEST_SPEED = 0.5, 4.0  # times the device profile's
SLOWEST_BPS, FASTEST_BPS = 2e6, 40e6


def random_experiment(base: Experiment, number: int) -> Experiment:
    """`base` on random graph `number`; the same number gives the same graph, whatever the base."""
    draw = random.Random(f"graph {number}")
    names = tuple(f"n{i}" for i in range(1, draw.randint(5, 12) + 1))
    channel = "air" if number % 4 == 3 else None
    pairs = {(i, draw.randrange(i)) for i in range(1, len(names))}
    while len(pairs) < 2 * len(names) - 2:
        i, j = sorted(draw.sample(range(len(names)), 2), reverse=True)
        pairs.add((i, j))
    links = tuple(
        Link(names[j], names[i], False, Shape(_log_uniform(draw, SLOWEST_BPS, FASTEST_BPS), latency_s, channel=channel))
        for (i, j), latency_s in ((pair, _log_uniform(draw, 0.001, 0.01)) for pair in sorted(pairs))
    )
    kind = f"{'slices' if number % 2 else 'all'}, {'one channel' if channel else 'own links'}"
    topology = Topology(f"random-{number}", names[0], names, links, {}, kind)
    profile = base.devices[base.topology.source]
    assert profile is not None
    devices = {name: profile.faster(_log_uniform(draw, SLOWEST_SPEED, FASTEST_SPEED)) for name in names}
    return dataclasses.replace(
        base,
        name=topology.name,
        topology=topology,
        devices=devices,
        hosted=_hosted(draw, topology, base) if number % 2 else dict.fromkeys(names, tuple(range(1, base.exits + 1))),
        worker_options=dict.fromkeys(names, base.worker_options[base.topology.source]),
    )


def _log_uniform(draw: random.Random, low: float, high: float) -> float:
    return float(low * (high / low) ** draw.random())


def _hosted(draw: random.Random, topology: Topology, base: Experiment) -> Mapping[str, tuple[int, ...]]:
    """Half of the workers host a slice of one to four segments; drawn anew until every segment has a host."""
    while True:
        hosted = {}
        for name in topology.workers:
            first, last = 1, base.exits
            if draw.random() < 0.5:
                first = draw.randint(1, base.exits)
                last = min(base.exits, first + draw.randint(0, base.exits - 2))
            hosted[name] = tuple(range(first, last + 1))
        try:
            placement.check(hosted, topology, base.exits, base.limits)
        except placement.PlacementError:
            continue
        return hosted
