"""What one life of a worker is made of, and what follows from it alone."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from mdi_exit import compute
from mdi_exit.codec import FP32
from mdi_exit.compute import PreparedNet, SegmentRunner
from mdi_exit.compute.pacing import PacedRunner
from mdi_exit.config import Experiment
from mdi_exit.runtime.coder import Coder
from mdi_exit.runtime.images import Images
from mdi_exit.runtime.radio import RadioChannel
from mdi_exit.runtime.receiver import Receiver
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

    def shapers(self, opened: ExitStack, zero_s: float) -> dict[str, Shaper]:
        """What holds back each direction that leaves this worker; a link without limits needs nothing to do so.

        `zero_s` is second 0 of the run by time.monotonic. What has to be closed is left to `opened`. Raises OSError
        when a radio channel cannot be opened.
        """
        experiment, name = self.experiment, self.name
        radio: dict[str, RadioChannel] = {}
        shapers: dict[str, Shaper] = {}
        for m in experiment.topology.workers:
            link = experiment.topology.carrier(name, m)
            shape = link.shape if link else Shape()
            if shape.transparent or experiment.runtime.emulate == "none":
                continue
            medium: Medium | None = None
            if shape.channel is not None:
                assert self.channels is not None
                if shape.channel not in radio:
                    radio[shape.channel] = RadioChannel(self.channels, shape.channel, zero_s)
                    opened.callback(radio[shape.channel].close)
                medium = radio[shape.channel]
            shapers[m] = Shaper(shape, Random(f"{experiment.seed}/link {name} {m}/{self.epoch}"), medium)
        return shapers

    def images(self) -> Images:
        """What the source reads. Raises UserError for data that cannot be read."""
        return Images(self.experiment, self.prepared.card)

    def coders(self) -> dict[str, Coder]:
        """How features are written on each direction that leaves this worker, where that is not fp32."""
        ways = {m: self.experiment.topology.carrier(self.name, m) for m in self.experiment.topology.workers}
        coded = {m: link.shape for m, link in ways.items() if link is not None and link.shape.encoding != FP32}
        return {m: Coder(shape) for m, shape in coded.items()}

    def receiver(self) -> Receiver:
        """What hears the noise of each direction that leads to this worker."""
        experiment, analog = self.experiment, self.prepared.card.model.analog
        ways = {m: experiment.topology.carrier(m, self.name) for m in experiment.topology.workers}
        channels = {m: link.shape.noise for m, link in ways.items() if link is not None}
        seed = Random(f"{experiment.seed}/noise {self.name}/{self.epoch}").getrandbits(64)
        return Receiver(
            {m: channel for m, channel in channels.items() if channel is not None},
            analog.cut if analog is not None else None,
            np.random.default_rng(seed),
        )

    def runner(self) -> SegmentRunner:
        """Load the slice, paced if the worker stands for another device. Raises UserError."""
        experiment, name, runtime = self.experiment, self.name, self.experiment.runtime
        hosted = experiment.hosted[name]
        runner = compute.open_runner(self.prepared, hosted, runtime.threads_per_worker, runtime.device)
        profile = experiment.devices[name]
        if profile is None or runtime.emulate != "all":
            return runner
        model = self.prepared.card.model
        seconds = profile.seconds(model.architecture, model.image_size, hosted)
        rng = Random(f"{experiment.seed}/pace {name}/{self.epoch}")
        return PacedRunner(runner, seconds, profile.spread, rng, task_s=profile.runtime.task_s)
