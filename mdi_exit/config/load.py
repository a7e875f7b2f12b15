"""From an experiment file to an `Experiment`: read, override, validate, resolve what it refers to.

Paths in a file are relative to that file. A setting given in a file's stead (`--set dataset=./images`) is relative to
the working directory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mdi_exit import placement, policies, public_sets, resources
from mdi_exit.config import schema
from mdi_exit.config.churn import churn
from mdi_exit.config.exits import check_noise, exit_policy
from mdi_exit.config.experiment import PORT_MAX, Experiment, RuntimeSettings
from mdi_exit.config.settings import blame, from_here, override, there
from mdi_exit.core.types import Limits, WorkerOptions
from mdi_exit.dataset import SAMPLE
from mdi_exit.device_file import load_device
from mdi_exit.devices import DeviceProfile, check_exits
from mdi_exit.models.card import Card, ModelConfig
from mdi_exit.models.files import CheckpointError, files_of, resolve, weights_path
from mdi_exit.policies.backpressure import DualBackPressure
from mdi_exit.shaping import Shape
from mdi_exit.topology import Topology
from mdi_exit.topology_file import ShapingSpec
from mdi_exit.topology_file import load as load_topology
from mdi_exit.yamlfile import ConfigError, Place, build, check, describe, meant, read_mapping

_DEFAULTS = "default experiment"  # stands for a file in messages when there is none


def load_experiment(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of a file, of a shipped example's name, or (None) of defaults alone, with overrides.

    `overrides` maps dotted keys to values, `{"admission.rule": "always", "placement.n2": "1-3"}`; they are validated
    like the file. Raises ConfigError, or the UserError of what the file refers to, as one line.
    """
    base, label, name, content = Path(), _DEFAULTS, "default", dict[str, Any]()
    if path is not None:
        file = _file(path)
        content, base, label, name = read_mapping(file), file.parent, str(file), file.stem

    def load(settings: Mapping[str, Any]) -> Experiment:
        changed = content
        for key, value in settings.items():
            changed = override(changed, key, from_here(key, value), Place(label))
        if isinstance(changed.get("topology"), Mapping):
            raise (
                Place(label).at("topology").refuse("is a mapping", "a name, or the path of a file that holds the graph")
            )
        spec = check(schema.ExperimentSpec, changed, Place(label))
        return _resolve(spec, Place(label), base, spec.name or name)

    try:
        return load(overrides or {})
    except ConfigError as error:
        raise blame(error, label, overrides or {}, lambda: load({})) from error.__cause__


