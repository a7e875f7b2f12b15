"""The lab benchmark: what it concludes from rows made by hand, what it finds left of labs, and what it needs."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mdi_exit.analysis import plots

from .test_lab import lab, needs_lab

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
NOTHING = {"processes": 0, "namespaces": 0, "mounts": 0, "control groups": 0, "files": 0}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark, a script: its folder is the first place where it looks for modules."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("lab")
    for name in ("harness", "lab", "leftovers"):
        sys.modules.pop(name, None)


def rows(bench: ModuleType, planned_per_s: float, predicted_per_s: float, **changes: Any) -> list[dict[str, Any]]:
    """Two labs on which the even split does 50 per second, as predicted, and each step takes ten seconds."""
    found = []
    for cluster in bench.CLUSTERS:
        for method in bench.METHODS:
            even = method == "even"
            found.append(
                {
                    "cluster": cluster,
                    "method": method,
                    "repetition": 0,
                    "placement": {"n1": [1, 2], "n2": [3, 4, 5]},
                    "predicted_per_s": 50.0 if even else predicted_per_s,
                    "throughput_per_s": 50.0 if even else planned_per_s,
                    "lost": 0,
                    "left": NOTHING,
                    "took_s": dict.fromkeys(bench.STEPS, 10.0),
                    "first_answer_s": 5.0,
                    **changes,
                }
            )
    return found


def test_a_plan_that_keeps_its_promise_meets_the_goal(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    measured = rows(bench, planned_per_s=100, predicted_per_s=110)
    summary = bench.summarise(measured)
    assert summary["gain_4x"] == pytest.approx(2) and summary["prediction_gap_most"] == pytest.approx(0.1)
    assert (summary["predicted_planned_equal"], summary["measured_even_equal"]) == (110, 50)
    # lab up, ray up, joining, doctor, profile and plan, and then the run's own five seconds
    assert (summary["first_result_s_4x"], summary["first_result_unplanned_s_4x"]) == (65, 35)
    assert summary["goal_met"] == 1
    bench.show(measured, summary)
    said = capsys.readouterr().out
    assert "first result 65 s after lab up, 35 without doctor, profile and plan" in said and "+10%" in said
    assert "Left after lab down: 0 processes, 0 namespaces, 0 mounts, 0 control groups, 0 files." in said
    assert len(plots.save(bench.draw(measured), tmp_path, "figure")) == 2


@pytest.mark.parametrize(
    ("planned_per_s", "predicted_per_s", "changes"),
    [
        (60, 60, {}),  # hardly better than the even split
        (100, 120, {}),  # too much promised
        (100, 80, {}),  # too little
        (100, 100, {"lost": 1}),
        (100, 100, {"left": {**NOTHING, "mounts": 1, "files": 2}}),
    ],
)
def test_what_misses_a_goal_is_said_to(
    bench: ModuleType, planned_per_s: float, predicted_per_s: float, changes: dict[str, Any]
) -> None:
    assert bench.summarise(rows(bench, planned_per_s, predicted_per_s, **changes))["goal_met"] == 0


def test_what_is_left_of_a_lab_is_counted_once_for_both_of_its_runs(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = rows(bench, 100, 100, left={**NOTHING, "mounts": 1, "files": 2})
    measured += [{**row, "repetition": 1, "left": {**NOTHING, "mounts": 1}} for row in measured]
    summary = bench.summarise(measured)
    assert summary["left"] == 2 * 3 + 2 * 1  # of two labs, twice
    bench.show(measured, summary)
    assert "0 namespaces, 4 mounts, 0 control groups, 4 files." in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--repetitions", "2"), ("--quick", "--repetitions", "2")])
def test_who_runs_first_on_a_lab_changes(
    bench: ModuleType, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    orders = []

    def measured(devices: dict[str, float], methods: list[str], seed: int, quick: bool) -> list[dict[str, Any]]:
        orders.append((len(devices), seed, methods))
        assert quick == ("--quick" in words)
        made = {row["method"]: row for row in rows(bench, 100, 100)}
        return [made[method] for method in methods]

    monkeypatch.setattr(bench, "why_not", lambda: "")
    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["benchmarks/lab.py", "--out", str(tmp_path), *words])
    bench.benchmark()
    planned, even = ["planned", "even"], ["even", "planned"]
    if "--quick" in words:  # one lab, and of two devices
        assert orders == [(2, 0, planned), (2, 1, even)]
    else:
        assert orders == [(5, 0, planned), (5, 0, even), (5, 1, planned), (5, 1, even)]
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {(row["cluster"], row["repetition"]) for row in kept["rows"]} >= {("4x", 0), ("4x", 1)}
    assert kept["summary"]["goal_met"] == 1


def test_a_run_that_had_to_find_its_rate_counts_by_its_second_half(bench: ModuleType) -> None:
    report = {
        "arrivals": None,
        "throughput_per_s": 70.0,
        "steady": {"throughput_per_s": 80.0, "accuracy": 0.9},
        "lost": 0,
        "workers": {"n1": {"slice": [1, 2], "utilization": 0.5}},
    }
    row = bench.row_of("planned", report, 90.0)
    assert (row["throughput_per_s"], row["predicted_per_s"], row["placement"]) == (80.0, 90.0, {"n1": [1, 2]})


def test_without_root_it_is_one_line_and_no_failure(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["benchmarks/lab.py", "--quick"])
    bench.benchmark()
    said = capsys.readouterr()
    assert said.err.startswith("lab.py: skipped: lab: needs root on Linux") and said.err.count("\n") == 1
    assert said.out == ""


@needs_lab
def test_what_there_is_of_a_lab_is_found_while_it_is_up_and_not_after(bench: ModuleType, tmp_path: Path) -> None:
    books = importlib.import_module("leftovers")
    name = f"books-{os.getpid()}"
    assert lab("up", "1", "--name", name, "--out", "lab", cwd=tmp_path).returncode == 0
    try:
        spaces = books.spaces_of(name)
        up = books.remains(name, spaces, tmp_path / "lab")
    finally:
        assert lab("down", "--name", name, cwd=tmp_path).returncode == 0
    assert len(spaces) >= 6 and up["namespaces"] == len(spaces) and up["files"] == 2
    assert up["processes"] > 1 and up["control groups"] > 1
    assert books.remains(name, spaces, tmp_path / "lab") == NOTHING
