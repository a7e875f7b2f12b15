"""Does another way to run the same multi-exit network on the same cores give more? Six of them, and ours, taking turns.

All run the shipped network's segments over the same test images on this machine's cores, with exits above 0.8, unpaced:

- torch_process, onnx_process: one process that takes all cores, as most people would write it.
- ray_actor_chain, ray_compiled_graph, ray_serve: the network in two halves, one actor each, one core each.
- torch_pipelining: the same halves in torch.distributed.pipelining over gloo. It has no exits, so the rate is compared
  without exits on either side; `with_exits_torch_pipelining` and the latency take ours as it is.
- ray_actor_pool: two actors with the whole network each; not a chain, and so not in the contract, but the fairest.
- ours: `mdi-exit run` on two workers, once with the very same halves, once with the whole network on each.

Each is measured with single images and with groups of 16 (given as such to the peers, while ours are grouped as they
come), and the summary takes the better of a peer. `NAME`: ours with the same halves (for a single process: with the
whole network on each worker) over the peer; `whole_NAME`: ours with the whole network on each. `latency_ratio_NAME` is
our median latency at 20 images per second over the peer's. Links are not encrypted, as the peers' are not. Every answer
is compared with the whole network's; within 1e-4 of a threshold arithmetic in another order may decide otherwise.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import peer_process
import peer_ray
import peer_stage
from harness import Options, Spread, conclude, main, options, spread, table, turns
from peer_ours import CUT, Reference, experiment_of, reference, report_of, wrong_answers, wrong_sums
from peer_pipelining import MICRO_BATCHES, Work, pipe

from mdi_exit.analysis import plots
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.runtime import Cluster, local_cluster

OURS, HALVES = "mdi_exit", "mdi_exit_halves"
PROCESSES = ("torch_process", "onnx_process")
CHAINS = ("ray_actor_chain", "ray_compiled_graph", "ray_serve")
POOL, PIPELINING = "ray_actor_pool", "torch_pipelining"
PEERS = (*PROCESSES, *CHAINS, PIPELINING)
_NEEDS = {"ray_serve": ("fastapi", "uvicorn", "starlette", "grpc")}  # beside what mdi-exit itself brings
WITH, WITHOUT = 0.8, 1.0
GROUP = 16
_SECONDS, _QUICK_S = 5.0, 1.0
_LATENCY_RATE_PER_S, _LATENCY_S = 20.0, 3.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure."""

    system: str
    group: int
    exits: bool = True

    def __str__(self) -> str:
        images = "single images" if self.group == 1 else f"groups of {self.group}"
        return f"{self.system}, {images}{'' if self.exits else ', no exits'}"


CASES = [
    *(Case(system, group) for system in (OURS, HALVES, *PROCESSES, *CHAINS, POOL) for group in (1, GROUP)),
    *(Case(system, GROUP, False) for system in (OURS, HALVES, PIPELINING)),
]


# ---- ours


def ours(cluster: Cluster, case: Case, chosen: Options, repetition: int, known: Reference) -> Row:
    """A run for the rate, one at a low rate for the latency, and, once, one whose every answer is looked at."""

    def experiment(**more: Any) -> Experiment:
        settings = {"seed": chosen.seed + repetition, "duration_s": _QUICK_S if chosen.quick else _SECONDS, **more}
        return experiment_of(case.system == HALVES, WITH if case.exits else WITHOUT, case.group, **settings)

    report = report_of(cluster, experiment())
    row: Row = {
        "rate_per_s": report["completed"] / (report["duration_s"] + report["drain_s"]),
        "wrong": wrong_sums(experiment(), report, known),
    }
    if repetition == 0:
        row["wrong"] += wrong_answers(cluster, experiment(data_max=len(known.images)), known)
    if case.group == 1:
        low: dict[str, Any] = {
            "admission": "always",
            "arrivals": {"rule": "constant", "rate_per_s": _LATENCY_RATE_PER_S},
        }
        slow = experiment(duration_s=_LATENCY_S, **low)
        row["latency_p50_s"] = report_of(cluster, slow)["latency_s"]["p50"]
    return row


# ---- the others


@contextmanager
def peer_of(case: Case, known: Reference, model: str) -> Iterator[peer_stage.Peer]:
    """A peer, up."""
    net = peer_stage.net_of(known.prepared, WITH)
    if case.system == "torch_process":
        with peer_process.torch_process(net, model) as process:
            yield process
    elif case.system == "onnx_process":
        with peer_process.onnx_process(net) as process:
            yield process
    else:
        with getattr(peer_ray, case.system)(net, CUT) as peer:
            yield peer


def theirs(case: Case, chosen: Options, known: Reference, model: str) -> Row:
    """The rate of a peer, with single images its latency too, and whether its answers are right."""
    seconds = _QUICK_S if chosen.quick else _SECONDS
    if case.system == PIPELINING:
        return _piped(chosen, known, model)
    with peer_of(case, known, model) as peer:
        peer_stage.feed(peer, known.images, case.group, seconds / 5)
        fed = peer_stage.feed(peer, known.images, case.group, seconds)
        answered = fed.predictions != peer_stage.GOES_ON
        wrong = answered & ~known.unsure & (fed.predictions != known.predictions)
        row: Row = {"rate_per_s": fed.rate_per_s, "wrong": int(wrong.sum())}
        if case.group == 1:
            took_s = peer_stage.latencies_s(peer, known.images, _LATENCY_RATE_PER_S, _LATENCY_S)
            row["latency_p50_s"] = statistics.median(took_s)
        return row


