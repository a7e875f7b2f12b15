"""Small builders for tests of the core: one worker between neighbours, and whole worlds in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.controller import ControllerCore
from mdi_exit.core.types import NO_PRICES, ExitReading, Limits, Routes, Task, WorkerOptions, WorkerReport
from mdi_exit.core.worker import WorkerCore
from mdi_exit.policies.admission import RateAdaptation
from mdi_exit.policies.exit import ThresholdExit
from mdi_exit.policies.offloading import MdiExitOffloading
from mdi_exit.shaping import OwnMedium, Shape, Shaper
from mdi_exit.simulation.world import CONTROLLER, Network, World

EXITS = 3
SURE, UNSURE = ExitReading(0.95, 7, 0.1), ExitReading(0.30, 7, 2.0)


def task(data_id: int = 0, k: int = 1, attempt: int = 0, hops: int = 0) -> Task:
    return Task(data_id, attempt, k, payload_bytes=1000, hops=hops)


def report(worker: str, waiting: int = 0, delay_s: float = 0.01, sequence: int = 1, version: int = 0) -> WorkerReport:
    return WorkerReport(worker, sequence, 0, (waiting, 0, 0), (0, 0, 0), delay_s, version, 0)


def worker(
    *neighbours: str,
    hosted: tuple[int, ...] = (1, 2, 3),
    offloading: Any = None,
    is_source: bool = True,
    toward_source: tuple[str, ...] = (),
    options: WorkerOptions | None = None,
    limits: Limits | None = None,
    seed: int = 0,
) -> WorkerCore:
    """A worker "n" whose neighbours host everything, started."""
    core = WorkerCore(
        "n",
        EXITS,
        hosted,
        (0.8,) * (EXITS - 1),
        ThresholdExit(),
        offloading or MdiExitOffloading(),
        options or WorkerOptions(),
        limits or Limits(),
        random.Random(seed),
        is_source,
    )
    core.handle(
        ev.RoutesChanged(Routes(0, (neighbours,) * EXITS, toward_source, neighbours, neighbours, neighbours)), 0.0
    )
    return core


def admit(core: WorkerCore, *data_ids: int) -> list[fx.WorkerEffect]:
    """Give the worker fresh data, one event each; return all effects."""
    return [effect for d in data_ids for effect in core.handle(ev.TasksArrived((task(d),), None, 0), 0.0)]


def done(core: WorkerCore, run: fx.RunSegment, reading: ExitReading, duration_s: float = 0.01) -> list[fx.WorkerEffect]:
    """Let what the worker computes end with the same reading for every task."""
    readings = (reading,) * len(run.tasks)
    return core.handle(ev.SegmentDone(run.k, run.tasks, readings, 500, duration_s * len(run.tasks)), 0.0)


def only(effects: list[Any], kind: type) -> Any:
    """The one effect of a kind."""
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, effects
    return found[0]


def of(effects: list[Any], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def full_mesh(names: list[str]) -> list[tuple[str, str]]:
    return [(a, b) for a in names for b in names if a != b]


def mesh_routes(names: list[str], version: int = 0) -> dict[str, Routes]:
    """Everybody is everybody's neighbour and hosts everything; the first is the source."""
    routes = {}
    for name in names:
        others = tuple(other for other in names if other != name)
        toward_source = () if name == names[0] else (names[0],)
        news_to = others if name == names[0] else ()
        routes[name] = Routes(version, (others,) * EXITS, toward_source, others, others, news_to)
    return routes


def oracle(data_id: int, k: int) -> ExitReading:
    """A made-up network: later exits are surer, some data are harder; the same answer every time it is asked."""
    hardness = random.Random(f"datum {data_id}").random()
    confidence = min(1.0, max(0.1, 1.1 - hardness + 0.2 * (k - 1)))
    return ExitReading(confidence, data_id % 10, 1 - confidence)


def mesh_world(
    count: int,
    *,
    seed: int = 0,
    shape: Callable[[], Shape] = lambda: Shape(20e6, 0.001),
    compute_s: Mapping[str, float] | float = 0.01,
    offloading: Any = None,
    admission: Any = None,
    arrivals: Any = None,
    limits: Limits | None = None,
    options: WorkerOptions | None = None,
    data_max: int | None = None,
    step_s: float = 0.0,
    observe: Any = lambda *step: None,
) -> World:
    """A started full mesh of `count` workers, admission open."""
    names = [chr(ord("a") + i) for i in range(count)]
    limits = limits or Limits()
    cores = {name: fresh_worker(name, seed, offloading, limits, options, is_source=name == "a") for name in names}
    admission = admission or RateAdaptation(period_s=0.5)
    rng, media = random.Random(f"{seed}/controller"), dict[str, OwnMedium]()
    controller = ControllerCore(EXITS, (0.8,) * (EXITS - 1), admission, arrivals, limits, rng, data_max)
    delays = compute_s if isinstance(compute_s, Mapping) else dict.fromkeys(names, compute_s)
    network = Network(
        oracle,
        lambda name, k, tasks: delays[name] * tasks,
        (3072, 8192, 4096, 0),
        lambda name, event, effects: step_s if name in names else 0.0,
        lambda asked: NO_PRICES,
    )
    world = World(
        cores,
        "a",
        controller,
        {(a, b): _shaper(shape(), media, f"{seed}/link {a} {b}") for a, b in full_mesh(names)},
        network,
        random.Random(f"{seed}/world"),
        observe,
    )
    for name, routes in mesh_routes(names).items():
        world.schedule(0.0, name, ev.RoutesChanged(routes))
    world.schedule(0.0, CONTROLLER, ev.AdmissionOpened())
    return world


def _shaper(shape: Shape, media: dict[str, OwnMedium], seed: str) -> Shaper:
    medium = media.setdefault(shape.channel, OwnMedium()) if shape.channel else None
    return Shaper(shape, random.Random(seed), medium)


def fresh_worker(
    name: str,
    seed: int,
    offloading: Any,
    limits: Limits,
    options: WorkerOptions | None = None,
    is_source: bool = False,
    epoch: int = 0,
) -> WorkerCore:
    rng = random.Random(f"{seed}/{name}/{epoch}")
    thresholds, policy = (0.8,) * (EXITS - 1), offloading or MdiExitOffloading()
    hosted = tuple(range(1, EXITS + 1))
    chosen = options or WorkerOptions()
    return WorkerCore(name, EXITS, hosted, thresholds, ThresholdExit(), policy, chosen, limits, rng, is_source, epoch)