def read_experiment(path: str | Path, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    """What an experiment's file says, with overrides, unchecked; and the folder that its paths start from."""
    file = _file(path)
    content = read_mapping(file)
    for key, value in overrides.items():
        content = override(content, key, from_here(key, value), Place(str(file)))
    return content, file.parent


def _file(path: str | Path) -> Path:
    """A file that is there, or the shipped example of that name; ConfigError says which there are."""
    name, shipped = str(path), resources.built_in("examples")
    if there(Path(path)) and not (name in shipped and Path(path).is_dir()):  # such as an earlier run's results
        return Path(path)
    if name not in shipped:
        beside = [written for suffix in (".yaml", ".yml") if there(Path(written := name + suffix))]
        what = f"no such file{meant(name, beside or shipped)}"
        raise Place(name).refuse(what, f"an experiment's YAML file, or {', '.join(shipped)}")
    return resources.find("examples", name, Path(), Place(name))


def _resolve(spec: schema.ExperimentSpec, place: Place, base: Path, name: str) -> Experiment:
    weights = _weights(spec.model, place.at("model"), base)
    model = Card.load(weights.with_suffix(".json")).model
    shaping = check(ShapingSpec, spec.links, place.at("links")).over(Shape(), place.at("links"), base)
    topology = load_topology(spec.topology, base, shaping, place.at("topology"))
    devices = _devices(spec.devices, topology, model, place.at("devices"), base)
    limits = _limits(spec.limits, place.at("limits"))
    hosted = _hosted(spec.placement, topology, model, devices, limits, weights, place.at("placement"))
    check_noise(topology, hosted, model, place)
    admission = schema.of(policies.ADMISSION, spec, "admission", place)
    offloading = schema.of(policies.OFFLOADING, spec, "offloading", place)
    if isinstance(offloading, DualBackPressure):
        offloading = offloading.at(admission.fill_to)
    return Experiment(
        name=name,
        file="" if place.file == _DEFAULTS else place.file,
        seed=spec.seed,
        model=str(weights),
        dataset=_dataset(spec.dataset, place.at("dataset"), base),
        resize=spec.resize,
        topology=topology,
        hosted=hosted,
        devices=devices,
        thresholds=schema.thresholds(spec.thresholds, model.exits, place.at("thresholds")),
        exit=exit_policy(spec, topology, hosted, model, place, base),
        offloading=offloading,
        admission=admission,
        arrivals=_arrivals(spec.arrivals, admission, place.at("arrivals"), base),
        worker_options=_worker_options(spec.worker, topology, place.at("worker")),
        limits=limits,
        duration_s=spec.duration_s,
        drain_s=spec.drain_s,
        data_max=spec.data_max,
        churn=churn(spec.churn, topology, place.at("churn")),
        runtime=_runtime(spec.runtime, topology, place.at("runtime")),
        by_hand=tuple(spec.placement) if isinstance(spec.placement, Mapping) else _stated(topology, spec.placement),
    )


def _stated(topology: Topology, value: Any) -> tuple[str, ...]:
    """The workers whose slices the topology states, unless the experiment gives all the same."""
    return () if value is not None else tuple(w for w in topology.workers if topology.settings_of(w).slice is not None)


def _weights(reference: str, place: Place, base: Path) -> Path:
    beside = base / Path(reference).expanduser()
    bare = Path(reference).name == reference and not weights_path(beside).is_file()
    try:
        return resolve(reference if bare else beside)
    except CheckpointError as error:
        raise place.refuse(str(error)) from error


def _dataset(reference: str, place: Place, base: Path) -> str:
    """What `ImageDataset.open` takes: a name, or an absolute path, for workers that were started elsewhere."""
    path = (base / reference).absolute() if not reference.startswith("~") else Path(reference)
    if reference == SAMPLE:
        return reference
    if there(path):
        return str(path.expanduser())
    if public_sets.known(reference):
        return reference
    allowed = f"a folder or zip with one sub-folder per class, {SAMPLE}, {', '.join(public_sets.NAMES)}"
    where = "" if reference == str(path) else f" ({path} is missing)"
    raise place.refuse(f"no such data set {reference!r}{where}", allowed)


def _devices(
    value: Any, topology: Topology, model: ModelConfig, place: Place, base: Path
) -> dict[str, DeviceProfile | None]:
    """Each worker's profile: the experiment's where it speaks of the worker, otherwise the topology's."""
    if not (value is None or isinstance(value, str | Mapping)):
        raise place.refuse(f"is {describe(value)}", "a profile's name or path, or a mapping from workers to profiles")
    for worker in value if isinstance(value, Mapping) else ():
        if worker not in topology.workers:
            raise place.unknown("worker", worker, topology.workers)
    devices: dict[str, DeviceProfile | None] = {}
    for worker in topology.workers:
        stated = topology.settings_of(worker)
        where = Place(topology.file).at("workers", worker)
        wanted: dict[str, Any] = {"profile": stated.device, "speed": stated.speed}
        if isinstance(value, str):
            where, wanted["profile"] = place, value
        elif isinstance(value, Mapping) and worker in value:
            where, given = place.at(worker), value[worker]
            wanted = {**wanted, **given} if isinstance(given, Mapping) else {"profile": given}
        if stated.device not in (None, wanted["profile"]):  # it must be one all the same
            load_device(str(stated.device), base, Place(topology.file).at("workers", worker))
        spec = check(schema.DeviceChoice, wanted, where)
        if spec.profile is None:
            if spec.speed != 1:
                raise where.at("speed").refuse(f"is {spec.speed:g}, but there is no device profile to be faster than")
            devices[worker] = None
            continue
        profile = load_device(spec.profile, base, where).faster(spec.speed)
        check_exits(profile, model.architecture, model.image_size, model.exits)
        devices[worker] = profile
    return devices


def _hosted(
    value: Any,
    topology: Topology,
    model: ModelConfig,
    devices: Mapping[str, DeviceProfile | None],
    limits: Limits,
    weights: Path,
    place: Place,
) -> dict[str, tuple[int, ...]]:
    """Each worker's segments: the experiment's where it speaks of the worker, otherwise the topology's."""
    stated = {w: s.slice for w, s in topology.settings.items() if s.slice is not None}
    own = value if isinstance(value, Mapping) else {}
    spec: Any = {**stated, **own} if value is None or own else value
    paced = {worker: profile for worker, profile in devices.items() if profile is not None}
    capacities = {
        worker: placement.Capacity(profile.occupied_s(model.architecture, model.image_size), profile.memory_bytes)
        for worker, profile in paced.items()
    }
    sizes = segment_bytes(weights, model.exits, place) if spec == "auto" else ()
    try:
        hosted = placement.place(spec, topology, model.exits, capacities, sizes)
        placement.check(hosted, topology, model.exits, limits)
    except placement.PlacementError as error:
        where = place.at(error.worker) if error.worker in own else place
        if error.worker in stated and spec is not value and error.worker not in own:
            where = Place(topology.file).at("workers", error.worker, "slice")
        raise where.refuse(error.what) from error
    return hosted


def segment_bytes(weights: Path, exits: int, place: Place) -> tuple[int, ...]:
    """What the weights of segments 1..K take in fp32, from the names and shapes in a checkpoint's headers."""
    sizes = [0] * exits
    for part in files_of(weights, Card.load(weights.with_suffix(".json"))):
        try:
            with safe_open(part, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    kind, number, *rest = name.split(".")
                    k = int(number) + (1 if kind != "bottlenecks" or rest[0] == "decoder" else 0)
                    sizes[k - 1] += 4 * math.prod(file.get_slice(name).get_shape())
        except (SafetensorError, OSError, ValueError, IndexError) as error:
            raise place.refuse(f"auto cannot read the segments' sizes in {part} ({error})") from error
    return tuple(sizes)


def _limits(value: Mapping[str, Any], place: Place) -> Limits:
    limits = build(Limits, value, place)
    for field in dataclasses.fields(limits):
        if getattr(limits, field.name) <= 0:
            raise place.at(field.name).refuse(f"is {getattr(limits, field.name)}", "above 0")
    return limits


def _arrivals(value: Any, admission: Any, place: Place, base: Path) -> Any:
    rules: Mapping[str, Any] = policies.ADMISSION
    kind = next(name for name, rule in rules.items() if type(admission) is rule)
    if value is None and admission.wants_arrivals:
        raise place.refuse(f"is missing, and admission {kind} wants it", schema.forms(policies.ARRIVALS))
    if value is None:
        return None
    if not admission.wants_arrivals:
        takers = " or ".join(name for name, rule in rules.items() if rule.wants_arrivals)
        asked = value.get("rule") if isinstance(value, Mapping) else value
        forms = schema.forms({name: rule for name, rule in policies.ARRIVALS.items() if asked in (name, None)})
        allowed = f"no arrivals; or admission {takers}, with arrivals {forms or schema.forms(policies.ARRIVALS)}"
        raise place.refuse(f"admission {kind} finds its rate itself", allowed)
    return schema.arrivals(policies.ARRIVALS, value, place, base)


def _worker_options(value: Mapping[str, Any], topology: Topology, place: Place) -> dict[str, WorkerOptions]:
    build(WorkerOptions, value, place)
    return {w: build(WorkerOptions, {**value, **topology.settings_of(w).options}, place) for w in topology.workers}


def _runtime(value: Mapping[str, Any], topology: Topology, place: Place) -> RuntimeSettings:
    settings = build(RuntimeSettings, value, place)
    if settings.backend == "onnx" and settings.device != "cpu":
        raise place.at("device").refuse(f"is {settings.device!r}", "'cpu', or another one with backend: torch")
    last = PORT_MAX + 1 - len(topology.workers)
    if settings.port_base is not None and settings.port_base > last:
        raise place.at("port_base").refuse(
            f"is {settings.port_base}, too high for {len(topology.workers)} workers", f"at most {last}"
        )
    for worker in settings.workers:
        if worker not in topology.workers:
            raise place.at("workers").unknown("worker", worker, topology.workers)
    return settings
