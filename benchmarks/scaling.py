"""How large a network can be simulated, and where do more workers stop helping? 10 to 10,000 workers, simulated.

Random geometric graphs: workers lie evenly drawn in a square, the source is nearest its middle; each is linked to its
nearest neighbour among those nearer to the source, so that all are connected, and the shortest further links are added
until there are two per worker (degree about 4). Workers are like a Jetson Nano, links carry 20 Mbit/s with 2 ms of
latency, exits are above 0.8, a source admits whenever fewer than 15 data wait (back-pressure).

Each size runs in a fresh process, one at a time: this measures speed. Events per second are those that cores handled,
over the processor's time for the simulation (its making left out), which others on the machine disturb less than the
wall's; the wall's time is given too, per virtual second. Bytes per worker: how much the resident memory grew from
before the experiment was built, per worker; `bytes_per_worker` is the slope between the two largest sizes, so that what
any simulation takes is left out.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
import time
from dataclasses import dataclass
from typing import Any

import psutil
import simulated
from harness import Options, Spread, conclude, main, options, spread, table, turns
from scipy.spatial import cKDTree

from mdi_exit.analysis import plots
from mdi_exit.analysis.optimum import optimum
from mdi_exit.compiled import is_compiled
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.report import build_report
from mdi_exit.shaping import Shape
from mdi_exit.simulation.run import Simulation
from mdi_exit.topology import Link, Topology

SIZES, QUICK_SIZES = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000), (10, 50, 200, 1_000)
BOUND_MAX = 1_000  # workers; the linear programme of more takes longer than their simulation
_DURATION_S, _QUICK_S = 10.0, 4.0
_LINKS_PER_WORKER = 2
_SOURCE_LINKS = 4  # in every graph, so that graphs of different sizes can be compared
_NEIGHBOURS = 12  # nearest ones that further links are drawn from
_HELPED = 1.05  # by less than that, more workers did not help

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A number of workers."""

    workers: int

    def __str__(self) -> str:
        return f"{self.workers} workers"


@dataclass(frozen=True, slots=True)
class Run:
    """A case, with what the command line said of it."""

    workers: int
    seed: int
    repetition: int
    duration_s: float


def geometric(workers: int, seed: int) -> Topology:
    """A connected random geometric graph with two links per worker, or all there can be."""
    draw = random.Random(f"geometric {workers} {seed}")
    places = [(draw.random(), draw.random()) for _ in range(workers)]
    places.sort(key=lambda place: (place[0] - 0.5) ** 2 + (place[1] - 0.5) ** 2)
    names = tuple(f"n{i}" for i in range(workers))
    distances, nearest = cKDTree(places).query(places, k=min(_NEIGHBOURS, workers))
    pairs = sorted(
        (float(distances[i][rank]), min(i, int(j)), max(i, int(j)))
        for i in range(workers)
        for rank, j in enumerate(nearest[i].tolist())
        if i != j
    )
    chosen = dict[tuple[int, int], None](((0, j), None) for j in range(1, min(_SOURCE_LINKS, workers - 1) + 1))
    for i in range(1 + len(chosen), workers):
        inward = [int(j) for j in nearest[i].tolist() if 0 < int(j) < i]
        chosen[inward[0] if inward else _nearest_before(places, i), i] = None
    for _, i, j in pairs:
        if len(chosen) >= _LINKS_PER_WORKER * workers:
            break
        if i > 0:
            chosen.setdefault((i, j))
    shape = Shape(bandwidth_bps=20e6, latency_s=0.002)
    links = tuple(Link(names[i], names[j], False, shape) for i, j in sorted(chosen))
    return Topology(f"geometric-{workers}", names[0], names, links)


def _nearest_before(places: list[tuple[float, float]], i: int) -> int:
    x, y = places[i]
    return min(range(1, i), key=lambda j: (places[j][0] - x) ** 2 + (places[j][1] - y) ** 2)


