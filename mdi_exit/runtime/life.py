"""What one life of a worker is made of, and what follows from it alone."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mdi_exit import compute
from mdi_exit.compute import PreparedNet, SegmentRunner
from mdi_exit.compute.pacing import PacedRunner
from mdi_exit.config import Experiment
from mdi_exit.runtime.radio import RadioChannel
from mdi_exit.shaping import Medium, Shape, Shaper


@dataclass(frozen=True, slots=True)
class Life:
    """A worker's name, its epoch (how many lives it had before), and the run it takes part in."""

    experiment: Experiment
    prepared: PreparedNet
    name: str
    epoch: int
    started_unix_s: float  # second 0 of the run by the wall clock, the same for every node
    journals: Path | None = None
    journals_travel: bool = False  # the folder is not the launcher's: what is in it has to be sent there
    channels: Path | None = None  # where the radio channels of the topology are booked, if it has any

    @property
    def is_source(self) -> bool:
        return self.name == self.experiment.topology.source

    @property
    def port(self) -> int | None:
        """The i-th worker of the topology listens i above the first port, if one is given."""
        first = self.experiment.runtime.port_base
        return None if first is None else first + self.experiment.topology.workers.index(self.name)

    def shapers(self, opened: ExitStack) -> dict[str, Shaper]:
        """What holds back each direction that leaves this worker; a link without limits needs nothing to do so.

        What has to be closed is left to `opened`. Raises OSError when a radio channel cannot be opened.
        """
        experiment, name = self.experiment, self.name
        radio: dict[str, RadioChannel] = {}
        shapers: dict[str, Shaper] = {}
        for m in experiment.topology.workers:
            link = experiment.topology.carrier(name, m)
            shape = link.shape if link else Shape()
            if shape.transparent:
                continue
            medium: Medium | None = None
            if shape.channel is not None:
                assert self.channels is not None
                if shape.channel not in radio:
                    radio[shape.channel] = RadioChannel(self.channels, shape.channel)
                    opened.callback(radio[shape.channel].close)
                medium = radio[shape.channel]
            shapers[m] = Shaper(shape, Random(f"{experiment.seed}/link {name} {m}/{self.epoch}"), medium)
        return shapers

    def runner(self) -> SegmentRunner:
        """Load the slice, paced if the worker stands for another device. Raises UserError."""
        experiment, name, runtime = self.experiment, self.name, self.experiment.runtime
        hosted = experiment.hosted[name]
        runner = compute.open_runner(self.prepared, hosted, runtime.threads_per_worker, runtime.device)
        profile = experiment.devices[name]
        if profile is None:
            return runner
        model = self.prepared.card.model
        seconds = profile.seconds(model.architecture, model.image_size)
        return PacedRunner(runner, seconds, profile.spread, Random(f"{experiment.seed}/pace {name}/{self.epoch}"))
