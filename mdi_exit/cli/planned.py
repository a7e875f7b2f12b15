"""`mdi-exit plan`, once its options are read: find the placement, show what it promises, write it down."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from mdi_exit import drawing, outputs, policies
from mdi_exit.analysis.fluid import going_on
from mdi_exit.analysis.planning import Basis, Plan, find_plan
from mdi_exit.analysis.preview import in_words, preview
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment, segment_bytes
from mdi_exit.config.rewrite import as_yaml, rewritten
from mdi_exit.devices import Overhead, slice_name
from mdi_exit.jsonfile import write_json
from mdi_exit.machine import command_line
from mdi_exit.models.card import Card
from mdi_exit.policies.learned import LearnedExit
from mdi_exit.policies.offloading import OffloadByExit
from mdi_exit.report import build_report, settled
from mdi_exit.simulation.frames import FrameSizes
from mdi_exit.simulation.run import simulate
from mdi_exit.trace import ExitTrace
from mdi_exit.yamlfile import Place

EXPERIMENT, CONTENT, PICTURE = "plan.yaml", "plan.json", "plan.png"
# What comes close to the bound that a plan promises (benchmarks/policies.py).
RULES: Mapping[str, Any] = {"offloading": "dual_backpressure", "admission": "fill_queue"}
SHORT_S = 0.003  # a segment beside which a PC's 0.2 to 1 ms per task and hand-over cannot be left out
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_TELL_EVERY = 200  # placements


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants of a plan."""

    memory_max_bytes: int | None  # for everybody's weights, beside what each device has
    lean: bool
    keep_rules: bool
    checked: bool  # by a simulation


def size_bytes(text: str) -> int:
    """The bytes of a size such as 7 MB, 7MB, 0.5 GB, or 7000000. Raises ConfigError about the option."""
    matched = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kMG]?B)?\s*", text)
    size = int(float(matched[1]) * _UNITS[matched[2] or "B"]) if matched else 0
    if size < 1:
        raise Place("--memory-max").refuse(f"is {text!r}", "a size above 0, such as '7 MB' or 7000000")
    return size


def basis_of(experiment: Experiment, card: Card, trace: ExitTrace, memory_max_bytes: int | None = None) -> Basis:
    """What placements of an experiment are judged by: frames as large as the wire makes them, results counted.

    Raises ConfigError for weights that cannot be read, and for an exit rule that learns.
    """
    if isinstance(experiment.exit, LearnedExit):
        others = [name for name, rule in policies.EXIT.items() if not issubclass(rule, LearnedExit)]
        what = "learns as it runs who leaves where, so that no plan can count with it"
        raise Place(experiment.file).at("exit").refuse(what, others)
    sizes, most = FrameSizes(experiment.topology.source), memory_max_bytes or sys.maxsize
    return Basis(
        experiment,
        card,
        tuple(trace.payload_bytes),
        going_on(experiment, trace),
        segment_bytes(Path(experiment.model), experiment.exits, Place(experiment.file).at("model")),
        {worker: min(device.memory_bytes if device else most, most) for worker, device in experiment.devices.items()},
        sizes.tasks(1),
        sizes.results(1),
    )


def make(experiment: Experiment, card: Card, trace: ExitTrace, wish: Wish) -> tuple[Plan, dict[str, Any]]:
    """The plan and its preview. Raises PlanError, OptimumError."""
    basis = basis_of(experiment, card, trace, wish.memory_max_bytes)

    def tell(searched: int) -> None:
        if searched % _TELL_EVERY == 0:
            print(f"{searched} placements tried ...", file=sys.stderr, flush=True)

    plan = find_plan(basis, wish.lean, tell)
    return plan, {"command": command_line(), "name": experiment.name, "model": card.identity, **preview(basis, plan)}


def cautions(experiment: Experiment, card: Card) -> list[str]:
    """What makes a prediction less sure than it looks, in lines."""
    model, found = card.model, []
    for name, device in experiment.devices.items():
        if device is not None and device.runtime == Overhead():
            shortest_s = min(device.seconds(model.architecture, model.image_size))
            if shortest_s < SHORT_S:
                found.append(f"{name} ({1000 * shortest_s:.1f} ms)")
    if not found:
        return []
    return [
        f"warning: segments of {', '.join(found)} are so short that what the runtime takes for each task counts, which "
        "the profile does not say (runtime_s): less than predicted is to be expected; mdi-exit profile measures it."
    ]


def rules_for(experiment: Experiment, all_it_can: bool = False) -> dict[str, Any]:
    """The rules that a plan has an experiment follow, unless it is to keep its own; with `all_it_can` the rate is to be
    found also where it is given."""
    rules = {} if experiment.arrivals and not all_it_can else {"admission": RULES["admission"]}
    if not isinstance(experiment.offloading, OffloadByExit):  # whom the exit rule hands over goes, nobody else
        rules["offloading"] = RULES["offloading"]
    return rules


