"""The benchmarks in virtual time: what they conclude from rows made by hand, and one short real case of each."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mdi_exit.analysis import plots
from mdi_exit.analysis.fixed_rate import accuracy

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = (
    "baseline_methods", "baselines", "harness", "scaling", "simulated", "simulation_vs_ray", "throughput_vs_accuracy",
)  # fmt: skip


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A benchmark is a script: its folder is the first place where it looks for modules."""
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def drawn(benchmark: ModuleType, rows: list[dict[str, Any]], folder: Path) -> None:
    assert len(plots.save(benchmark.draw(rows), folder, "figure")) == 2


# ---- simulation_vs_ray


def both_sides(versus: ModuleType, **simulated: float) -> list[dict[str, Any]]:
    """Real runs and their simulations, which say the same but for `simulated`, and one with another seed."""
    rows = []
    for case in (versus.Case("local", "rate"), versus.Case("5-node-mesh", "threshold")):
        said = {"topology": case.topology, "mode": case.mode, "throughput_per_s": 50.0, "accuracy": 0.86}
        said |= {"latency_p50_s": 0.2, "lost": 0, "utilization": [0.9, 0.5]}
        rows += [{**said, "where": "ray", "seed": seed, "pace_missed": 0.01} for seed in (0, 1)]
        rows += [{**said, **simulated, "where": "simulation", "seed": seed} for seed in (0, 1)]
        rows.append({**said, "where": "simulation", "seed": 2, "throughput_per_s": 70.0})
    return rows


def test_a_simulation_that_agrees_meets_the_goal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    versus = script("simulation_vs_ray")
    rows = both_sides(versus)
    summary = versus.summarise(rows)
    assert summary["max_throughput_gap"] == summary["max_accuracy_gap_points"] == summary["max_latency_gap"] == 0
    assert summary["busiest_on_ray"] == summary["busiest_simulated"] == pytest.approx(0.9)
    assert summary["goal_met"] == 1 and summary["pace_missed_worst"] == 0.01 and summary["lost"] == 0
    versus.show(rows, summary)
    printed = capsys.readouterr().out
    assert printed.count("within the goal") == 3 and "50-70" in printed and "too busy" not in printed
    drawn(versus, rows, tmp_path)


def test_a_simulation_that_disagrees_is_called_out(capsys: pytest.CaptureFixture[str]) -> None:
    versus = script("simulation_vs_ray")
    rows = both_sides(versus, throughput_per_s=60.0, accuracy=0.84, latency_p50_s=0.1)
    rows[0]["pace_missed"] = 0.05
    summary = versus.summarise(rows)
    assert summary["max_throughput_gap"] == pytest.approx(0.2) and summary["max_latency_gap"] == pytest.approx(0.5)
    assert summary["max_accuracy_gap_points"] == pytest.approx(2) and summary["goal_met"] == 0
    versus.show(rows, summary)
    printed = capsys.readouterr().out
    assert printed.count("MORE than the goal") == 3 and "too busy" in printed


@pytest.mark.parametrize("mode", ["rate", "threshold", "rate, paper's", "threshold, paper's"])
def test_both_sides_are_given_one_experiment(mode: str) -> None:
    versus = script("simulation_vs_ray")
    run = versus.Run(versus.Case("2-node", mode), 3, 2.0)
    experiment = versus.experiment_of(run)
    assert (experiment.seed, experiment.duration_s, len(experiment.topology.workers)) == (3, 2.0, 2)
    row = versus.measure_simulated(run)
    assert row == versus.measure_simulated(run) and row["where"] == "simulation" and row["seed"] == 3
    assert row["throughput_per_s"] > 20 and row["accuracy"] > 0.7 and row["lost"] == 0


# ---- throughput_vs_accuracy


