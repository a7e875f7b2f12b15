"""Measure every worker's machine and every direction of every link of an experiment, on the cluster that Ray runs.

Devices measure their slices at the same time, as they will compute; on this machine alone, where they would disturb
each other, one after the other. Links are measured one direction at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from mdi_exit import compute
from mdi_exit.config import Experiment
from mdi_exit.config.load import segment_bytes
from mdi_exit.devices import Overhead
from mdi_exit.errors import UserError
from mdi_exit.models.card import Card
from mdi_exit.runtime.calls import Calls, wait_for_the_end_of
from mdi_exit.runtime.crew import START_WITHIN_S, check_places, place_of
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.probe import Prober, SliceTimes, WayTimes
from mdi_exit.yamlfile import Place

SLICES_MAX = 40  # of a network with 8 segments 36; of one with more only the longest, and single segments
_PER_SLICE_S = 90.0  # more than loading one three times and its passes may take
_PER_WAY_S = 150.0
_ROOM = 0.5  # of the free memory: the rest is for Ray, features and the runtimes


@dataclass(frozen=True, slots=True)
class Profiled:
    """What was measured; ways by (from, to)."""

    card: Card
    devices: Mapping[str, SliceTimes]
    ways: Mapping[tuple[str, str], WayTimes]
    runtimes: Mapping[str, Overhead] = field(default_factory=dict)  # of whom it is known
    trial_per_s: float | None = None  # data per second that all answered together, in a trial
    trial_failed: str = ""  # why there was none
    trial_notes: tuple[str, ...] = ()  # what went otherwise than planned in it


def profile(
    experiment: Experiment, is_local: bool, interrupted: Callable[[], bool], seconds: float, tell: Callable[[str], None]
) -> Profiled:
    """Measure for `seconds` per worker, and as long as links take. `tell` is told what comes next.

    Raises UserError for what a worker cannot do, RunAborted for one that does not answer, KeyboardInterrupt.
    """
    if experiment.topology.channels():
        named = ", ".join(experiment.topology.channels())
        raise UserError(
            f"{experiment.topology.name}: links on channel {named} are measured one at a time, which says nothing of "
            "how they share it; allowed: links without a channel"
        )
    if is_local:
        check_places(experiment)
    prepared, calls = compute.prepare(experiment.model, experiment.runtime.backend), Calls(interrupted, is_local)
    remote: Any = ray.remote  # its annotations do not know the class's methods
    workers = experiment.topology.workers
    actors = {w: remote(num_cpus=0)(Prober).options(resources=place_of(experiment, w)).remote() for w in workers}
    everything = tuple(range(1, experiment.exits + 1))
    net = prepared if is_local else prepared.carrying(everything)
    lives = {w: Life(experiment, net, w, 0, time.time()) for w in workers}
    try:
        hosts = calls.gather({w: actor.address.remote() for w, actor in actors.items()}, START_WITHIN_S)
        if is_local:
            hosts = dict.fromkeys(workers, "127.0.0.1")
        devices = _devices(experiment, calls, actors, lives, is_local, seconds, tell)
        ways = _ways(experiment, calls, actors, lives, hosts, tell)
        # What comes next wants the same ports, and the memory.
        pids = calls.gather({w: actor.close.remote() for w, actor in actors.items()}, START_WITHIN_S)
    finally:
        for actor in actors.values():
            ray.kill(actor)
    if is_local:
        wait_for_the_end_of(pids.values())
    return Profiled(prepared.card, devices, ways)


def slices_to_time(experiment: Experiment, available_bytes: Mapping[str, int]) -> dict[str, list[tuple[int, ...]]]:
    """The contiguous slices that each worker's profile, or free memory, takes; at most SLICES_MAX of them."""
    sizes = segment_bytes(Path(experiment.model), experiment.exits, Place(experiment.file).at("model"))
    exits, chosen = experiment.exits, {}
    every = [tuple(range(a, b + 1)) for a in range(1, exits + 1) for b in range(a, exits + 1)]
    for worker, free_bytes in available_bytes.items():
        fitting = [s for s in every if sum(sizes[k - 1] for k in s) <= free_bytes]
        if missing := [k for k in range(1, exits + 1) if (k,) not in fitting]:
            raise UserError(
                f"{worker}: segment {missing[0]} takes {sizes[missing[0] - 1]} bytes of weights, it has {free_bytes}; "
                "allowed: a device that can hold each segment, so that it can be timed"
            )
        longest = sorted((s for s in fitting if len(s) > 1), key=len, reverse=True)[: max(0, SLICES_MAX - exits)]
        chosen[worker] = [*longest, *((k,) for k in range(1, exits + 1))]
    return chosen


def _rounds(workers: Iterable[str], is_local: bool) -> list[list[str]]:
    """Who is timed at the same time: on one machine nobody, or each would slow the others down."""
    return [[worker] for worker in workers] if is_local else [list(workers)]


def _devices(
    experiment: Experiment,
    calls: Calls,
    actors: Mapping[str, Any],
    lives: Mapping[str, Life],
    is_local: bool,
    seconds: float,
    tell: Callable[[str], None],
) -> dict[str, SliceTimes]:
    free = calls.gather({w: actor.free_bytes.remote() for w, actor in actors.items()}, START_WITHIN_S)
    known = {w: device.memory_bytes for w, device in experiment.devices.items() if device is not None}
    slices = slices_to_time(experiment, {w: known.get(w, int(_ROOM * free[w])) for w in actors})
    within_s = seconds + _PER_SLICE_S * max(map(len, slices.values()))
    found: dict[str, SliceTimes] = {}
    for names in _rounds(actors, is_local):
        tell(f"timing slices on {', '.join(names)}")
        asked = {w: actors[w].time_slices.remote(lives[w], slices[w], seconds) for w in names}
        found |= calls.gather(asked, within_s)
    return found


def _ways(
    experiment: Experiment,
    calls: Calls,
    actors: Mapping[str, Any],
    lives: Mapping[str, Life],
    hosts: Mapping[str, str],
    tell: Callable[[str], None],
) -> dict[tuple[str, str], WayTimes]:
    opened = calls.gather({w: actors[w].open_links.remote(lives[w], hosts[w]) for w in actors}, START_WITHIN_S)
    ways = [(link.a, link.b) for link in experiment.topology.links]
    ways += [(link.b, link.a) for link in experiment.topology.links if not link.one_way]
    found = {}
    for a, b in sorted(ways):
        tell(f"measuring {a}->{b}")
        calls.gather(
            {a: actors[a].know.remote({b: opened[b]}), b: actors[b].know.remote({a: opened[a]})}, START_WITHIN_S
        )
        answers = calls.gather({a: actors[a].measure.remote(b), b: actors[b].answer.remote(a)}, _PER_WAY_S)
        if answers[a] is None:
            raise UserError(
                f"{a} cannot reach {b} at {opened[b].endpoint}; allowed: open ports between them (ufw, firewalld; "
                "runtime.port_base fixes them), see mdi-exit doctor --address"
            )
        found[a, b] = answers[a]
    return found
