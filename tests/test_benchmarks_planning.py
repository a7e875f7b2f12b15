"""The planning benchmark: what it concludes from rows made by hand, its baselines, and one short real case."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mdi_exit.analysis import plots
from mdi_exit.config.load import load_experiment

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark, a script: its folder is the first place where it looks for modules."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("planning")
    for name in ("harness", "planning", "simulated"):
        sys.modules.pop(name, None)


def rows(bench: ModuleType, planned_per_s: float, predicted_per_s: float) -> list[dict[str, Any]]:
    """Runs of two graphs, the even split at 50 per second and as predicted, the plan as given."""
    found = []
    for where in ("simulation", "ray"):
        for topology, unequal in (("2-node", True), ("3-node-mesh", False)):
            for method in bench.METHODS if where == "simulation" else bench.RAY_METHODS:
                reached = 50.0 if method == "even" else planned_per_s
                promised = 50.0 if method == "even" else predicted_per_s
                found.append(
                    {
                        "topology": topology,
                        "unequal": unequal,
                        "method": method,
                        "where": where,
                        "seed": 0,
                        "placement": {"n1": "1-2", "n2": "3-5"},
                        "predicted_per_s": promised,
                        "throughput_per_s": reached,
                        "lost": 0,
                        "pace_missed": 0.002,
                    }
                )
    return found


def test_a_plan_that_keeps_its_promise_meets_the_goal(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    measured = rows(bench, planned_per_s=100, predicted_per_s=110)
    summary = bench.summarise(measured)
    assert summary["gain_least_simulation"] == summary["gain_median_ray"] == pytest.approx(2)
    assert summary["prediction_gap_most_ray"] == pytest.approx(0.1) and summary["goal_met"] == 1
    bench.show(measured, summary)
    said = capsys.readouterr().out
    assert "too busy" not in said and "best split, none twice" in said
    assert len(plots.save(bench.draw(measured), tmp_path, "figure")) == 2


@pytest.mark.parametrize(("planned_per_s", "predicted_per_s"), [(60, 60), (100, 120)])
def test_too_little_gain_or_too_bold_a_promise_misses_it(
    bench: ModuleType, planned_per_s: float, predicted_per_s: float
) -> None:
    assert bench.summarise(rows(bench, planned_per_s, predicted_per_s))["goal_met"] == 0


def test_the_best_split_hosts_nothing_twice_and_beats_the_even_one(bench: ModuleType) -> None:
    rates = {}
    for method in ("even", "split", "planned"):
        settings, rates[method] = bench.planned(bench.Run(bench.Case("2-node", True, method), 0, 1.0))
        hosted = load_experiment("near-optimal", settings).hosted
        if method != "planned":
            assert sorted(k for segments in hosted.values() for k in segments) == [1, 2, 3, 4, 5]
    assert rates["even"] < rates["split"] <= rates["planned"] * (1 + 1e-9)


def test_a_planned_case_is_simulated(bench: ModuleType) -> None:
    row = bench.measure_simulated(bench.Run(bench.Case("2-node", True, "planned"), 0, 2.0))
    assert row["lost"] == 0 and 0 < row["throughput_per_s"] <= 1.3 * row["predicted_per_s"]
