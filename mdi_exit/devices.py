"""Device profiles: how long a device takes for each segment of a network, and what memory it has for it.

A worker with a profile runs the real network for the answer and then waits until the device would have finished
(design section 6); a simulation draws its times from the same profile.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from mdi_exit.yamlfile import Place


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a run takes of a device's time beside the segments: seconds of its loop, cores, links. Ours."""

    datum_s: float = 0.0  # at the source, for each datum admitted and answered
    task_s: float = 0.0  # for each task that is computed
    hop_s: float = 0.0  # at either end, for each task handed over, its acknowledgement and its result included

    def __post_init__(self) -> None:
        assert min(self.datum_s, self.task_s, self.hop_s) >= 0


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One kind of device; `device_file.load_device` makes it of a file."""

    name: str
    memory_bytes: int  # what a worker may use for its slice
    segment_s: Mapping[str, tuple[float, ...]] = field(hash=False)  # "architecture@pixels": seconds of segments 1..K
    spread: float = 0.0  # coefficient of variation of those times
    file: str = ""  # where it was read, for messages
    slice_s: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)  # the same: "2-4": seconds
    runtime: Overhead = Overhead()

    def seconds(self, architecture: str, image_size: int, hosted: tuple[int, ...] = ()) -> tuple[float, ...]:
        """Seconds that computing one task of segments 1..K takes; raises ConfigError when the profile does not say.

        Where the slice `hosted` was timed as a whole, its segments are scaled to take as long together: what shares
        caches and memory is seldom the sum of its parts.
        """
        key = f"{architecture}@{image_size}"
        if key not in self.segment_s:
            place = Place(self.file or f"device {self.name}").at("segment_s")
            raise place.refuse(f"says nothing of {key}, which the experiment's model needs", self.segment_s)
        seconds, measured = self.segment_s[key], self.slice_s.get(key, {})
        if not hosted or (whole_s := measured.get(slice_name(hosted))) is None:
            return seconds
        scale = whole_s / sum(seconds[k - 1] for k in hosted)
        return tuple(s * scale if k in hosted else s for k, s in enumerate(seconds, 1))

    def occupied_s(self, architecture: str, image_size: int) -> tuple[float, ...]:
        """Seconds of the device that one task of segments 1..K takes, the runtime's included; raises ConfigError."""
        return tuple(s + self.runtime.task_s for s in self.seconds(architecture, image_size))

    def faster(self, speed: float) -> DeviceProfile:
        """The same device, `speed` times as fast."""
        if speed == 1:
            return self
        times = {key: tuple(s / speed for s in seconds) for key, seconds in self.segment_s.items()}
        slices = {key: {name: s / speed for name, s in whole.items()} for key, whole in self.slice_s.items()}
        runtime = Overhead(*(getattr(self.runtime, each.name) / speed for each in fields(Overhead)))
        return replace(self, name=f"{self.name} x{speed:g}", segment_s=times, slice_s=slices, runtime=runtime)


def slice_name(hosted: Sequence[int]) -> str:
    """A slice as files write it: 2-4, or 3 for a single segment."""
    return f"{hosted[0]}-{hosted[-1]}" if len(hosted) > 1 else str(hosted[0])


def drawn_s(segment_s: float, n: int, spread: float, rng: random.Random) -> float:
    """How long a device that takes `segment_s` on average takes for `n` data of one segment, one after the other.

    The time of each datum is gamma distributed around that with the coefficient of variation `spread` (zero and below
    cannot happen, and n of them add up to one draw).
    """
    if spread == 0:
        return n * segment_s
    scale = spread**2
    return segment_s * rng.gammavariate(n / scale, scale)


def check_exits(profile: DeviceProfile, architecture: str, image_size: int, exits: int) -> None:
    """Refuse a profile whose times do not fit a network with `exits` exits."""
    if len(seconds := profile.seconds(architecture, image_size)) != exits:
        place = Place(profile.file or f"device {profile.name}").at("segment_s", f"{architecture}@{image_size}")
        raise place.refuse(f"has {len(seconds)} entries", f"{exits}, one per segment of the model")
