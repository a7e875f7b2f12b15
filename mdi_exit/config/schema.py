"""The keys of an experiment file, and how policies are made of them.

A policy is written as its rule's name, `offloading: never`, or with options, `offloading: {rule: mdi_exit,
output_limit: 5}`; the options are the fields of the policy's class.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from mdi_exit.yamlfile import STRICT, Place, build, describe, read_numbers

_Name = Annotated[str, Field(min_length=1)]


class ExperimentSpec(BaseModel):
    """An experiment file, before it is resolved; `Any` is checked when it is."""

    model_config = STRICT
    name: _Name | None = None  # default: the file's
    seed: Annotated[int, Field(ge=0)] = 0
    model: _Name = "mobilenetv2-cifar10"  # a checkpoint's path or bundled name
    dataset: _Name = "sample"  # a folder, a zip, "sample", or a public set's name
    resize: bool = False  # whether images of another size than the network's are cropped and resized, or refused
    topology: _Name = "local"  # a file or a shipped name
    placement: Any = None  # all | auto | {worker: all | first-last | [segments]}; default: the topology's, or all
    devices: Any = None  # a profile for all | {worker: profile or {profile: ..., speed: ...} or null}
    links: dict[str, Any] = {}  # a topology_file.ShapingSpec for links of which the topology says nothing
    thresholds: Any = 0.8  # one number, or one per exit
    exit: Any = "threshold"
    offloading: Any = "dual_backpressure"
    admission: Any = "fill_queue"
    arrivals: Any = None  # wanted by some admission rules, refused by the others
    worker: dict[str, Any] = {}  # fields of core.types.WorkerOptions
    limits: dict[str, Any] = {}  # fields of core.types.Limits
    duration_s: Annotated[float, Field(gt=0)] = 20.0
    drain_s: Annotated[float, Field(ge=0)] = 30.0
    data_max: Annotated[int, Field(gt=0)] | None = None
    churn: Any = ()  # a list of config.churn.Churn
    runtime: dict[str, Any] = {}  # fields of config.RuntimeSettings


class DeviceChoice(BaseModel):
    """One worker's entry under `devices`, spelt out."""

    model_config = STRICT
    profile: _Name | None = None
    speed: Annotated[float, Field(gt=0)] = 1.0  # how much faster than the profile


def policy(registry: Mapping[str, type], value: object, place: Place, default: str | None = None) -> Any:
    """The policy that a section of an experiment file asks for; options alone mean the `default` rule's.

    Raises ConfigError.
    """
    if isinstance(value, str):
        value = {"rule": value}
    if not isinstance(value, Mapping):
        raise place.refuse(f"is {describe(value)}", f"a rule's name or rule: with its options, of {_names(registry)}")
    options = {key: entry for key, entry in value.items() if key != "rule"}
    rule = value.get("rule", default)
    if rule is None:
        raise place.refuse("does not name its rule", f"rule: with one of {_names(registry)}")
    if not isinstance(rule, str) or rule not in registry:
        raise place.at("rule").unknown("rule", rule, registry)
    return build(registry[rule], options, place)


def of(registry: Mapping[str, type], spec: ExperimentSpec, section: str, place: Place) -> Any:
    """The policy of a section of an experiment, by default the rule that the section has by default."""
    default = ExperimentSpec.model_fields[section].default
    return policy(registry, getattr(spec, section), place.at(section), default)


def arrivals(registry: Mapping[str, type], value: object, place: Place, base: Path) -> Any:
    """As `policy`; recorded arrivals may name a `file` in the stead of their gaps, relative to the folder `base`."""
    if isinstance(value, Mapping) and value.get("rule") == "recorded" and "file" in value:
        if "gaps_s" in value:
            raise place.refuse("gives gaps_s and file", "one of them")
        content = {key: entry for key, entry in value.items() if key != "file"}
        value = {**content, "gaps_s": _recorded_gaps(value["file"], place.at("file"), base)}
    return policy(registry, value, place)


def forms(registry: Mapping[str, type]) -> str:
    """How rules of arrivals are written, with all that each must be told."""
    written = []
    for name, rule in registry.items():
        wanted = [field.name for field in dataclasses.fields(rule) if field.default is dataclasses.MISSING]
        keys = ["file: FILE" if key == "gaps_s" else f"{key}: NUMBER" for key in wanted]
        written.append(f"{{{', '.join([f'rule: {name}', *keys])}}}")
    return " or ".join(written)


def thresholds(value: object, exits: int, place: Place) -> tuple[float, ...]:
    """T_e^k for k = 1..K-1, from one number for all or one per exit (a K-th is dropped: exit K always exits)."""
    several = f"one number, or {exits - 1} numbers (one per exit; the last exit has none), each above 0 and at most 1"
    if isinstance(value, tuple | list):
        if len(value) not in (exits - 1, exits):
            raise place.refuse(f"has {len(value)} entries for {exits} exits", several)
        return tuple(_threshold(entry, place.at(index)) for index, entry in enumerate(value))[: exits - 1]
    return (_threshold(value, place),) * (exits - 1)


def _threshold(value: object, place: Place) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise place.refuse(f"is {describe(value)}", "a number above 0 and at most 1 (1 switches an exit off)")
    return float(value)


def _recorded_gaps(value: object, place: Place, base: Path) -> tuple[float, ...]:
    """Gaps between the times of a text file: one time in seconds per line, not descending; # starts a comment."""
    if not isinstance(value, str):
        raise place.refuse(f"is {describe(value)}", "the path of a text file")
    path = base / value
    lines = read_numbers(path, place, "a time in seconds", columns=1)
    if len(lines) < 2:
        raise place.refuse(f"{path} holds {len(lines)} times", "two or more")
    gaps: list[float] = []
    for (_, (earlier_s,)), (inside, (later_s,)) in itertools.pairwise(lines):
        if later_s < earlier_s:
            raise inside.refuse(f"is {later_s:g}", "times in seconds that do not go back")
        gaps.append(later_s - earlier_s)
    return tuple(gaps)


def _names(registry: Mapping[str, type]) -> str:
    return ", ".join(registry)
