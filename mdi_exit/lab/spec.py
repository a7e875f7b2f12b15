"""What a lab is made of: a number of equal devices, or a lab file.

description: two fast devices and a slow one      # optional
topology: 3-node-mesh           # a shipped name or a file; left out: n1, n2, ... of `devices`, each linked with each
links: {bandwidth: 50 Mbit/s}   # as in an experiment, for what the topology says nothing of; default: 100 Mbit/s
devices:                        # left out: all of the topology's, with an equal share each, of 0.2 or more cores
  n1: {cpus: 1.0, memory: 2 GB}
  n2: {cpus: 0.25}              # a quarter of one core
  n3: {}
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from mdi_exit import resources, topology_file
from mdi_exit.errors import UserError
from mdi_exit.shaping import Shape
from mdi_exit.survey import available_bytes
from mdi_exit.topology import Link, Topology
from mdi_exit.yamlfile import STRICT, Place, check, describe, read_mapping

DEVICES_MAX = 100  # addresses of a /24, and far more than one machine carries
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")  # of a lab or a device: it becomes a host name and a folder
DESK = "desk"  # where you sit: the lab's network without being one of its devices
DESK_ADDRESS = "10.77.0.254"
_MEMORY = re.compile(r"([0-9]*\.?[0-9]+)\s*(MB|GB)")
_BYTES = {"MB": 10**6, "GB": 10**9}
_MEMORY_MIN_BYTES = 500 * 10**6  # Ray's processes of one node need some 320 MB (measured, ray 2.60.0), then a worker
_CPUS_MIN = 0.05  # a quota of one millisecond in twenty, the least that the kernel takes
RAY_CPUS_MIN = 0.2  # Ray starts on 0.25 of a core, and on 0.1 not within its three attempts of 30 s (tried by hand)
_DEFAULT_MEMORY_BYTES = 2 * 10**9
_DEFAULT_SHAPE = Shape(bandwidth_bps=100e6)


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device: how many cores' worth of time it gets, and how much memory."""

    cpus: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class LabSpec:
    """A lab. The i-th worker of the topology is the i-th device, at 10.77.0.i; the first one is the Ray head."""

    topology: Topology
    devices: Mapping[str, DeviceSpec]
    warnings: tuple[str, ...] = ()  # of what was asked for, and may be too little

    def address(self, device: str) -> str:
        return f"10.77.0.{self.topology.workers.index(device) + 1}"

    def shape(self, sender: str, receiver: str) -> Shape | None:
        """What the link from one device to another is like; None when there is none."""
        link = self.topology.carrier(sender, receiver)
        return link.shape if link else None


class _LabFile(BaseModel):
    model_config = STRICT
    description: str = ""
    topology: Annotated[str, Field(min_length=1)] | None = None
    links: dict[str, Any] = {}
    devices: dict[str, Any] = {}


class _DeviceEntry(BaseModel):
    model_config = STRICT
    cpus: Annotated[float, Field(ge=_CPUS_MIN)] | None = None
    memory: Any = None


def load(what: str) -> LabSpec:
    """The lab that is meant by a number of devices, a shipped lab's name or a lab file. Raises UserError."""
    if re.fullmatch(r"\d+", what):
        if not 1 <= int(what) <= DEVICES_MAX:
            raise UserError(f"lab: {what} devices; allowed: 1 to {DEVICES_MAX}")
        names = tuple(f"n{i}" for i in range(1, int(what) + 1))
        return _resolve(_complete(names, _DEFAULT_SHAPE, f"lab-{what}"), {}, Place(f"lab of {what}"))
    path = resources.find("lab", what, Path(), Place("lab"))
    place = Place(str(path))
    spec = check(_LabFile, read_mapping(path), place)
    shaping = check(topology_file.ShapingSpec, spec.links, place.at("links"))
    shape = shaping.over(_DEFAULT_SHAPE, place.at("links"), path.parent)
    if spec.topology is not None:
        topology = topology_file.load(spec.topology, path.parent, shape, place.at("topology"))
    elif spec.devices:
        topology = _complete(tuple(spec.devices), shape, path.stem)
    else:
        raise place.refuse("names no devices", "devices:, topology: or both")
    return _resolve(topology, spec.devices, place)


