"""Build the cores of an experiment: the one place, for real time, replay and simulation alike.

Each core draws from a generator of its own, seeded by the experiment's seed, the core's name and its epoch, so that
what one draws never disturbs another and a replayed core draws the same again.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from array import array
from collections.abc import Collection
from pathlib import Path

from mdi_exit.config import Experiment
from mdi_exit.core.controller import ControllerCore
from mdi_exit.core.types import Routes, WorkerOptions
from mdi_exit.core.worker import WorkerCore
from mdi_exit.models.card import Card
from mdi_exit.policies.learned import LearnedExit
from mdi_exit.quick import KINDS, quicken
from mdi_exit.topology import routes

for _kind in KINDS:  # whoever drives cores comes by here
    quicken(_kind)


def load_card(experiment: Experiment) -> Card:
    """The card of the experiment's checkpoint; raises CardError."""
    return Card.load(Path(experiment.model).with_suffix(".json"))


def worker_core(experiment: Experiment, card: Card, name: str, epoch: int = 0) -> WorkerCore:
    """The core of worker `name`; `epoch` counts its restarts."""
    assert card.model.exits == experiment.exits
    return WorkerCore(
        name=name,
        exits=experiment.exits,
        hosted=experiment.hosted[name],
        thresholds=experiment.thresholds,
        exit_policy=experiment.exit,
        offloading_policy=experiment.offloading,
        options=_options(experiment, card, name),
        limits=experiment.limits,
        rng=random.Random(f"{experiment.seed}/worker {name}/{epoch}"),
        is_source=name == experiment.topology.source,
        epoch=epoch,
    )


def controller_core(experiment: Experiment, card: Card) -> ControllerCore:
    """The core of the controller at the source. It has no second epoch: a source that restarts ends the run."""
    assert card.model.exits == experiment.exits
    return ControllerCore(
        exits=experiment.exits,
        thresholds=experiment.thresholds,
        admission=experiment.admission,
        arrivals=experiment.arrivals,
        limits=experiment.limits,
        rng=random.Random(f"{experiment.seed}/controller/0"),
        data_max=experiment.data_max,
        uses_prices=experiment.offloading.uses_prices,
        learner=experiment.exit if isinstance(experiment.exit, LearnedExit) else None,
    )


def routes_for(
    experiment: Experiment, alive: Collection[str], version: int, leaving: Collection[str] = ()
) -> dict[str, Routes]:
    """What each living worker must know of the graph that is left, and of who is about to leave it."""
    return routes(experiment.topology, experiment.hosted, experiment.exits, alive, version, leaving)


def datum_index(experiment: Experiment, data_id: int, n: int) -> int:
    """Which of the data set's `n` images datum d is: all of them in a drawn order, then all in another."""
    shuffle, position = divmod(data_id, n)
    return _order(experiment.seed, shuffle, n)[position]


@functools.lru_cache(maxsize=16)  # what is in flight spans several where images are few; where many, 4 bytes for each
def _order(seed: int, shuffle: int, n: int) -> array[int]:
    order = array("I", range(n))
    random.Random(f"{seed}/data/{shuffle}").shuffle(order)
    return order


def _options(experiment: Experiment, card: Card, name: str) -> WorkerOptions:
    """The worker's options; a paced worker's first estimate of Gamma_n is its device profile's mean."""
    options, profile = experiment.worker_options[name], experiment.devices[name]
    if profile is None or options.compute_delay_s > 0:
        return options
    seconds = profile.seconds(card.model.architecture, card.model.image_size, experiment.hosted[name])
    here = [seconds[k - 1] for k in experiment.hosted[name]]
    return dataclasses.replace(options, compute_delay_s=sum(here) / len(here))
