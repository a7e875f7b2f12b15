"""What do groups give? Throughput and 99th percentile of latency against load, for sizes 1, 4, 16 and adaptive.

One worker on one core, unpaced, with exits above 0.8; images arrive at random (Poisson) at shares of what a bare loop
answers per second (bare.py, ONNX Runtime, groups of 16), and are shed when 200 wait. An idle worker starts at once with
what it has, up to its size; adaptive is up to 64 while they can be computed within 10 ms (`group_s`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bare
from harness import Options, Spread, conclude, main, options, spread, table, turns

from mdi_exit.analysis import plots
from mdi_exit.report import build_report
from mdi_exit.runtime import Cluster, local_cluster

SIZES: dict[str, dict[str, Any]] = {
    **{str(n): {"worker.group_max": n, "worker.group_s": 1.0} for n in (1, 4, 16)},
    "adaptive": {"worker.group_max": 64, "worker.group_s": 0.01},
}
LOADS, QUICK_LOADS = (0.25, 0.5, 0.75, 0.9, 1.1), (0.5, 1.1)
_SECONDS, _QUICK_S = 4.0, 2.0
_GROUP, _IMAGES = 16, 600
_COLOURS = dict(zip(SIZES, (plots.BLUE, plots.SKY, plots.ORANGE, plots.RED), strict=True))

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One size at one load."""

    size: str
    load: float

    def __str__(self) -> str:
        return f"groups {self.size}, load {self.load:g}"

    def of(self, rows: list[Row], key: str) -> Spread:
        """One of its figures over the repetitions."""
        return spread([row[key] for row in rows if (row["size"], row["load"]) == (self.size, self.load)])


def cases_of(quick: bool) -> list[Case]:
    """What is measured."""
    return [Case(size, load) for load in (QUICK_LOADS if quick else LOADS) for size in SIZES]


def limit_per_s(seed: int) -> float:
    """What one core answers in a bare loop; the median of three passes."""
    setting = bare.Setting(bare.experiment_of("local", seed), "onnx", _IMAGES)
    with bare.loops({"onnx": setting}) as running:
        return spread([running.run("onnx", _GROUP).rate_per_s for _ in range(3)]).median


def measure(cluster: Cluster, case: Case, limit: float, chosen: Options, repetition: int) -> Row:
    """One run, as a row of results.json."""
    rate = case.load * limit
    settings = {"admission": "always", "arrivals": {"rule": "poisson", "rate_per_s": rate}, **SIZES[case.size]}
    seconds = _QUICK_S if chosen.quick else _SECONDS
    experiment = bare.experiment_of("local", chosen.seed + repetition, duration_s=seconds, **settings)
    record = cluster.run(experiment)
    report = build_report(experiment, record.card, record.tallies, record.facts, "", "ray")
    return {
        "size": case.size,
        "load": case.load,
        "repetition": repetition,
        "offered_per_s": report["offered"] / report["duration_s"],
        "throughput_per_s": report["throughput_per_s"],
        "shed": report["shed"] / max(1, report["offered"]),
        **{f"latency_{name}_s": report["latency_s"][name] for name in ("p50", "p99")},
        "accuracy": report["accuracy"],
        "lost": report["lost"],
    }


def summarise(rows: list[Row], quick: bool) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    cases, summary = cases_of(quick), dict[str, float]()
    low, high = min(case.load for case in cases), max(case.load for case in cases)
    for size in SIZES:
        summary[f"throughput_{size}_per_s"] = Case(size, high).of(rows, "throughput_per_s").median
        summary[f"p99_low_load_{size}_s"] = Case(size, low).of(rows, "latency_p99_s").median
        summary[f"p99_overload_{size}_s"] = Case(size, high).of(rows, "latency_p99_s").median
    summary["lost"] = float(sum(row["lost"] for row in rows))
    return summary


def show(rows: list[Row], quick: bool) -> None:
    """Print the table."""
    lines = []
    for case in cases_of(quick):
        p50, p99 = (1000 * case.of(rows, f"latency_{name}_s").median for name in ("p50", "p99"))
        offered, shed = case.of(rows, "offered_per_s").median, 100 * case.of(rows, "shed").median
        rate = str(case.of(rows, "throughput_per_s"))
        lines.append(
            [f"{case.load:g}", case.size, f"{offered:.0f}", rate, f"{p50:.1f} ms", f"{p99:.1f} ms", f"{shed:.0f} %"]
        )
    table(["load", "groups", "offered/s", "images/s", "latency p50", "p99", "shed"], lines)


def draw(rows: list[Row], quick: bool) -> Any:
    """Throughput and p99 against what is offered."""
    with plots.style():
        figure = plots.new_figure(8.4, 3.6)
        panels = (("throughput_per_s", 1, "images per second"), ("latency_p99_s", 1000, "latency p99 (ms)"))
        for axes, (key, scale, name) in zip(figure.subplots(1, 2), panels, strict=True):
            for size, colour in _COLOURS.items():
                cases = [case for case in cases_of(quick) if case.size == size]
                loads = [case.of(rows, "offered_per_s").median for case in cases]
                axes.plot(loads, [scale * case.of(rows, key).median for case in cases], "o-", color=colour, label=size)
            axes.set(xlabel="images offered per second", ylabel=name)
            axes.legend(title="groups", fontsize=8)
        axes.set_yscale("log")
    return figure


def benchmark() -> None:
    """Measure every case, print, write."""
    assert __doc__ is not None
    chosen = options("groups", __doc__.partition("\n")[0], repetitions=3)
    limit = limit_per_s(chosen.seed)
    with local_cluster() as cluster:
        rows = [measure(cluster, case, limit, chosen, r) for r, case in turns(cases_of(chosen.quick), chosen)]
    show(rows, chosen.quick)
    conclude(
        chosen, {"limit_per_s": limit, **summarise(rows, chosen.quick)}, rows, [(draw(rows, chosen.quick), "groups")]
    )


if __name__ == "__main__":
    main(benchmark)
