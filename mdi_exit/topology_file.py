"""Topology files: YAML to a `Topology`.

description: two devices and a hub      # optional
source: hub
workers: [hub, n1, n2]                  # or a mapping, where something is to be said of a worker:
                                        #   n1: {device: jetson-nano, speed: 0.5, slice: 1-3, options: {...}}
links:
  - [hub, n1]                           # both ways
  - {between: [hub, n2], bandwidth: 20 Mbit/s, latency_s: 0.002, loss: 0.01}
  - {from: n1, to: n2, bandwidth_trace: lte.txt}      # one way; lines "how many seconds, bit/s", over and over
  - {between: [n1, n3], bandwidth: 54 Mbit/s, channel: wifi}      # takes turns with all others of that channel
  - {between: [hub, n4], snr_db: 5, fading: rayleigh}  # features sent as symbols of an analog link arrive with noise
  - {between: [hub, n5], bandwidth: 5 Mbit/s, encoding: auto}  # features as fp32, fp16, int8, or what is there first

A frame is lost with probability `loss` and sent again after a timeout, as TCP does: it comes late, it does not vanish.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from mdi_exit import resources
from mdi_exit.core.types import WorkerOptions
from mdi_exit.shaping import NAME, NAMES, BandwidthTrace, Shape
from mdi_exit.topology import Link, Topology, TopologyError, WorkerSettings
from mdi_exit.yamlfile import STRICT, Place, build, check, describe, read_mapping, read_numbers

_Name = Annotated[str, Field(min_length=1)]
_BANDWIDTH = re.compile(r"([0-9]*\.?[0-9]+)\s*([kMG]?)bit/s")
_BANDWIDTHS = ("bandwidth", "bandwidth_bps", "bandwidth_trace")
_SHAPE = ("latency_s", "loss", "channel", "snr_db", "fading", "encoding")
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


class ShapingSpec(BaseModel):
    """The keys that shape a link, of one link or of all (an experiment's `links`)."""

    model_config = STRICT
    bandwidth_bps: Annotated[float, Field(gt=0)] | None = None
    bandwidth: Any = None  # the same for people: 20 Mbit/s
    latency_s: Annotated[float, Field(ge=0)] = 0.0
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bandwidth_trace: _Name | None = None  # a file of lines "seconds bit/s"
    channel: _Name | None = None  # links that name the same one take turns
    snr_db: float | None = None  # mean SNR at which the codes of an analog link arrive
    fading: str = "none"
    encoding: str = "fp32"  # of features: codec.CHOICES

    def over(self, defaults: Shape, place: Place, base: Path) -> Shape:
        """`defaults` with what was given here in their stead; `bandwidth_bps: null` takes a default limit off.

        Files are relative to the folder `base`.
        """
        given: dict[str, Any] = {key: getattr(self, key) for key in _SHAPE if key in self.model_fields_set}
        said = [key for key in _BANDWIDTHS if key in self.model_fields_set]
        if len(several := [key for key in said if getattr(self, key) is not None]) > 1:
            raise place.refuse(f"gives {' and '.join(several)}", "one of them")
        if said:
            given |= {"bandwidth_bps": self.bandwidth_bps, "bandwidth_trace": None}
        if self.bandwidth is not None:
            given["bandwidth_bps"] = _bandwidth(self.bandwidth, place.at("bandwidth"))
        if self.bandwidth_trace is not None:
            given["bandwidth_trace"] = _bandwidth_trace(base / self.bandwidth_trace, place.at("bandwidth_trace"))
        try:
            return replace(defaults, **given)
        except ValueError as error:
            raise place.refuse(str(error)) from error


class _LinkSpec(ShapingSpec):
    between: tuple[_Name, _Name] | None = None
    sender: _Name | None = Field(default=None, alias="from")
    to: _Name | None = None


class _WorkerSpec(BaseModel):
    model_config = STRICT
    device: _Name | None = None
    slice: Any = None
    speed: Annotated[float, Field(gt=0)] = 1.0
    options: dict[str, Any] = {}


class _TopologySpec(BaseModel):
    model_config = STRICT
    name: _Name | None = None
    description: str = ""
    source: _Name
    workers: Any
    links: tuple[Any, ...] = ()


def load(
    reference: str | Path, base: Path | None = None, shaping: Shape | None = None, place: Place | None = None
) -> Topology:
    """The topology of a shipped name or of a file (relative to the folder `base`), which `place` refers to.

    `shaping` is for links of which the file says nothing; without it the file is looked at alone, and a link may lack
    what an experiment's `links` would give it. Raises ConfigError naming file and key.
    """
    path = resources.find("topologies", str(reference), base or Path(), place or Place("topology"))
    return parse_topology(read_mapping(path), Place(str(path)), path.stem, path.parent, shaping)


def built_in() -> tuple[str, ...]:
    """Names of the shipped topologies."""
    return resources.built_in("topologies")


def parse_topology(content: Mapping[str, Any], place: Place, name: str, base: Path, shaping: Shape | None) -> Topology:
    """The topology of a mapping; paths in it are relative to the folder `base`."""
    spec = check(_TopologySpec, content, place)
    names, settings = _workers(spec.workers, place.at("workers"), base)
    links = tuple(_link(entry, place.at("links", i), shaping, base) for i, entry in enumerate(spec.links))
    try:
        return Topology(spec.name or name, spec.source, names, links, settings, spec.description, place.file)
    except TopologyError as error:
        raise place.at(error.where).refuse(error.what) from error


def _workers(value: Any, place: Place, base: Path) -> tuple[tuple[str, ...], dict[str, WorkerSettings]]:
    if not isinstance(value, tuple | Mapping):
        raise place.refuse(f"is {describe(value)}", "a list of names, or a mapping from names to settings")
    for name in value:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise place.refuse(f"holds {describe(name)} as a name", f"{NAMES}; quote a name like '1'")
    if isinstance(value, tuple):
        return value, {}
    settings = {}
    for name, content in value.items():
        if content is None:
            continue
        spec = check(_WorkerSpec, content, place.at(name))
        device = spec.device
        if device is not None and resources.is_path(device):
            device = str((base / device).absolute())
        build(WorkerOptions, spec.options, place.at(name, "options"))
        settings[name] = WorkerSettings(device, spec.slice, spec.speed, spec.options)
    return tuple(value), settings


def _link(entry: Any, place: Place, shaping: Shape | None, base: Path) -> Link:
    ends = "[a, b], or a mapping with between: [a, b] or with from: a and to: b"
    if isinstance(entry, tuple):
        entry = {"between": entry}
        if len(entry["between"]) != 2:
            raise place.refuse(f"has {len(entry['between'])} ends", ends)
    if not isinstance(entry, Mapping):
        raise place.refuse(f"is {describe(entry)}", ends)
    spec = check(_LinkSpec, entry, place)
    one_way = spec.sender is not None and spec.to is not None
    if one_way == (spec.between is not None) or (spec.sender is None) != (spec.to is None):
        raise place.refuse("does not say which two workers it joins", ends)
    a, b = spec.between or (spec.sender, spec.to)
    assert a is not None and b is not None
    shape = spec.over(shaping or Shape(), place, base)
    if shaping is not None and shape.channel is not None and shape.mean_bps is None:
        allowed = "bandwidth or bandwidth_trace here, or in the experiment's links"
        raise place.refuse(f"is on channel {shape.channel} without a bandwidth", allowed)
    return Link(a, b, one_way, shape)


def _bandwidth(text: object, place: Place) -> float:
    matched = _BANDWIDTH.fullmatch(text) if isinstance(text, str) else None
    if not matched or float(matched[1]) == 0:
        allowed = "a number with bit/s, kbit/s, Mbit/s or Gbit/s, such as 20 Mbit/s"
        raise place.refuse(f"is {describe(text)}", allowed)
    return float(matched[1]) * _SCALE[matched[2]]


def _bandwidth_trace(path: Path, place: Place) -> BandwidthTrace:
    """The steps of a text file, "seconds bit/s" in each line; # starts a comment."""
    rows = read_numbers(path, place, "seconds and bit/s", columns=2)
    try:
        return BandwidthTrace(tuple((row[0], row[1]) for _, row in rows), path.name)
    except ValueError as error:
        raise Place(str(path)).refuse(str(error)) from error
