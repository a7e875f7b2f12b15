"""Look at every node of a Ray cluster from within: its survey, its clock, and whether the nodes reach each other.

One small actor per node, tied to it, does the looking. Nothing is sent between the nodes but empty TCP connections to a
port that each listens on meanwhile, as workers will.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mdi_exit.health import Finding, Way
from mdi_exit.survey import survey

_START_WITHIN_S = 90.0  # a process that imports Ray; on a Jetson Nano a good part of it
_SURVEY_WITHIN_S = 240.0  # it imports torch from a slow card, in a process of its own
_ANSWER_S = 15.0
_CONNECT_S = 3.0
_CLOCK_LOOKS = 5
_BACKLOG = 64


@dataclass(slots=True)
class Examined:
    """What was found out; nodes by their addresses."""

    surveys: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)  # the address by which Ray knows the node
    clocks: dict[str, tuple[float, float]] = field(default_factory=dict)  # ahead of ours by, give or take; seconds
    ways: list[Way] = field(default_factory=list)
    troubles: list[Finding] = field(default_factory=list)


class Examiner:
    """What looks around on one node; Ray makes an actor of it."""

    def __init__(self) -> None:
        self._listening: socket.socket | None = None

    def survey(self) -> dict[str, Any]:
        """See `survey.survey`."""
        return survey()

    def clock(self) -> float:
        """The wall clock here."""
        return time.time()

    def listen(self, host: str, port: int) -> int | str:
        """Listen on a port (0: any free one) and return it, or what is wrong with it."""
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.bind((host, port))
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            return error.strerror or str(error)
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        return int(listening.getsockname()[1])

    def reach(self, host: str, port: int) -> tuple[float | None, str]:
        """Seconds that connecting takes (one round trip), or None and why not."""
        began_s = time.monotonic()
        try:
            socket.create_connection((host, port), _CONNECT_S).close()
        except OSError as error:
            return None, error.strerror or str(error) or type(error).__name__
        return time.monotonic() - began_s, ""

    @staticmethod
    def _accept(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                listening.accept()[0].close()


def examine(port_base: int | None = None) -> Examined:
    """Look at the cluster that Ray is connected to; the i-th node listens i above `port_base`, or at any port.

    Raises nothing for what is wrong with a node: that is a trouble among the others.
    """
    found, actors = Examined(), dict[str, Any]()
    for name, node in _nodes().items():
        found.chosen[name] = node["NodeManagerAddress"]
        if not node["Alive"]:
            found.troubles.append(
                Finding(name, "ray", "bad", "Ray counts it as dead", f"ray up again, or ray start on {name}")
            )
            del found.chosen[name]
            continue
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote: Any = ray.remote  # its annotations do not know the class's methods
        actors[name] = remote(num_cpus=0, scheduling_strategy=pinned)(Examiner).remote()
    try:
        _look(found, dict(actors), port_base)
    finally:
        for actor in actors.values():
            ray.kill(actor)
    return found


def _look(found: Examined, actors: dict[str, Any], port_base: int | None) -> None:
    """Ask each of `actors` in turn; those that do not answer are taken out, and asked no more."""
    pending = {}  # a survey keeps an actor busy: it begins when its clock has been looked at
    for name, actor in list(actors.items()):
        clock = _clock(found, name, actor)
        if clock is None:
            del actors[name]
            continue
        found.clocks[name] = clock
        pending[name] = actor.survey.remote()
    for name, surveying in pending.items():
        facts = _ask(found, name, surveying, _SURVEY_WITHIN_S)
        if facts is None:
            del actors[name]
            continue
        found.surveys[name] = facts
    ports = {}
    for number, (name, actor) in enumerate(actors.items()):
        wanted = 0 if port_base is None else port_base + number
        port = _ask(found, name, actor.listen.remote(found.chosen[name], wanted), _ANSWER_S)
        if isinstance(port, int):
            ports[name] = port
        elif port is not None:
            what = f"cannot listen on {found.chosen[name]}:{wanted or '(any)'} ({port})"
            found.troubles.append(Finding(name, "port", "bad", what, "another --port-base, or end what uses the port"))
    for a, actor in actors.items():
        for b, port in ports.items():
            if a == b:
                continue
            reached = _ask(found, a, actor.reach.remote(found.chosen[b], port), _ANSWER_S)
            if reached is not None:
                found.ways.append(Way(a, b, found.chosen[b], port, *reached))


def _nodes() -> dict[str, Any]:
    """Ray's nodes by address, the head first; several at one address are numbered, and of dead ones the last is told
    of, unless a living one took its place."""
    named: dict[str, Any] = {}
    listing: Any = ray.nodes  # without annotations
    every = listing()
    living = [node for node in every if node["Alive"]]
    living.sort(key=lambda node: "node:__internal_head__" not in node["Resources"])
    for node in living:
        name, number = node["NodeManagerAddress"], 1
        while name in named:
            number += 1
            name = f"{node['NodeManagerAddress']} ({number})"
        named[name] = node
    for node in every:
        if not node["Alive"]:
            named.setdefault(node["NodeManagerAddress"], node)
    return named


def _ask(found: Examined, name: str, call: Any, within_s: float) -> Any:
    """The answer of a call, or None with a trouble noted."""
    try:
        return ray.get(call, timeout=within_s)
    except RayError as error:
        why = str(error).strip().partition("\n")[0][:200]
        remedy = f"on {name}: the raylet's log in /tmp/ray/session_latest/logs says why; is there memory left?"
        found.troubles.append(Finding(name, "ray", "bad", f"no worker of it answers ({why})", remedy))
        return None


def _clock(found: Examined, name: str, actor: Any) -> tuple[float, float] | None:
    """How far the clock there is ahead of ours, and half a round trip: how wrong that may be. The best look of several.

    None with a trouble noted where an answer does not come.
    """
    if _ask(found, name, actor.clock.remote(), _START_WITHIN_S) is None:  # it has yet to start
        return None
    looks = []
    for _ in range(_CLOCK_LOOKS):
        began_s, before_s = time.time(), time.monotonic()
        there_s = _ask(found, name, actor.clock.remote(), _ANSWER_S)
        if there_s is None:
            return None
        half_s = (time.monotonic() - before_s) / 2
        looks.append((there_s - (began_s + half_s), half_s))
    return min(looks, key=lambda looked: looked[1])