def write(
    name: str, overrides: Mapping[str, Any], plan: Plan, content: Mapping[str, Any], wish: Wish, out: Path
) -> Experiment:
    """Write plan.yaml and return the experiment that it is. Raises ConfigError, before anything is written, for one
    that does not fit together, and UserError where the disk does not take it.
    """
    placement = {worker: slice_name(segments) for worker, segments in plan.hosted.items()}
    changes: dict[str, Any] = {"placement": placement, "name": f"{content['name']}-plan"}
    loaded = load_experiment(name, overrides)
    if not wish.keep_rules:
        changes |= rules_for(loaded)
    load_experiment(name, {**overrides, **changes})
    remark = f"Made by: {content['command']}\nPredicted: {content['rate_per_s']:.1f} data per second."
    with outputs.writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / EXPERIMENT).write_text(as_yaml(rewritten(name, overrides, changes, out), remark), encoding="utf-8")
    return load_experiment(out / EXPERIMENT)


def write_preview(planned: Experiment, plan: Plan, content: Mapping[str, Any], out: Path) -> None:
    """Write plan.json and plan.png."""
    write_json(out / CONTENT, {**content, "placement": {w: list(s) for w, s in plan.hosted.items()}})
    loads = {name: worker["load"] for name, worker in content["workers"].items()}
    loads |= {way: link["load"] for way, link in content["links"].items()}
    captions = {w: f"{slice_name(plan.hosted[w])}, {loads[w]:.0%} busy" for w in plan.hosted}
    with outputs.writing(out):
        drawing.as_picture(planned.topology, out / PICTURE, captions, loads)


def simulated(planned: Experiment, card: Card, trace: ExitTrace) -> dict[str, Any]:
    """What a run of the plan in virtual time came to."""
    record = simulate(planned, card, trace)
    report = build_report(planned, card, record.tallies, record.facts, "", "simulation")
    reached = settled(report)
    return {
        "rate_per_s": reached["throughput_per_s"],
        "offered": report["offered"],
        "completed": report["completed"],
        "accuracy": reached["accuracy"],
        "latency_s": dict(report["latency_s"]),
        "lost": report["lost"],
    }


def shown(content: Mapping[str, Any], planned: Experiment, card: Card, keep_rules: bool) -> list[Any]:
    """Tables and lines, in reading order, of a plan that was written as `planned`."""
    tables = [_worker_table(content)]
    if content["links"]:
        tables.append(_link_table(content))
    lines = in_words(content)
    if (run := content.get("simulated")) is not None:
        latency_s, rate_per_s = run["latency_s"]["p50"], run["rate_per_s"]
        half = "" if latency_s is None else f", half of the answers within {1000 * latency_s:.0f} ms"
        accuracy = "" if run["accuracy"] is None else f", {run['accuracy']:.1%} right"
        reached = f"{rate_per_s:.0f}/s, {rate_per_s / content['rate_per_s']:.0%} of that"
        if planned.arrivals is not None:  # what was asked, not what the plan could do
            offered, completed = run["offered"], run["completed"]
            answered = "all" if completed == offered else f"{completed} of {offered}"
            reached = f"offered {1 / planned.arrivals.mean_interarrival_s:g}/s, {answered} answered"
        lines.insert(1, f"Simulated: {reached}{half}{accuracy}.")
    if keep_rules:
        lines.append("The experiment keeps its own rules, which may stay below the bound.")
    elif isinstance(planned.offloading, OffloadByExit):
        lines.append("The experiment keeps offloading by_exit, which may stay below the bound.")
    return [*tables, "", *lines, *cautions(planned, card)]


def _worker_table(content: Mapping[str, Any]) -> Table:
    table = _table("worker", "device", "slice", "weights MB", "busy", "tasks/s", "rate without it", "rate alone")
    for name, worker in content["workers"].items():
        without, alone = worker["without_per_s"], content["alone"][name]
        table.add_row(
            name,
            worker["device"] or "-",
            slice_name(worker["slice"]),
            f"{worker['bytes'] / 1e6:.1f}",
            f"{worker['load']:.0%}",
            f"{sum(worker['computed_per_s']):.0f}",
            "none (the source)" if without is None else f"{without:.0f}" if without else "no answers",
            "does not fit" if alone is None else f"{alone:.0f}",
        )
    return table


def _link_table(content: Mapping[str, Any]) -> Table:
    table = _table("link", "busy", "tasks/s", "Mbit/s")
    for way, link in content["links"].items():
        if link["tasks_per_s"] > 0:
            cells = (f"{link['load']:.0%}", f"{link['tasks_per_s']:.0f}", f"{8 * link['bytes_per_s'] / 1e6:.1f}")
            table.add_row(way, *cells)
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table