def experiment_of(run: Run) -> Experiment:
    """A geometric graph of workers that are all alike and host everything."""
    settings = {"duration_s": run.duration_s, "seed": run.seed + run.repetition, "offloading": "backpressure"}
    base = load_experiment("find-rate", {**settings, "admission": {"rule": "fill_queue", "queue_target": 15}})
    topology, source = geometric(run.workers, run.seed + run.repetition), base.topology.source
    return dataclasses.replace(
        base,
        topology=topology,
        hosted=dict.fromkeys(topology.workers, base.hosted[source]),
        devices=dict.fromkeys(topology.workers, base.devices[source]),
        worker_options=dict.fromkeys(topology.workers, base.worker_options[source]),
    )


def measure(run: Run) -> Row:
    """One simulation, in a process that does nothing else, as a row of results.json."""
    net = simulated.network(simulated.SHIPPED)
    assert net is not None
    process = psutil.Process()
    before_bytes, started_s = process.memory_info().rss, time.perf_counter()
    experiment = experiment_of(run)
    simulation = Simulation(experiment, net.card, net.trace, {})
    made_s = time.perf_counter() - started_s
    started_s, worked_s = time.perf_counter(), time.process_time()
    simulation.advance(run.duration_s + experiment.drain_s)
    took_s, worked_s = time.perf_counter() - started_s, time.process_time() - worked_s
    record, after_bytes = simulation.record(), process.memory_info().rss
    report = build_report(experiment, net.card, record.tallies, record.facts, "", "simulation")
    reached = report["steady"] or report
    row = {
        "workers": run.workers,
        "repetition": run.repetition,
        "links": len(experiment.topology.links),
        "source_links": sum(experiment.topology.source in (link.a, link.b) for link in experiment.topology.links),
        "events": record.events,
        "virtual_s": record.virtual_s,
        "made_s": made_s,
        "wall_s": took_s,
        "events_per_s": record.events / worked_s,
        "wall_per_virtual_s": took_s / record.virtual_s,
        "grown_bytes": after_bytes - before_bytes,
        "rate_per_s": reached["throughput_per_s"],
        "latency_p50_s": report["latency_s"]["p50"],
        "working": sum((worker["utilization"] or 0.0) > 0.05 for worker in report["workers"].values()),
        "lost": report["lost"],
        "bound_per_s": None,
        "binding": "",
    }
    if run.workers <= BOUND_MAX:
        best = optimum(simulated.problem(experiment, net))
        at_source = sum(found.share for found in best.bottlenecks if _leaves(found.name, experiment.topology.source))
        row |= {"bound_per_s": best.rate_per_s, "binding": best.binding(), "source_links_share": at_source}
    return row


def _leaves(bottleneck: str, source: str) -> bool:
    """Whether a bottleneck is a link out of the source: "link n0->n3", "window n0->n3"."""
    return bottleneck.startswith((f"link {source}->", f"window {source}->"))


# ---- what it amounts to


def _sizes(rows: list[Row]) -> list[int]:
    return sorted({row["workers"] for row in rows})


def _of(rows: list[Row], workers: int, key: str) -> Spread:
    return spread([row[key] for row in simulated.chosen_rows(rows, workers=workers)])


def knee(rows: list[Row]) -> int:
    """The smallest size after which the rate never grows by more than 5 %."""
    sizes = _sizes(rows)
    rates = [_of(rows, workers, "rate_per_s").median for workers in sizes]
    return next(n for i, n in enumerate(sizes) if max(rates[i:]) <= _HELPED * rates[i])