def memory_bytes(value: object, place: Place) -> int:
    """The bytes of a size for people, such as 2 GB; raises ConfigError about `place`."""
    matched = _MEMORY.fullmatch(value) if isinstance(value, str) else None
    size = int(float(matched[1]) * _BYTES[matched[2]]) if matched else 0
    if size < _MEMORY_MIN_BYTES:
        raise place.refuse(f"is {describe(value)}", "500 MB or more, such as 2 GB; Ray alone needs some 320 MB")
    return size


def check_cpus(value: float, place: Place) -> float:
    """The share itself, if a device can have it; raises ConfigError about `place`."""
    if not _CPUS_MIN <= value <= _cores():
        raise place.refuse(f"is {value:g}", f"{_CPUS_MIN:g} to {_cores()}, the cores of this machine")
    return value


def check_constant(shape: Shape, place: Place) -> None:
    """Refuse what the kernel does not do to a link. Raises ConfigError."""
    if shape.channel is not None or shape.bandwidth_trace is not None:
        raise place.refuse(
            "has a channel or a bandwidth_trace", "bandwidth, latency_s and loss; `lab shape` changes them"
        )


def _resolve(topology: Topology, entries: Mapping[str, Any], place: Place) -> LabSpec:
    if len(topology.workers) > DEVICES_MAX:
        raise place.refuse(f"has {len(topology.workers)} devices", f"at most {DEVICES_MAX}")
    for name in topology.workers:
        if not NAME.fullmatch(name) or name == DESK:
            raise place.at("devices").refuse(
                f"holds {describe(name)} as a name", "small letters, digits and '-'; not desk"
            )
    for link in topology.links:
        check_constant(link.shape, Place(topology.file or place.file, ("links", link.label)))
    for name in entries:
        if name not in topology.workers:
            raise place.at("devices").unknown("device", name, topology.workers)
    devices, warnings = _sizes(topology.workers, entries, place)
    return LabSpec(topology, devices, tuple(warnings))


def _sizes(names: Sequence[str], entries: Mapping[str, Any], place: Place) -> tuple[dict[str, DeviceSpec], list[str]]:
    """Every device's share, and warnings. Where Ray could not start in it an equal share is refused; what a file asks
    for is granted, with a warning. Raises ConfigError."""
    asked = {name: _asked(entries.get(name), place.at("devices", name)) for name in names}
    equal = min(1.0, _cores() / len(names))
    devices = {
        name: DeviceSpec(equal if cpus is None else cpus, _DEFAULT_MEMORY_BYTES if memory is None else memory)
        for name, (cpus, memory) in asked.items()
    }
    small = [name for name, (cpus, _) in asked.items() if cpus is not None and cpus < RAY_CPUS_MIN]
    if equal < RAY_CPUS_MIN and any(cpus is None for cpus, _ in asked.values()):
        at_most = f"at most {math.floor(_cores() / RAY_CPUS_MIN)} devices, or a lab file that says `cpus` of each"
        what = f"an equal share of {_cores()} cores is {equal:.2g} of one, and Ray needs {RAY_CPUS_MIN:g} to start"
        raise place.refuse(what, at_most)
    warnings = [f"{', '.join(small)}: on less than {RAY_CPUS_MIN:g} of a core Ray may not start"] if small else []
    free_bytes = available_bytes()
    if free_bytes is not None and free_bytes < len(devices) * _MEMORY_MIN_BYTES:
        what = f"{len(devices)} devices need some {len(devices) * _MEMORY_MIN_BYTES / 1e9:g} GB of memory"
        what += f", of which {free_bytes / 1e9:.1f} are free"
        if any(memory is None for _, memory in asked.values()):
            at_most = f"at most {free_bytes // _MEMORY_MIN_BYTES} devices now, or a lab file that says `memory` of each"
            raise place.refuse(what, at_most)
        warnings.append(what)
    return devices, warnings


def _asked(entry: Any, place: Place) -> tuple[float | None, int | None]:
    """The cores and bytes that a lab file names for a device; None: left to us."""
    spec = check(_DeviceEntry, {} if entry is None else entry, place)
    cpus = None if spec.cpus is None else check_cpus(spec.cpus, place.at("cpus"))
    return cpus, None if spec.memory is None else memory_bytes(spec.memory, place.at("memory"))


def _complete(names: tuple[str, ...], shape: Shape, name: str) -> Topology:
    links = tuple(Link(a, b, False, shape) for a, b in itertools.combinations(names, 2))
    return Topology(name, names[0], names, links)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
