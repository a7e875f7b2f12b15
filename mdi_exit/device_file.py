"""A device profile as a user writes it: validated YAML to a DeviceProfile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from mdi_exit import resources
from mdi_exit.devices import DeviceProfile, Overhead
from mdi_exit.yamlfile import STRICT, Place, check, read_mapping


class _RuntimeSpec(BaseModel):
    model_config = STRICT
    datum: Annotated[float, Field(ge=0)] = 0.0
    task: Annotated[float, Field(ge=0)] = 0.0
    hop: Annotated[float, Field(ge=0)] = 0.0


class _DeviceSpec(BaseModel):
    model_config = STRICT
    description: str = ""
    memory_bytes: Annotated[int, Field(gt=0)]
    segment_s: dict[str, tuple[Annotated[float, Field(gt=0)], ...]]
    spread: Annotated[float, Field(ge=0, le=2)] = 0.0
    slice_s: dict[str, dict[str, Annotated[float, Field(gt=0)]]] = {}
    runtime_s: _RuntimeSpec = _RuntimeSpec()


def load_device(reference: str, base: Path, place: Place) -> DeviceProfile:
    """The profile of a shipped name or of a file (relative to the folder `base`), which `place` refers to.

    Raises ConfigError, about `place` when there is no such profile, about its file when that is wrong.
    """
    path = resources.find("devices", reference, base, place)
    spec = check(_DeviceSpec, read_mapping(path), Place(str(path)))
    runtime = Overhead(spec.runtime_s.datum, spec.runtime_s.task, spec.runtime_s.hop)
    return DeviceProfile(path.stem, spec.memory_bytes, spec.segment_s, spec.spread, str(path), spec.slice_s, runtime)