def _piped(chosen: Options, known: Reference, model: str) -> Row:
    steps = 4 if chosen.quick else 10
    fed = pipe(model, CUT, known.images, Work(GROUP, MICRO_BATCHES, steps))
    first = 2 * GROUP * MICRO_BATCHES  # what was warmed up with
    at = np.arange(first, first + len(fed.predictions)) % len(known.images)
    wrong = (fed.predictions != known.predictions[at]) & ~known.unsure[at]
    slow = Work(1, 1, int(_LATENCY_S * _LATENCY_RATE_PER_S), 1 / _LATENCY_RATE_PER_S)
    took_s = pipe(model, CUT, known.images, slow).latencies_s
    return {"rate_per_s": fed.rate_per_s, "wrong": int(wrong.sum()), "latency_p50_s": statistics.median(took_s)}


def missing(case: Case) -> str:
    """What a case lacks on this machine, as a line; nothing when it can be measured."""
    lacks = [name for name in _NEEDS.get(case.system, ()) if importlib.util.find_spec(name) is None]
    return f"{case.system}: skipped, {lacks[0]} is not installed (pip install 'mdi-exit[benchmarks]')" if lacks else ""


# ---- what it amounts to


def best(rows: list[Row], system: str, exits: bool, key: str = "rate_per_s") -> float | None:
    """The median of a system's better group size; for latencies, of single images. None where it was not measured."""
    mine = [row for row in rows if row["system"] == system and row["exits"] == exits and key in row]
    sizes = {row["group"] for row in mine}
    medians = [statistics.median(row[key] for row in mine if row["group"] == size) for size in sizes]
    return max(medians, default=None)


def summarise(rows: list[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    summary: dict[str, float] = {"wrong_answers": float(sum(row["wrong"] for row in rows))}
    for name in (*PEERS, POOL):
        exits = name != PIPELINING
        same = OURS if name in (*PROCESSES, POOL) else HALVES
        pairs = {name: (same, exits), f"whole_{name}": (OURS, exits)}
        if not exits:
            pairs[f"with_exits_{name}"] = (same, True)
        for key, (system, with_exits) in pairs.items():
            mine, its = best(rows, system, with_exits), best(rows, name, exits)
            if mine is not None and its is not None:
                summary[key] = mine / its
        mine, its = best(rows, same, True, "latency_p50_s"), best(rows, name, exits, "latency_p50_s")
        if mine is not None and its is not None:
            summary[f"latency_ratio_{name}"] = mine / its
    return summary


def show(rows: list[Row], summary: dict[str, float]) -> None:
    """Print the tables."""
    lines = []
    for case in CASES:
        mine = [row for row in rows if _is(row, case)]
        if mine:
            took = [1000 * row["latency_p50_s"] for row in mine if "latency_p50_s" in row]
            images = "single" if case.group == 1 else f"groups of {case.group}"
            exits = "above 0.8" if case.exits else "none"
            rate = str(spread([row["rate_per_s"] for row in mine]))
            lines.append([case.system, exits, images, rate, str(spread(took)) if took else ""])
    table(["", "exits", "images", "images/s", "latency p50, ms"], lines)
    lines = []
    for name in (*PEERS, POOL):
        keys = (name, f"whole_{name}", f"latency_ratio_{name}")
        if name in summary:
            lines.append([name, *(f"{summary[key]:.2f}" if key in summary else "" for key in keys)])
    table(["ours over", "rate, same halves", "whole network each", "latency"], lines)
    print(f"Answers that were not the whole network's: {summary['wrong_answers']:.0f}.")


def _is(row: Row, case: Case) -> bool:
    return (row["system"], row["group"], row["exits"]) == (case.system, case.group, case.exits)


def draw(rows: list[Row]) -> Any:
    """Bars of the rates with groups, and with single images."""
    with plots.style():
        figure = plots.new_figure(8.0, 4.6)
        axes = figure.subplots()
        names = [name for name in (OURS, HALVES, *PEERS, POOL) if any(row["system"] == name for row in rows)]
        for side, group, colour in ((-0.2, 1, plots.BLUE), (0.2, GROUP, plots.ORANGE)):
            for place, name in enumerate(names):
                case = Case(name, group, name != PIPELINING)
                mine = [row["rate_per_s"] for row in rows if _is(row, case)]
                if mine:
                    found: Spread = spread(mine)
                    ends = [[found.median - found.low], [found.high - found.median]]
                    axes.barh(place - side, found.median, 0.38, color=colour, xerr=ends, capsize=3)
        labels = [f"{name} (no exits)" if name == PIPELINING else name for name in names]
        axes.set_yticks(range(len(names)), labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"images per second; blue: single images, orange: groups of {GROUP}")
        axes.set_title("The same network, images and cores", loc="left")
    return figure


def benchmark() -> None:
    """Measure every case, print, write."""
    assert __doc__ is not None
    chosen = options("peers", __doc__.partition("\n")[0], repetitions=3)
    experiment = load_experiment()
    known = {exits: reference(experiment, WITH if exits else WITHOUT) for exits in (True, False)}
    for line in dict.fromkeys(filter(None, map(missing, CASES))):
        print(line)
    cases = [case for case in CASES if not missing(case)]
    os.environ.update(peer_ray.SERVE)
    rows: list[Row] = []
    with local_cluster() as cluster:
        for repetition, case in turns(cases, chosen):
            which = known[case.exits]
            if case.system in (OURS, HALVES):
                row = ours(cluster, case, chosen, repetition, which)
            else:
                row = theirs(case, chosen, which, experiment.model)
            rows.append({"system": case.system, "group": case.group, "exits": case.exits, **row})
    summary = summarise(rows)
    show(rows, summary)
    conclude(chosen, summary, rows, [(draw(rows), "peers")])


if __name__ == "__main__":
    main(benchmark)
