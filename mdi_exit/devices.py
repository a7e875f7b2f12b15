"""Device profiles: how long a device takes for each segment of a network, and what memory it has for it.

A worker with a profile runs the real network for the answer and then waits until the device would have finished
(design section 6); a simulation draws its times from the same profile.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from mdi_exit import resources
from mdi_exit.yamlfile import STRICT, Place, check, read_mapping


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One kind of device; `load_device` makes it of a file."""

    name: str
    memory_bytes: int  # what a worker may use for its slice
    segment_s: Mapping[str, tuple[float, ...]] = field(hash=False)  # "architecture@pixels": seconds of segments 1..K
    spread: float = 0.0  # coefficient of variation of those times
    file: str = ""  # where it was read, for messages

    def seconds(self, architecture: str, image_size: int) -> tuple[float, ...]:
        """Seconds of segments 1..K at batch size 1; raises ConfigError when the profile does not say."""
        key = f"{architecture}@{image_size}"
        if key not in self.segment_s:
            place = Place(self.file or f"device {self.name}").at("segment_s")
            raise place.refuse(f"says nothing of {key}, which the experiment's model needs", self.segment_s)
        return self.segment_s[key]

    def faster(self, speed: float) -> DeviceProfile:
        """The same device, `speed` times as fast."""
        if speed == 1:
            return self
        times = {key: tuple(s / speed for s in seconds) for key, seconds in self.segment_s.items()}
        return replace(self, name=f"{self.name} x{speed:g}", segment_s=times)


def drawn_s(segment_s: float, n: int, spread: float, rng: random.Random) -> float:
    """How long a device that takes `segment_s` on average takes for `n` data of one segment, one after the other.

    The time of each datum is gamma distributed around that with the coefficient of variation `spread` (zero and below
    cannot happen, and n of them add up to one draw).
    """
    if spread == 0:
        return n * segment_s
    scale = spread**2
    return segment_s * rng.gammavariate(n / scale, scale)


class _DeviceSpec(BaseModel):
    model_config = STRICT
    description: str = ""
    memory_bytes: Annotated[int, Field(gt=0)]
    segment_s: dict[str, tuple[Annotated[float, Field(gt=0)], ...]]
    spread: Annotated[float, Field(ge=0, le=2)] = 0.0


def load_device(reference: str, base: Path, place: Place) -> DeviceProfile:
    """The profile of a shipped name or of a file (relative to the folder `base`), which `place` refers to.

    Raises ConfigError, about `place` when there is no such profile, about its file when that is wrong.
    """
    path = resources.find("devices", reference, base, place)
    spec = check(_DeviceSpec, read_mapping(path), Place(str(path)))
    return DeviceProfile(path.stem, spec.memory_bytes, spec.segment_s, spec.spread, str(path))


def check_exits(profile: DeviceProfile, architecture: str, image_size: int, exits: int) -> None:
    """Refuse a profile whose times do not fit a network with `exits` exits."""
    if len(seconds := profile.seconds(architecture, image_size)) != exits:
        place = Place(profile.file or f"device {profile.name}").at("segment_s", f"{architecture}@{image_size}")
        raise place.refuse(f"has {len(seconds)} entries", f"{exits}, one per segment of the model")
