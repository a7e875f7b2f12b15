"""How long computations take in virtual time."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from mdi_exit.config import Experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.devices import Overhead, drawn_s
from mdi_exit.errors import UserError
from mdi_exit.models.card import Card


class SimulationError(UserError):
    """An experiment that cannot be simulated as it was asked for."""


class Times:
    """How long computations take: drawn as a paced worker draws them, each life from a generator of its own."""

    def __init__(self, experiment: Experiment, card: Card, measured_s: Mapping[str, Sequence[float]]) -> None:
        self._experiment = experiment
        self._segment_s: dict[str, tuple[float, ...]] = {}
        self._spread: dict[str, float] = {}
        self._rng: dict[str, random.Random] = {}
        self._runtime = {n: d.runtime for n, d in experiment.devices.items() if d and d.runtime != Overhead()}
        for name, profile in experiment.devices.items():
            if name in measured_s:
                seconds, spread = tuple(measured_s[name]), 0.0
                if len(seconds) != experiment.exits or min(seconds) <= 0:
                    raise SimulationError(f"{name}: measured times {seconds}; allowed: {experiment.exits} above 0")
            elif profile is not None:
                model, hosted = card.model, experiment.hosted[name]
                seconds, spread = profile.seconds(model.architecture, model.image_size, hosted), profile.spread
            else:
                raise SimulationError(
                    f"{experiment.file or 'experiment'}: devices.{name}: has no profile, so how long it computes is "
                    "not known; allowed: a profile for every worker, such as --set devices=jetson-nano"
                )
            self._segment_s[name], self._spread[name] = seconds, spread

    def begin(self, name: str, epoch: int) -> None:
        """A life begins, with draws of its own."""
        self._rng[name] = random.Random(f"{self._experiment.seed}/pace {name}/{epoch}")

    def loop_s(self, name: str, event: ev.Event, effects: Sequence[Any]) -> float:
        """Seconds that the runtime itself takes of a worker for a step: for data, computed tasks and hand-overs."""
        if (runtime := self._runtime.get(name)) is None:
            return 0.0
        taken_s = runtime.hop_s * sum(len(effect.tasks) for effect in effects if isinstance(effect, fx.SendTasks))
        if isinstance(event, ev.TasksArrived):
            taken_s += (runtime.datum_s if event.sender is None else runtime.hop_s) * len(event.tasks)
        elif isinstance(event, ev.SegmentDone):
            taken_s += runtime.task_s * len(event.tasks)
        return taken_s

    def draw_s(self, name: str, k: int, tasks: int) -> float:
        """Seconds that this worker now computes for so many tasks of segment k."""
        return drawn_s(self._segment_s[name][k - 1], tasks, self._spread[name], self._rng[name])