def summarise(rows: list[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    sizes = _sizes(rows)
    grown = {workers: _of(rows, workers, "grown_bytes").median for workers in sizes}
    few, most = sizes[-2:]
    return {
        "events_per_s": min(_of(rows, workers, "events_per_s").median for workers in sizes),
        "events_per_s_best": max(_of(rows, workers, "events_per_s").median for workers in sizes),
        "workers_max": float(most),
        "bytes_per_worker": (grown[most] - grown[few]) / (most - few),
        "wall_per_virtual_s_at_most_workers": _of(rows, most, "wall_per_virtual_s").median,
        "workers_that_help": float(knee(rows)),
        "rate_max_per_s": max(_of(rows, workers, "rate_per_s").median for workers in sizes),
        "lost": float(sum(row["lost"] for row in rows)),
    }


def show(rows: list[Row], summary: dict[str, float]) -> None:
    """Print the table, and what it means."""
    lines = []
    for workers in _sizes(rows):
        mine = simulated.chosen_rows(rows, workers=workers)
        bound = [row["bound_per_s"] for row in mine if row["bound_per_s"] is not None]
        lines.append(
            [
                f"{workers:,}",
                f"{_of(rows, workers, 'events_per_s').median:,.0f}",
                f"{_of(rows, workers, 'wall_per_virtual_s').median:.2f} s",
                f"{_of(rows, workers, 'grown_bytes').median / 1e6:.1f} MB",
                str(_of(rows, workers, "rate_per_s")),
                f"{spread(bound).median:.0f}" if bound else "",
                f"{_of(rows, workers, 'working').median:.0f}",
                f"{_of(rows, workers, 'source_links').median:.0f}",
            ]
        )
    table(["workers", "events/s", "per virtual s", "memory", "images/s", "bound", "working", "source's links"], lines)
    how = "compiled" if is_compiled() else "interpreted"
    print(f"events/s: of one core, the decision core and the simulator {how}.")
    print("working: workers that were busy for more than 5 % of the time.")
    print(f"A further worker takes {summary['bytes_per_worker'] / 1e3:.0f} kB.")
    print(f"Beyond {summary['workers_that_help']:.0f} workers the rate grows by no more than 5 %. What binds then:")
    known = [row for row in rows if row["bound_per_s"] is not None]
    last = max(known, key=lambda row: row["workers"], default=None)
    if last is not None:
        print(f"  at {last['workers']} workers, by the bound: {last['binding']}")
        share = last["source_links_share"]
        why = "the way out of the source, not the workers" if share > 0.5 else "not only the way out of the source"
        print(f"  the source's links make up {share:.0%} of that: {why}.")


def draw(rows: list[Row]) -> Any:
    """Events per second, memory and the rate over the number of workers."""
    sizes = _sizes(rows)
    with plots.style():
        figure = plots.new_figure(11, 3.8)
        panels = (
            ("events_per_s", 1, "events per second", plots.BLUE),
            ("grown_bytes", 1e-6, "memory grown by (MB)", plots.GREEN),
            ("rate_per_s", 1, "images per second", plots.RED),
        )
        for axes, (key, scale, name, colour) in zip(figure.subplots(1, 3), panels, strict=True):
            found = [_of(rows, workers, key) for workers in sizes]
            ends = [[scale * (s.median - s.low) for s in found], [scale * (s.high - s.median) for s in found]]
            axes.errorbar(
                sizes, [scale * s.median for s in found], yerr=ends, fmt="o-", color=colour, label="simulated"
            )
            axes.set(xlabel="workers", ylabel=name, xscale="log", ylim=(0, None))
            if key == "rate_per_s":
                known = [row for row in rows if row["bound_per_s"] is not None]
                bound = {
                    n: spread([row["bound_per_s"] for row in known if row["workers"] == n]).median
                    for n in _sizes(known)
                }
                axes.plot(list(bound), list(bound.values()), "--", color="#777777", label="bound")
                axes.legend()
    return figure


def benchmark() -> None:
    """Measure every size, one at a time, print, write."""
    assert __doc__ is not None
    chosen: Options = options("scaling", __doc__.partition("\n")[0], repetitions=3)
    duration_s, rows = _QUICK_S if chosen.quick else _DURATION_S, list[Row]()
    cases = [Case(workers) for workers in (QUICK_SIZES if chosen.quick else SIZES)]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
        for repetition, case in turns(cases, chosen):
            rows.append(fresh.apply(measure, (Run(case.workers, chosen.seed, repetition, duration_s),)))
    summary = summarise(rows)
    show(rows, summary)
    conclude(chosen, summary, rows, [(draw(rows), "scaling")])


if __name__ == "__main__":
    main(benchmark)
