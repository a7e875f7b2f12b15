"""The workers of one run: brought up, linked, watched, and brought back when they die.

A worker whose process is gone is told of by its `watch` call failing. The others then get routes without it, the
controller gets WorkerLost, and Ray starts the process again, which is given its next life and joins like a new one.
The source alone is not brought back: what is in flight was in its ledger.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import ray

from mdi_exit import assembly
from mdi_exit.config import Experiment
from mdi_exit.core.events import AdmissionOpened, ControllerEvent, WorkerJoined, WorkerLost
from mdi_exit.errors import UserError
from mdi_exit.runtime.actor import LEASE_S, Closed, Ended, Opened, Status, WorkerProcess
from mdi_exit.runtime.calls import Calls, Unreachable, fetch
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.record import RunAborted
from mdi_exit.snapshots import NodeSnapshot
from mdi_exit.tally import NodeTally
from mdi_exit.yamlfile import Place

RESTARTS_MAX = 3  # of each worker; what dies a fourth time will die a fifth
START_WITHIN_S = 60.0  # a process and its slice; on a Jetson Nano that may take a quarter of it
LINK_WITHIN_S = 10.0
_RETRY_S = 0.2  # between calls to a process that is being started again


class Crew:
    """All workers of a run. Whichever method notices that the run cannot go on raises RunAborted."""

    def __init__(self, experiment: Experiment, calls: Calls) -> None:
        """Have a process started for every worker; its life begins with `open`."""
        self._experiment, self._calls = experiment, calls
        self._source = experiment.topology.source
        remote: Any = ray.remote  # its annotations do not know concurrency_groups
        worker = remote(num_cpus=0, max_restarts=RESTARTS_MAX, concurrency_groups={"watch": 1})(WorkerProcess)
        self._actors: dict[str, Any] = {
            name: worker.options(resources=place_of(experiment, name)).remote(owns_process=True)
            for name in experiment.topology.workers
        }
        self._lives: dict[str, Life] = {}
        self._hosts: dict[str, str] = {}
        self._asked_hosts = False  # each listens on its own machine's address, which a next life may be another one's
        self._version = 0  # of the routes
        self._asked_s: dict[str, float] = {}  # since when a worker's status is awaited
        self._told: dict[tuple[str, int], NodeTally] = {}  # by life: the last tally that it sent
        self.opened: dict[str, Opened] = {}  # who is up
        self.snapshots: dict[str, NodeSnapshot] = {}
        self.notes: list[str] = []
        self.finished = False  # every datum has its outcome

    @property
    def lost(self) -> tuple[str, ...]:
        """Who is down just now."""
        return tuple(name for name in self._actors if name not in self.opened)

    @property
    def pids(self) -> dict[str, int]:
        """The processes of those that are up."""
        return {name: opened.pid for name, opened in self.opened.items()}

    def lives(self, name: str) -> int:
        """How many lives of a worker are over."""
        return self._lives[name].epoch

    # ---- bringing them up

    def open(self, lives: Mapping[str, Life], host: str) -> None:
        """Begin everybody's first life, listening on `host`; each on its own machine's address when that is empty."""
        self._lives = dict(lives)
        self._hosts = dict.fromkeys(self._actors, host)
        self._asked_hosts = not host
        if self._asked_hosts:
            addresses = {name: actor.address.remote() for name, actor in self._actors.items()}
            self._hosts = self._calls.gather(addresses, START_WITHIN_S)
        self.opened = self._calls.gather({name: self._open(name) for name in self._actors}, START_WITHIN_S)

    def link(self) -> None:
        """Make everybody know their neighbours, and wait until all are connected."""
        for name in self._actors:
            self._watch(name)
        self._calls.gather(self._route(list(self._actors)), LINK_WITHIN_S)
        calls = {name: actor.linked.remote(LINK_WITHIN_S) for name, actor in self._actors.items()}
        for name, missing in self._calls.gather(calls, 2 * LINK_WITHIN_S).items():
            if missing:
                raise RunAborted(f"{name} cannot reach {', '.join(missing)}; is there a firewall between them?")

    def _open(self, name: str) -> Any:
        return self._actors[name].open.remote(self._lives[name], self._hosts[name])

    def _route(self, names: list[str]) -> dict[str, Any]:
        """Let these workers know who is up."""
        self._version += 1
        routes = assembly.routes_for(self._experiment, list(self.opened), self._version)
        calls = {}
        for name in names:
            addresses = {peer: self.opened[peer].address for peer in routes[name].peers}
            calls[name] = self._actors[name].connect.remote(addresses, routes[name])
        return calls

    def _watch(self, name: str) -> None:
        watch = self._actors[name].watch.options(concurrency_group="watch").remote()
        self._calls.ask(watch, functools.partial(self._ended, name), functools.partial(self._lose, name))

    # ---- while they work

    def begin(self) -> None:
        """Let admission open."""
        for name in self.opened:
            if name != self._source:
                self._calls.ask(self._actors[name].begin.remote())
        self.tell(AdmissionOpened())

    def tell(self, event: ControllerEvent) -> None:
        """Tell the controller. When the source is gone, its watch says so."""
        self._calls.ask(self._actors[self._source].tell.remote(event))

    def look(self) -> None:
        """Ask everybody how they stand; `snapshots` has the answers some time later."""
        now = time.monotonic()
        for name in self.opened:
            if name not in self._asked_s:
                self._asked_s[name] = now
                self._calls.ask(self._actors[name].status.remote(), functools.partial(self._stands, name))
            elif now - self._asked_s[name] > LEASE_S:
                self._asked_s[name] = math.inf  # once is enough
                self.notes.append(f"{name} did not answer for {LEASE_S:.0f} s and was ended")
                ray.kill(self._actors[name], no_restart=False)

    def _stands(self, name: str, status: Status) -> None:
        if self._asked_s.pop(name, None) is None:
            return  # of a life that is over
        self.snapshots[name] = status.snapshot
        if status.tally is not None:
            self._told[name, status.tally.epoch] = status.tally

    def _ended(self, name: str, ended: Ended) -> None:
        if ended.failure:
            raise RunAborted(ended.failure, ended.traceback)
        self.finished = self.finished or name == self._source

    # ---- when they die

    def _lose(self, name: str, error: Unreachable) -> None:
        """A process is gone: go on without it, and begin its next life once it is back."""
        if name == self._source:
            raise RunAborted(f"{name}: the source's process died, and with it the knowledge of what was in flight")
        pid = self.opened.pop(name).pid
        self.snapshots.pop(name, None)
        self._asked_s.pop(name, None)
        self.notes.append(f"{name} (process {pid}) was lost {self._now():.2f} s into the run")
        self._tell_others(without=name)
        self.tell(WorkerLost(name))
        self._lives[name] = dataclasses.replace(self._lives[name], epoch=self._lives[name].epoch + 1)
        self._not_back(name, error)

    def _reopen(self, name: str) -> None:
        not_back = functools.partial(self._not_back, name)
        if self._asked_hosts:
            self._calls.ask(self._actors[name].address.remote(), functools.partial(self._reopen_at, name), not_back)
        else:
            self._calls.ask(self._open(name), functools.partial(self._back, name), not_back)

    def _reopen_at(self, name: str, host: str) -> None:
        self._hosts[name] = host
        not_back = functools.partial(self._not_back, name)
        self._calls.ask(self._open(name), functools.partial(self._back, name), not_back)

    def _not_back(self, name: str, error: Unreachable | UserError) -> None:
        if isinstance(error, UserError):
            self.notes.append(f"{name} stays down: {error}")
        elif error.for_good:
            self.notes.append(f"{name} is not started again; {RESTARTS_MAX} times was enough")
        else:
            self._calls.later(_RETRY_S, functools.partial(self._reopen, name))

    def _back(self, name: str, opened: Opened) -> None:
        """A next life listens. It learns of the others before they do of it, so that it lets them in."""
        self.opened[name] = opened
        self._calls.ask(self._route([name])[name], lambda answer: self._join(name))
        self._watch(name)

    def _join(self, name: str) -> None:
        self.notes.append(f"{name} (process {self.opened[name].pid}) was back {self._now():.2f} s into the run")
        self._tell_others(without=name)
        self.tell(WorkerJoined(name))

    def _tell_others(self, without: str) -> None:
        for call in self._route([name for name in self.opened if name != without]).values():
            self._calls.ask(call)

    def _now(self) -> float:
        return time.time() - self._lives[self._source].started_unix_s

    # ---- the end

    def close(self, within_s: float) -> dict[str, Closed]:
        """End everybody's life; who is down, or does not answer in time, is missing.

        The figures are worth having although a disk did not take a journal's end: then a note says so. After a bug
        they cannot be trusted, and RunAborted is raised.
        """
        calls = {self._actors[name].close.remote(): name for name in self.opened}
        ready, slow = ray.wait(list(calls), num_returns=len(calls), timeout=within_s)
        self.notes += [f"{calls[call]} did not say what it had done" for call in slow]
        closed: dict[str, Closed] = {}
        for call in ready:
            try:
                closed[calls[call]] = fetch(call)
            except Unreachable:
                self.notes.append(f"{calls[call]} was lost while the run was ending")
        for ended in (done.ended for done in closed.values()):
            if ended.traceback:
                raise RunAborted(ended.failure, ended.traceback)
            if ended.failure:
                self.notes.append(ended.failure)
        return closed

    def tallies(self, closed: Mapping[str, Closed]) -> tuple[NodeTally, ...]:
        """One tally per life: the final one of those that were closed, of the others the last that was told."""
        final = {(done.tally.node, done.tally.epoch): done.tally for done in closed.values()}
        return tuple({**self._told, **final}.values())

    def kill(self) -> None:
        """End all processes."""
        for actor in self._actors.values():
            ray.kill(actor)


def check_places(experiment: Experiment) -> None:
    """Refuse addresses that a cluster of this machine alone does not know, and would wait for in vain."""
    here = [node["NodeManagerAddress"] for node in ray.nodes()]  # type: ignore[no-untyped-call]
    for worker, address in experiment.runtime.workers.items():
        if address not in here:
            place = Place(experiment.file).at("runtime", "workers", worker)
            raise place.refuse(
                f"is {address!r}; a local run has {', '.join(here)} alone", "--address HOST:PORT of its cluster"
            )


def place_of(experiment: Experiment, name: str) -> dict[str, float]:
    """What ties an actor to the machine that the experiment names for it: a sliver of Ray's resource of that node."""
    address = experiment.runtime.workers.get(name)
    return {f"node:{address}": 0.001} if address else {}
