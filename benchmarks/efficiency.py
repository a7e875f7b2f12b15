"""How much of the machine do images get? Workers beside a bare loop over the same segments, and what a hop costs.

The limit is what one core answers per second in a bare loop over the exported segments, with the same images and exits
(above 0.8), by the best back end at its best group size (bare.py). Workers run unpaced on unshaped, unencrypted links
with groups of up to 16; their share is of the limit times the cores that they can use. A hop's processor time is
measured with two nodes and a network that takes none (hops.py).

Everything takes turns within a run; a share is of the limit in the same repetition. What other programs took meanwhile
is shown too: on a machine that is not alone, the shares say little. `cpu_NAME` says more then: answers per second of
processor time of all workers, over those of the bare loop.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bare
from harness import Options, Spread, conclude, main, options, spread, table, turns
from hops import cpu_us_per_hop
from watch import Watch

from mdi_exit import compute
from mdi_exit.analysis import plots
from mdi_exit.errors import UserError
from mdi_exit.report import build_report, settled
from mdi_exit.runtime import Cluster, local_cluster

WORKERS = {
    "one_worker": "local",
    "two_workers": "2-node",
    "three_workers": "3-node-mesh",
    "five_workers": "5-node-mesh",
}
GOALS = {"one_worker": 0.95, "two_workers": 0.90, "three_workers": 0.85, "five_workers": 0.85}
_COUNT = {"one_worker": 1, "two_workers": 2, "three_workers": 3, "five_workers": 5}
GROUPS, QUICK_GROUPS = (1, 4, 16), (1, 16)
GROUP = 16
_SECOND = "onnx, a second loop"
_IMAGES, _QUICK_IMAGES = 1000, 300
_SECONDS, _QUICK_S = 4.0, 2.0
_HOPS = {
    f"{size}{kind}": (group, kind != "")
    for size, group in (("grouped", GROUP), ("single", 1))
    for kind in ("", "_encrypted")
}
_IDLE = {"arrivals": {"rule": "constant", "rate_per_s": 0.5}, "admission": "always"}
_DEMO_WITHIN_S = 120.0

Row = dict[str, Any]


# ---- measuring


def measure_loops(running: bare.Loops, back_ends: list[str], chosen: Options, repetition: int) -> list[Row]:
    """Every back end at every group size, and two loops at once."""
    rows = []
    for group in QUICK_GROUPS if chosen.quick else GROUPS:
        for name in back_ends:
            done = running.run(name, group)
            row = _loop_row(f"{name}, groups of {group}", repetition, done.rate_per_s, name, group, done.exits)
            rows.append({**row, "rate_per_cpu_s": done.rate_per_cpu_s})
        both = running.run_together(["onnx", _SECOND], group)
        rate = sum(each.rate_per_s for each in both)
        rows.append(_loop_row(f"two loops, groups of {group}", repetition, rate, "two loops", group, both[0].exits))
    return rows


def _loop_row(case: str, repetition: int, rate: float, back_end: str, group: int, exits: tuple[int, ...]) -> Row:
    found = {"rate_per_s": rate, "back_end": back_end, "group": group, "exits": list(exits)}
    return {"kind": "loop", "case": case, "repetition": repetition, **found}


def measure_workers(cluster: Cluster, name: str, chosen: Options, repetition: int) -> Row:
    """One run of so many workers."""
    settings: dict[str, Any] = {"worker.group_max": GROUP, "worker.link_window": 4, "runtime.encrypt": False}
    half_s = _QUICK_S if chosen.quick else _SECONDS
    settings |= {"admission.queue_target": 4 * GROUP, "duration_s": 2 * half_s}
    experiment = bare.experiment_of(WORKERS[name], chosen.seed + repetition, **settings)
    watch = Watch(half_s)  # the bare loop's images are decoded before it begins, too
    record = cluster.run(experiment, watch)
    report = build_report(experiment, record.card, record.tallies, record.facts, "", "ray")
    rate_per_s = settled(report)["throughput_per_s"]
    return {
        **{"kind": "workers", "case": name, "repetition": repetition},
        "rate_per_s": rate_per_s,
        "accuracy": report["accuracy"],
        "exits": report["exits"],
        "lost": report["lost"],
        "workers_cpu": watch.workers_cpu,
        "rate_per_cpu_s": rate_per_s / watch.workers_cpu,
        "others_cpu": watch.others_cpu,
        "hops": sum(link["tasks"] for link in report["links"].values()),
    }


def measure_footprint(cluster: Cluster, chosen: Options, repetition: int) -> Row:
    """Five workers that have next to nothing to do: their memory beyond the weights, and what they take of a core."""
    seconds = 2 * (_QUICK_S if chosen.quick else _SECONDS)
    experiment = bare.experiment_of("5-node-mesh", chosen.seed + repetition, duration_s=seconds, **_IDLE)
    weights = sum(path.stat().st_size for path in compute.prepare(experiment.model).models)
    watch = Watch()
    record = cluster.run(experiment, watch)
    rss = max(facts.rss_bytes or 0 for facts in record.facts.values())
    idle = watch.workers_cpu / len(experiment.topology.workers)
    found = {"worker_rss_bytes": rss - weights, "idle_cpu": idle, "others_cpu": watch.others_cpu}
    return {"kind": "footprint", "case": "idle workers", "repetition": repetition, **found}


def measure_demo(repetition: int) -> Row:
    """Start `mdi-exit demo`, wait for the line that tells of its first result, and interrupt it."""
    with tempfile.TemporaryDirectory() as folder:
        program, out = "from mdi_exit.cli import main; main()", str(Path(folder, "demo"))
        words = [sys.executable, "-c", program, "demo", "--out", out]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        overdue = threading.Timer(_DEMO_WITHIN_S, process.kill)  # also of a demo that says nothing
        overdue.start()
        said: list[str] = []
        found = None
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"([0-9.]+) s after the start", line):
                break
        process.send_signal(signal.SIGINT)
        process.communicate()
        overdue.cancel()
    if found is None:
        raise RuntimeError(f"the demo told of no result: {' '.join(said[-3:])}")
    return {"kind": "demo", "case": "mdi-exit demo", "repetition": repetition, "first_result_s": float(found[1])}


def measure_hop(name: str, chosen: Options, repetition: int) -> Row:
    """What a hop costs, grouped or single, encrypted or not."""
    group, encrypt = _HOPS[name]
    cost = cpu_us_per_hop(group, encrypt, chosen.seed + repetition, (_QUICK_S if chosen.quick else _SECONDS) / 2)
    return {"kind": "hop", "case": name, "repetition": repetition, "cpu_us": cost}


# ---- what it amounts to


def of(rows: list[Row], kind: str, case: str, key: str) -> Spread:
    """A figure of one case over its repetitions."""
    return spread([row[key] for row in rows if (row["kind"], row["case"]) == (kind, case)])


def loops_in(rows: list[Row]) -> list[str]:
    """The bare loops that were measured."""
    return list(dict.fromkeys(row["case"] for row in rows if row["kind"] == "loop"))


def best_loop(rows: list[Row]) -> str:
    """The single loop that answers most."""
    alone = [case for case in loops_in(rows) if not case.startswith("two loops")]
    return max(alone, key=lambda case: of(rows, "loop", case, "rate_per_s").median)


def share(rows: list[Row], name: str) -> Spread:
    """Of what the cores could answer in bare loops, in the same repetition."""
    best = {r["repetition"]: r["rate_per_s"] for r in rows if r["kind"] == "loop" and r["case"] == best_loop(rows)}
    cores = min(len(os.sched_getaffinity(0)), _COUNT[name])
    runs = [row for row in rows if (row["kind"], row["case"]) == ("workers", name)]
    return spread([row["rate_per_s"] / (cores * best[row["repetition"]]) for row in runs])


def cpu_share(rows: list[Row], name: str) -> float:
    """Answers per second of processor time, over those of the best loop; medians."""
    return (
        of(rows, "workers", name, "rate_per_cpu_s").median / of(rows, "loop", best_loop(rows), "rate_per_cpu_s").median
    )


def summarise(rows: list[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    limit = of(rows, "loop", best_loop(rows), "rate_per_s").median
    summary = {"limit_per_s": limit, **{name: share(rows, name).median for name in WORKERS}}
    pairs = [of(rows, "loop", case, "rate_per_s").median for case in loops_in(rows) if case.startswith("two loops")]
    summary |= {f"cpu_{name}": cpu_share(rows, name) for name in WORKERS}
    summary["two_loops"] = max(pairs) / (2 * limit)
    summary |= {f"hop_cpu_us_{name}": of(rows, "hop", name, "cpu_us").median for name in _HOPS}
    for key, kind, case in (
        ("first_result_s", "demo", "mdi-exit demo"),
        ("worker_rss_bytes", "footprint", "idle workers"),
        ("idle_cpu", "footprint", "idle workers"),
    ):
        summary[key] = of(rows, kind, case, key).median
    summary["others_cpu"] = max(row["others_cpu"] for row in rows if "others_cpu" in row)
    summary["lost"] = float(sum(row["lost"] for row in rows if row["kind"] == "workers"))
    return summary


def show(rows: list[Row], summary: dict[str, float]) -> None:
    """Print the tables, and what they mean."""
    lines = [[case, str(of(rows, "loop", case, "rate_per_s"))] for case in loops_in(rows)]
    table(["bare loop", "images/s"], lines)
    print(f"The limit of a core: {best_loop(rows)}.\n")
    lines = []
    for name, goal in GOALS.items():
        rate, part = of(rows, "workers", name, "rate_per_s"), share(rows, name)
        beside = f" ({part.low:.2f} to {part.high:.2f})" if part.repetitions > 1 else ""
        others = of(rows, "workers", name, "others_cpu").median
        cells = [f"{part.median:.2f}{beside}", f"{goal:.2f}", f"{summary[f'cpu_{name}']:.2f}", f"{others:.2f}"]
        lines.append([name.replace("_", " "), str(rate), *cells])
    table(["workers", "images/s", "of the limit", "goal", "by processor time", "cores busy otherwise"], lines)
    print()
    goals = {"grouped": "60", "single": "120"}
    table(
        ["hop of 16 KB", "processor time, us", "goal"],
        [[name.replace("_", ", "), str(of(rows, "hop", name, "cpu_us")), goals.get(name, "")] for name in _HOPS],
    )
    print(
        f"First result of the demo after {summary['first_result_s']:.1f} s (goal 10); a worker takes "
        f"{summary['worker_rss_bytes'] / 1e6:.0f} MB beyond its weights (goal 150) and, idle, "
        f"{100 * summary['idle_cpu']:.1f} % of a core (goal 2)."
    )


def draw(rows: list[Row]) -> Any:
    """Bars of the shares, with the goals."""
    with plots.style():
        figure = plots.new_figure(6.4, 3.6)
        axes = figure.subplots()
        for place, (name, goal) in enumerate(GOALS.items()):
            part = share(rows, name)
            axes.bar(place, part.median, 0.6, color=plots.BLUE)
            if part.repetitions > 1:
                ends = [[part.median - part.low], [part.high - part.median]]
                axes.errorbar(place, part.median, yerr=ends, fmt="none", color="black", capsize=3)
            axes.plot([place - 0.35, place + 0.35], [goal, goal], color=plots.ORANGE)
        axes.plot([], [], color=plots.ORANGE, label="goal")
        axes.axhline(1, color=plots.BLACK, linewidth=0.8)
        axes.set_xticks(range(len(GOALS)), [name.replace("_", " ") for name in GOALS])
        axes.set_ylabel("share of bare loops on the same cores")
        axes.grid(visible=False, axis="x")
        axes.legend()
    return figure


def benchmark() -> None:
    """Measure every case, print, write."""
    assert __doc__ is not None
    chosen = options("efficiency", __doc__.partition("\n")[0], repetitions=3)
    rows: list[Row] = []
    images = _QUICK_IMAGES if chosen.quick else _IMAGES
    back_ends = ["onnx"] if chosen.quick else bare.installed()
    alone = bare.experiment_of("local", chosen.seed)
    settings = {name: bare.Setting(alone, name, images) for name in back_ends}
    with local_cluster() as cluster, bare.loops({**settings, _SECOND: bare.Setting(alone, "onnx", images)}) as running:
        for repetition, case in turns(["bare loops", *WORKERS, *_HOPS, "footprint"], chosen):
            with counted(rows, case, repetition):
                if case == "bare loops":
                    rows += measure_loops(running, back_ends, chosen, repetition)
                elif case in WORKERS:
                    rows.append(measure_workers(cluster, case, chosen, repetition))
                elif case in _HOPS:
                    rows.append(measure_hop(case, chosen, repetition))
                else:
                    rows.append(measure_footprint(cluster, chosen, repetition))
    for repetition in range(chosen.repetitions):
        with counted(rows, "mdi-exit demo", repetition):
            rows.append(measure_demo(repetition))
    finish(chosen, rows)


@contextlib.contextmanager
def counted(rows: list[Row], case: str, repetition: int) -> Iterator[None]:
    """A failure within is a row of its own, so that it does not cost the other cases."""
    try:
        yield
    except (UserError, RuntimeError, OSError) as error:
        rows.append({"kind": "failed", "case": case, "repetition": repetition, "why": str(error)})


def finish(chosen: Options, rows: list[Row]) -> None:
    """Print and write; figures are of the repetitions that are whole. Where a case failed the exit status is 1."""
    failed = [row for row in rows if row["kind"] == "failed"]
    whole = [row for row in rows if row["repetition"] not in {each["repetition"] for each in failed}]
    summary = summarise(whole) if whole else {}
    if whole:
        show(whole, summary)
    conclude(chosen, summary, rows, [(draw(whole), "efficiency")] if whole else [])
    for row in failed:
        print(f"failed: {row['case']}, repetition {row['repetition'] + 1} (left out of the figures): {row['why']}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main(benchmark)
