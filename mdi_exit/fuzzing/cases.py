"""A case: an experiment with graph, devices, traffic, policies, faults and churn drawn from one number.

calm: no fault, so nothing may be sent twice, computed twice or given up. no-crash: frames vanish, double and overtake;
every datum still completes. swarm: workers crash and return too; then everything heals and drains.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from mdi_exit import placement, policies
from mdi_exit.assembly import load_card
from mdi_exit.config import Churn, Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.core.types import Limits, WorkerOptions
from mdi_exit.devices import DeviceProfile
from mdi_exit.models.card import Card
from mdi_exit.shaping import BandwidthTrace, Shape
from mdi_exit.simulation.links import NO_FAULTS, Faults
from mdi_exit.topology import Link, Topology
from mdi_exit.trace import ExitTrace

Mode = Literal["calm", "no-crash", "swarm"]
MODES: Final[tuple[Mode, ...]] = ("calm", "no-crash", "swarm")
OPEN_S = 5.0  # of virtual time that data come
_DRAIN_S: Final[Mapping[Mode, float]] = {"calm": 600.0, "no-crash": 4_000.0, "swarm": 4_000.0}  # deadlines double
_WORKERS_MAX = 7
_DATA = 97  # in the trace
_PERIOD_S = 0.3  # of controllers, so that they decide often
_QUEUE_MAX = 50  # what comes from outside must be worked off at the end
# A retry is found out by its deadline being missed, so in a calm world none may be short.
_PATIENT, _HASTY = Limits(deadline_s=2_000.0), Limits(deadline_s=20.0, attempts_max=10)

ARRIVALS: Final[Mapping[str, Callable[[random.Random], Any]]] = {
    "constant": lambda draw: policies.ARRIVALS["constant"](rate_per_s=draw.choice([20.0, 100.0])),
    "poisson": lambda draw: policies.ARRIVALS["poisson"](rate_per_s=draw.choice([20.0, 60.0, 200.0])),
    "bursty": lambda draw: policies.ARRIVALS["bursty"](rate_per_s=20.0, burst_rate_per_s=300.0),
    "recorded": lambda draw: policies.ARRIVALS["recorded"](
        (0.01, *(draw.choice([0.0, 0.01, 0.1]) for _ in range(30))), draw.random() < 0.5
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """What is simulated."""

    seed: int
    mode: Mode
    experiment: Experiment
    card: Card
    trace: ExitTrace
    faults: Faults  # until admission closes

    def __str__(self) -> str:
        experiment = self.experiment
        rules = ", ".join(f"{value}" for value in experiment.policy_names().values() if value)
        graph = f"{experiment.topology.description} of {len(experiment.topology.workers)}"
        return f"seed {self.seed}, {self.mode}: {graph}, {rules}, {len(experiment.churn)} who come and go"


def drawn(seed: int) -> Case:
    """The case of a number; the numbers take the three modes in turn."""
    draw, mode = random.Random(f"{seed}/case"), MODES[seed % len(MODES)]
    base, card = _base()
    topology = _topology(draw, calm=mode == "calm")
    names = topology.workers
    admission = _policy(draw, policies.ADMISSION)
    arrivals = ARRIVALS[draw.choice(sorted(ARRIVALS))](draw) if admission.wants_arrivals else None
    limits = _PATIENT if mode == "calm" else _HASTY
    experiment = dataclasses.replace(
        base,
        name=f"fuzz-{seed}",
        seed=seed,
        topology=topology,
        hosted=_hosted(draw, topology, base.exits, limits),
        devices={name: _device(draw, card) for name in names},
        thresholds=tuple(draw.choice([0.3, 0.8, 1.0]) for _ in range(base.exits - 1)),
        exit=_policy(draw, policies.EXIT),
        offloading=_policy(draw, policies.OFFLOADING),
        admission=admission,
        arrivals=arrivals,
        worker_options=dict.fromkeys(
            names, WorkerOptions(group_max=draw.choice([1, 4]), link_window=draw.choice([1, 3]))
        ),
        limits=limits,
        duration_s=OPEN_S,
        drain_s=_DRAIN_S[mode],
        churn=_churn(draw, topology, mode),
    )
    noise = draw.random() * 0.2
    faults = NO_FAULTS if mode == "calm" else Faults(noise, noise, noise * 0.05)
    return Case(seed, mode, experiment, card, _trace(seed, base.exits), faults)


@functools.cache
def _base() -> tuple[Experiment, Card]:
    base = load_experiment()
    return base, load_card(base)


def _policy(draw: random.Random, registry: Mapping[str, type]) -> Any:
    """One of the registered rules, some of its options that are switches thrown."""
    kind: Any = registry[draw.choice(sorted(registry))]
    options: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        choices = (False, True) if hints[field.name] is bool else typing.get_args(hints[field.name])
        if choices and (hints[field.name] is bool or typing.get_origin(hints[field.name]) is Literal):
            options[field.name] = draw.choice(choices) if draw.random() < 0.3 else field.default
        elif field.name == "period_s":
            options[field.name] = _PERIOD_S
        elif field.name == "queue_max":
            options[field.name] = _QUEUE_MAX
    return kind(**options)


def _topology(draw: random.Random, calm: bool) -> Topology:
    names = tuple(f"n{i}" for i in range(1, draw.randint(1, _WORKERS_MAX) + 1))
    kind, ends = _graph(draw, len(names))
    shape = _shapes(draw, calm)
    links = tuple(Link(names[i], names[j], one_way, shape()) for i, j, one_way in ends)
    return Topology("fuzz", names[draw.randrange(len(names))], names, links, {}, kind)


def _graph(draw: random.Random, n: int) -> tuple[str, list[tuple[int, int, bool]]]:
    """A kind of graph, and its links as (from, to, one way)."""
    kind = draw.choice(["mesh", "line", "one-way ring", "star", "random graph", "random graph"])
    if n < 3 or kind == "line":
        return "line", [(i, i + 1, False) for i in range(n - 1)]
    if kind == "one-way ring":
        return kind, [(i, (i + 1) % n, True) for i in range(n)]
    if kind == "star":
        return kind, [(0, i, False) for i in range(1, n)]
    if kind == "mesh":
        return kind, [(i, j, False) for i in range(n) for j in range(i + 1, n)]
    joined = {(draw.randrange(i), i): False for i in range(1, n)}
    for _ in range(draw.randrange(n)):
        i, j = sorted(draw.sample(range(n), 2))
        joined.setdefault((i, j), draw.random() < 0.5)
    return kind, [(i, j, one_way) for (i, j), one_way in joined.items()]


def _shapes(draw: random.Random, calm: bool) -> Callable[[], Shape]:
    """What draws each link's shape; some networks have bandwidths that change, or one radio channel."""
    bandwidth = draw.choice([None, 5e6, 20e6, "varying"])
    channel = draw.choice([None, None, "air"]) if bandwidth else None
    loss = 0.0 if calm else draw.choice([0.0, 0.02, 0.2])

    def shape() -> Shape:
        latency_s, lost = draw.random() * 0.02, loss * draw.random()
        if bandwidth == "varying":
            steps = ((0.3, 20e6), (0.2, 0.0), (0.4, draw.choice([5e6, 50e6])))
            return Shape(None, latency_s, lost, BandwidthTrace(steps), channel)
        return Shape(typing.cast(float | None, bandwidth), latency_s, lost, None, channel)

    return shape


