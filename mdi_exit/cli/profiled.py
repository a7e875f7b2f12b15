"""`mdi-exit profile`, once its options are read: what was measured, as device profiles, a topology, an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from mdi_exit import outputs
from mdi_exit.config import Experiment
from mdi_exit.config.rewrite import as_yaml, rewritten
from mdi_exit.devices import Overhead
from mdi_exit.jsonfile import rounded
from mdi_exit.machine import command_line, cores
from mdi_exit.shaping import Shape

if TYPE_CHECKING:
    from mdi_exit.runtime.profiling import Profiled

EXPERIMENT, TOPOLOGY, DEVICES = "experiment.yaml", "topology.yaml", "devices"
UNSTEADY = 0.5  # spread of times beyond which their means are to be doubted
_KEPT = ("loss", "snr_db", "fading", "encoding")  # of a link's shape
_ROOM = 0.5  # of the free memory is left to weights: the rest is for Ray, features and the runtimes


def write(name: str, overrides: Mapping[str, Any], experiment: Experiment, measured: Profiled, out: Path) -> None:
    """Write devices/WORKER.yaml, topology.yaml and experiment.yaml, which names them. Raises UserError for a full disk.

    What stood for another device or link stays emulated; what was measured as it is, is not (`runtime.emulate`). Links
    that were held back by mdi-exit and by the network keep being so, with what both came to: then limits count twice.
    """
    shaped = any(not link.shape.transparent for link in experiment.topology.links)
    emulate = "all" if any(experiment.devices.values()) else "links" if shaped else "none"
    changes: dict[str, Any] = {
        "name": f"{experiment.name}-profiled",
        "topology": TOPOLOGY,
        "devices": {worker: f"{DEVICES}/{worker}.yaml" for worker in measured.devices},
        "links": {},
    }
    content = rewritten(name, overrides, changes, out)
    if emulate != "all":
        content["runtime"] = {**content.get("runtime", {}), "emulate": emulate}
    remark = f"Measured by: {command_line()}"
    with outputs.writing(out):
        (out / DEVICES).mkdir(parents=True, exist_ok=True)
        for worker, device in devices(experiment, measured).items():
            (out / DEVICES / f"{worker}.yaml").write_text(as_yaml(device, remark), encoding="utf-8")
        (out / TOPOLOGY).write_text(as_yaml(topology(experiment, measured), remark), encoding="utf-8")
        (out / EXPERIMENT).write_text(as_yaml(content, remark), encoding="utf-8")


def devices(experiment: Experiment, measured: Profiled) -> dict[str, dict[str, Any]]:
    """The content of each worker's device profile."""
    model, found = measured.card.model, {}
    key = f"{model.architecture}@{model.image_size}"
    for worker, times in measured.devices.items():
        given = experiment.devices[worker]
        found[worker] = {
            "description": f"{worker}, measured" + (f" where it stands for {given.name}" if given else ""),
            "memory_bytes": given.memory_bytes if given else int(_ROOM * times.available_bytes),
            "spread": rounded(times.spread),
            "segment_s": {key: rounded([times.segment_s[k] for k in range(1, experiment.exits + 1)])},
            "slice_s": {key: rounded(times.slice_s)} if times.slice_s else {},
            **_runtime(measured.runtimes.get(worker)),
        }
    return found


def _runtime(known: Overhead | None) -> dict[str, Any]:
    if known is None:
        return {}
    return {"runtime_s": {name.removesuffix("_s"): rounded(s) for name, s in asdict(known).items()}}


def topology(experiment: Experiment, measured: Profiled) -> dict[str, Any]:
    """The content of the topology: each direction of a link for itself, as it was measured.

    Loss and noise are not measured, they stay as they were; an emulated loss has also slowed what was measured.
    """
    graph, links = experiment.topology, []
    for (a, b), way in measured.ways.items():
        link = graph.carrier(a, b)
        assert link is not None, "a direction that no link has"
        given = {key: value for key in _KEPT if (value := getattr(link.shape, key)) != getattr(Shape(), key)}
        bandwidth_bps, latency_s = rounded(way.bandwidth_bps), rounded(way.round_trip_s / 2)
        links.append({"from": a, "to": b, "bandwidth_bps": bandwidth_bps, "latency_s": latency_s, **given})
    return {
        "description": f"{graph.name}, measured",
        "source": graph.source,
        "workers": list(graph.workers),
        "links": links,
    }


def trial(measured: Profiled) -> dict[str, Any]:
    """What the trial came to, for JSON."""
    return {
        "rate_per_s": rounded(measured.trial_per_s),
        "failed": measured.trial_failed or None,
        "notes": list(measured.trial_notes),
    }


def shown(experiment: Experiment, measured: Profiled, is_local: bool) -> list[Any]:
    """Tables of what was measured."""
    slices = _table("worker", "whole network ms", "spread", "free MB", "runtime ms: datum", "task", "hand-over")
    for worker, times in measured.devices.items():
        whole_s = times.slice_s.get(f"1-{len(times.segment_s)}", sum(times.segment_s.values()))
        runtime = measured.runtimes.get(worker)
        own = [f"{1000 * s:.2f}" for s in astuple(runtime)] if runtime else ["", "", ""]
        free = f"{times.available_bytes / 1e6:.0f}"
        slices.add_row(worker, f"{1000 * whole_s:.2f}", f"{times.spread:.0%}", free, *own)
    ways = _table("link", "Mbit/s", "round trip ms")
    for (a, b), way in measured.ways.items():
        ways.add_row(f"{a}->{b}", f"{way.bandwidth_bps / 1e6:.1f}", f"{1000 * way.round_trip_s:.2f}")
    together = []
    if measured.trial_per_s is not None:
        together = [f"All together, with a plan's rules, they answered {measured.trial_per_s:.0f} data/s."]
    return [slices, *([ways] if measured.ways else []), *together, *warnings(experiment, measured, is_local)]


def warnings(experiment: Experiment, measured: Profiled, is_local: bool) -> list[str]:
    """What makes a measurement less than it looks, in lines."""
    emulated = all(experiment.devices.values()) and experiment.runtime.emulate == "all"
    unsteady = [
        f"{worker} ({times.spread:.0%})" for worker, times in measured.devices.items() if times.spread > UNSTEADY
    ]
    found, here, workers = [], cores() or 1, len(measured.devices)
    if is_local and not emulated and workers > here:
        found.append(
            f"warning: {workers} workers share {here} cores here, and slices were timed one worker after the other: a "
            "plan counts on a core for each, and promises what as many machines could do"
        )
    if measured.trial_failed:
        found.append(f"warning: they could not be run together ({measured.trial_failed})")
    found += [f"in the trial: {note}" for note in measured.trial_notes]
    if unknown := [worker for worker in measured.devices if worker not in measured.runtimes]:
        found.append(
            f"warning: what the runtime takes is not known of {', '.join(unknown)}; a plan counts on nothing there"
        )
    if not unsteady:
        return found
    return [
        *found,
        "",
        f"warning: times vary by more than {UNSTEADY:.0%} on {', '.join(unsteady)}: something else runs there, or the "
        "processor is shared out, as a container's or a lab device's is; more --seconds make the means surer",
    ]


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table