def traded(benchmark: ModuleType, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Rules whose rates are these shares of the bound, at three thresholds and two loads."""
    rows = list[dict[str, Any]]()
    for rule, share in rates.items():
        which = {"rule": rule, "network": "mobilenet_v2", "topology": "local", "seed": 0, "lost": 0}
        for threshold, possible, right in ((0.6, 80.0, 0.82), (0.8, 60.0, 0.86), (1.0, 26.0, 0.88)):
            found = {"rate_per_s": share * possible, "accuracy_offered": right, "bound_per_s": possible}
            rows.append({**which, **found, "threshold": threshold, "load": None, "bound_accuracy": right})
        for load, best in ((0.9, 0.88), (4.0, None)):
            found = {"rate_per_s": 26 * load, "bound_per_s": 26 * load, "accuracy_offered": 0.8}
            rows.append({**which, **found, "threshold": None, "load": load, "bound_accuracy": best})
    return rows


def test_rates_are_summed_up_at_the_reference_accuracy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    benchmark = script("throughput_vs_accuracy")
    rows = traded(benchmark, {benchmark.PAPER: 0.5, benchmark.REPAIRED: 0.9, benchmark.DUAL: 1.0})
    summary = benchmark.summarise(rows, {"mobilenet_v2": (0.855, 0.8)})
    assert summary["rate_local_mobilenet_v2_per_s"] == pytest.approx(54)
    assert summary["rate_paper_local_mobilenet_v2_per_s"] == pytest.approx(30)
    assert summary["rate_dual_local_mobilenet_v2_per_s"] == summary["bound_local_mobilenet_v2_per_s"] == 60
    assert summary["gain_of_exits_local_mobilenet_v2"] == pytest.approx(60 / 26)
    benchmark.show(rows, summary, ["resnet50"])
    printed = capsys.readouterr().out
    assert "0.80 (reference)" in printed and "1.00 (no exits)" in printed and "not possible" in printed
    assert "resnet50: not measured" in printed
    drawn(benchmark, rows, tmp_path)


def test_the_reference_is_a_point_below_no_exits_and_kept_by_no_lower_threshold() -> None:
    benchmark, simulated = script("throughput_vs_accuracy"), script("simulated")
    trace = simulated.network(simulated.SHIPPED).trace
    wanted, threshold = benchmark.reference(trace)
    assert wanted == pytest.approx(trace.accuracy()[-1] - 0.01)
    assert accuracy(trace, (threshold,) * 4) >= wanted > accuracy(trace, (threshold - 0.01,) * 4)


@pytest.mark.parametrize(("threshold", "load"), [(0.8, None), (None, 1.5)])
def test_a_rule_stays_within_the_bound(threshold: float | None, load: float | None) -> None:
    benchmark = script("throughput_vs_accuracy")
    row = benchmark.measure(benchmark.Case("mobilenet_v2", "2-node", benchmark.REPAIRED, threshold, load, 6.0, 0))
    assert 0.6 * row["bound_per_s"] < row["rate_per_s"] < 1.1 * row["bound_per_s"] and row["lost"] == 0
    assert 0.7 < row["accuracy_offered"] < 0.95 and 0.8 < row["bound_accuracy"] < 0.9


def test_a_network_that_has_no_trace_is_none() -> None:
    assert script("simulated").network("no_such_network") is None


# ---- baselines


def compared(baselines: ModuleType, ways: ModuleType, rates: dict[str, float]) -> list[dict[str, Any]]:
    """What runs would say if each method had these rates and half an accuracy in proportion."""
    rows = []
    thresholds = sorted({ways.threshold_of_ours(name) for name in ways.METHODS if name != ways.OURS})
    for name in (*ways.METHODS, ways.OPEN):
        rate = rates.get(name, 20.0)
        said = {"graph": "3-node-mesh", "method": name, "seed": 0, "lost": 0, "rate_per_s": rate, "accuracy": 0.8}
        said |= {"shed_share": 0.1, "accuracy_offered": rate / 100, "bound_per_s": 50.0, "bound_accuracy": 0.8}
        if name != ways.OPEN:
            held = thresholds if name == ways.OURS else [ways.HELD]
            rows += [{**said, "load": None, "arrivals": "", "threshold": threshold} for threshold in held]
        for arrivals in baselines.ARRIVALS:
            rows.append({**said, "load": 1.0, "arrivals": arrivals, "threshold": ways.HELD})
    return rows


def test_ours_is_compared_with_every_baseline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    baselines, ways = script("baselines"), script("baseline_methods")
    rows = compared(baselines, ways, {ways.OURS: 40.0, "smaller_3": 50.0})
    summary = baselines.summarise(rows)
    assert summary["ours_over_one_device_full"] == summary["accuracy_ours_over_even_split"] == 2
    assert summary["ours_over_smaller_3"] == pytest.approx(0.8) and summary["ours_over_optimum"] == pytest.approx(0.8)
    assert summary["accuracy_ours_over_optimum"] == pytest.approx(0.5) and summary["lost"] == 0
    assert summary["accuracy_ours_over_no_admission_control"] == 2
    baselines.show(rows, summary)
    said = capsys.readouterr().out.splitlines()
    wins = [number for number, line in enumerate(said) if "THE BASELINE WINS" in line]
    assert len(wins) == 1 and "smaller network (3 of 5)" in said[wins[0] - 1] and "(x0.80)" in said[wins[0]]
    drawn(baselines, rows, tmp_path)


def test_data_parallel_copies_send_images_and_nothing_else() -> None:
    baselines, ways, simulated = script("baselines"), script("baseline_methods"), script("simulated")
    case = baselines.Case("3-node-mesh", "data_parallel_full", ways.HELD, None, "", 4.0, 0)
    report = simulated.report_of(baselines.experiment_of(case), offloading=ways.WholeNetwork())
    sent = [link for link in report["links"].values() if link["tasks"]]
    assert sent and all(link["bytes"] == 3072 * link["tasks"] for link in sent)
    for worker in report["workers"].values():
        assert worker["segments"][0] == worker["segments"][-1] > 50
    assert baselines.measure(case)["rate_per_s"] <= 1.1 * 3 / 0.039


def test_a_smaller_network_is_left_at_its_end() -> None:
    baselines, ways, simulated = script("baselines"), script("baseline_methods"), script("simulated")
    case = baselines.Case("3-node-mesh", "smaller_2", ways.HELD, 2.0, "bursty", 4.0, 0)
    report = simulated.report_of(baselines.experiment_of(case), offloading=ways.WholeNetwork())
    assert report["exits"][1] == report["completed"] > 100
    trace = ways.network().trace
    assert accuracy(trace, ways.thresholds_of(ways.METHODS["smaller_2"], ways.HELD)) == trace.accuracy()[1]


def test_slices_of_an_even_split_are_as_equal_as_can_be() -> None:
    ways = script("baseline_methods")
    method = ways.METHODS["even_split"]
    assert [len(slice_) for slice_ in ways.settings_of("5-node-mesh", method)["placement"].values()] == [1] * 5
    assert ways.settings_of("3-node-mesh", method)["placement"] == {"n1": [1, 2], "n2": [3], "n3": [4, 5]}


# ---- scaling


def grown(scaling: ModuleType) -> list[dict[str, Any]]:
    """A graph whose rate stops growing at 50 workers, each of which takes 10 kB."""
    rows = []
    for workers, rate in ((500, 206.0), (50, 200.0), (10, 100.0)):
        row = {"workers": workers, "events_per_s": 1e5, "wall_per_virtual_s": 0.1, "rate_per_s": rate, "working": 10}
        row |= {"grown_bytes": 1_000_000 + 10_000 * workers, "lost": 0, "source_links": 4, "bound_per_s": 210.0}
        rows += [{**row, "binding": "link n0->n1 (100%)", "source_links_share": 1.0}] * 2
    return rows


def test_where_more_workers_stop_helping_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scaling = script("scaling")
    rows = grown(scaling)
    summary = scaling.summarise(rows)
    assert summary["bytes_per_worker"] == pytest.approx(10_000) and summary["workers_max"] == 500
    assert summary["workers_that_help"] == 50 and summary["events_per_s"] == 1e5
    scaling.show(rows, summary)
    printed = capsys.readouterr().out
    assert (
        "Beyond 50 workers" in printed
        and "at 500 workers, by the bound" in printed
        and "the way out of the source" in printed
        and "10 kB" in printed
    )
    drawn(scaling, rows, tmp_path)


@pytest.mark.parametrize("workers", [10, 300])
def test_geometric_graphs_are_connected_with_degree_about_four(workers: int) -> None:
    topology = script("scaling").geometric(workers, 1)  # a Topology refuses what is not connected
    assert len(topology.workers) == workers and len(topology.links) == 2 * workers
    assert sum(topology.source in (link.a, link.b) for link in topology.links) == 4
    assert topology == script("scaling").geometric(workers, 1) != script("scaling").geometric(workers, 2)


def test_a_graph_of_forty_workers_is_measured() -> None:
    scaling = script("scaling")
    row = scaling.measure(scaling.Run(40, 0, 0, 2.0))
    assert row["lost"] == 0 and row["events"] > 1_000 and row["virtual_s"] >= 2
    assert 50 < row["rate_per_s"] <= 1.2 * row["bound_per_s"] and row["source_links_share"] > 0.5