def _hosted(draw: random.Random, topology: Topology, exits: int, limits: Limits) -> Mapping[str, tuple[int, ...]]:
    """Everybody everything, or slices with which every datum can be finished."""
    everything = dict.fromkeys(topology.workers, tuple(range(1, exits + 1)))
    for _ in range(20 if draw.random() < 0.5 else 0):
        hosted = dict(everything)
        for name in topology.workers:
            first = draw.randint(1, exits)
            hosted[name] = tuple(range(first, draw.randint(first, exits) + 1))
        try:
            placement.check(hosted, topology, exits, limits)
        except placement.PlacementError:
            continue
        return hosted
    return everything


def _device(draw: random.Random, card: Card) -> DeviceProfile:
    key = f"{card.model.architecture}@{card.model.image_size}"
    fastest_s = draw.choice([0.002, 0.01, 0.03])
    times = tuple(fastest_s * draw.choice([1, 1, 2]) for _ in range(card.model.exits))
    return DeviceProfile("drawn", 1 << 40, {key: times}, draw.choice([0.0, 0.2, 1.0]))


def _trace(seed: int, exits: int) -> ExitTrace:
    """Data of which later exits are surer."""
    rng = np.random.default_rng(seed)
    hardness = rng.random((_DATA, 1))
    confidence = np.clip(1.1 - hardness + 0.2 * np.arange(exits), 0.0, 1.0).astype(np.float32)
    prediction = rng.integers(0, 10, (_DATA, exits)).astype(np.int16)
    label = rng.integers(0, 10, _DATA).astype(np.int16)
    sizes = tuple(int(size) for size in rng.integers(500, 8_000, exits))
    classes = tuple("0123456789")
    return ExitTrace(confidence, prediction, 1 - confidence, label, (*sizes, 0), classes, "")


def _churn(draw: random.Random, topology: Topology, mode: Mode) -> tuple[Churn, ...]:
    """Deaths, farewells and returns while data come; whoever is down at the end returns.

    In no-crash nobody dies. In calm nobody goes: around a gap tasks may have to be asked for again.
    """
    if mode == "calm":
        return ()
    others = [name for name in topology.workers if name != topology.source]
    down: list[str] = []
    changes: list[Churn] = []
    now = 0.0
    for _ in range(draw.randint(1, 6) if others else 0):
        now += draw.random() * 1.5
        name = draw.choice(others)
        going: Literal["crash", "leave"] = "leave" if mode == "no-crash" or draw.random() < 0.5 else "crash"
        changes.append(Churn(now, name, "join" if name in down else going))
        down = [n for n in down if n != name] if name in down else [*down, name]
    return (*changes, *(Churn(now + draw.random(), name, "join") for name in down))
