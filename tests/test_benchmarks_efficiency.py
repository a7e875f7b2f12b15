"""What benchmarks/efficiency.py and groups.py conclude, and that the bare loop answers what the network does."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import operator
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mdi_exit import compute
from mdi_exit.compute import SegmentRunner
from mdi_exit.errors import UserError
from mdi_exit.jsonfile import rounded

from .networks import BUNDLED, noise

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
OURS = ("harness", "bare", "hops", "efficiency", "groups", "watch")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A benchmark is a script: its folder is the first place where it looks for modules."""
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in OURS:
        sys.modules.pop(name, None)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def one_by_one(runner: SegmentRunner, image: Any, threshold: float) -> tuple[int, int]:
    batch = image[None]
    for k in range(1, runner.exits + 1):
        (reading,), batch = runner.run(k, batch)
        if k == runner.exits or reading.confidence > threshold:
            return reading.prediction, k
    raise AssertionError


@pytest.mark.parametrize("group", [1, 3, 16])
def test_the_bare_loop_answers_as_the_network_does(tmp_path: Path, group: int) -> None:
    net = compute.prepare(BUNDLED, cache_dir=tmp_path)
    runner = compute.open_runner(net, range(1, 6))
    images = list(noise(20))
    threshold = statistics.median(runner.run(1, image[None])[0][0].confidence for image in images)  # between two
    wanted = [one_by_one(runner, image, threshold) for image in images]
    assert len({k for _, k in wanted}) > 1, "exits are taken"
    bare = script("bare")
    predictions, exits = bare.answer(bare._onnx(net), net.card.temperatures, threshold, images, group)
    assert list(zip(predictions, exits, strict=True)) == wanted


def loop(case: str, repetition: int, rate: float) -> dict[str, Any]:
    rates = {"rate_per_s": rate, "rate_per_cpu_s": 1000.0}
    return {"kind": "loop", "case": case, "repetition": repetition, **rates}


def repetition(efficiency: ModuleType, number: int, machine: float) -> list[dict[str, Any]]:
    """Every case once, on a machine that is so fast."""
    rows = [loop("a, groups of 16", number, 900 * machine), loop("b, groups of 1", number, 1000 * machine)]
    rows.append(loop("two loops, groups of 1", number, 1900 * machine))
    for name, rate in (("one_worker", 950), ("two_workers", 1800), ("three_workers", 1700), ("five_workers", 1500)):
        row = {"kind": "workers", "case": name, "repetition": number, "rate_per_s": rate * machine}
        rows.append({**row, "lost": 0, "others_cpu": 0.1, "rate_per_cpu_s": 800.0})
    for name in efficiency._HOPS:
        rows.append({"kind": "hop", "case": name, "repetition": number, "cpu_us": 50.0})
    footprint = {"worker_rss_bytes": 2e8, "idle_cpu": 0.01, "others_cpu": 0.2}
    rows.append({"kind": "footprint", "case": "idle workers", "repetition": number, **footprint})
    demo = {"kind": "demo", "case": "mdi-exit demo", "repetition": number}
    return [*rows, {**demo, "first_result_s": 8.0 + machine}]


def test_shares_are_of_the_best_loop_in_the_same_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    efficiency = script("efficiency")
    monkeypatch.setattr(efficiency.os, "sched_getaffinity", lambda process: {0, 1})
    rows = [row for n, machine in enumerate((1.0, 0.5, 2.0)) for row in repetition(efficiency, n, machine)]
    summary = efficiency.summarise(rows)
    assert efficiency.best_loop(rows) == "b, groups of 1"
    shares = [summary[name] for name in efficiency.WORKERS]
    assert shares == pytest.approx([0.95, 0.9, 0.85, 0.75])
    assert summary["cpu_two_workers"] == pytest.approx(0.8)
    assert summary["two_loops"] == pytest.approx(0.95)
    wanted = ("hop_cpu_us_grouped", "hop_cpu_us_single", "first_result_s", "worker_rss_bytes")
    assert [summary[name] for name in wanted] == [50.0, 50.0, 9.0, 2e8]
    efficiency.show(rows, summary)
    efficiency.draw(rows)


@pytest.mark.parametrize("good", [0, 1])
def test_a_case_that_fails_costs_no_other_and_is_named_last(
    good: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    efficiency, harness = script("efficiency"), script("harness")
    rows = [row for number in range(good) for row in repetition(efficiency, number, 1.0)]
    rows.append(loop("b, groups of 1", good, 500.0))
    with efficiency.counted(rows, "two_workers", good):
        raise UserError("n2: not ready within 60 s")
    with pytest.raises(SystemExit) as ended:
        efficiency.finish(harness.Options("efficiency", True, tmp_path, 0, good + 1), rows)
    assert ended.value.code == 1
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert written["rows"] == rounded(rows) and rows[-1]["kind"] == "failed"
    assert written["summary"].get("limit_per_s") == (1000.0 if good else None)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"failed: two_workers, repetition {good + 1} ") and last.endswith(
        ": n2: not ready within 60 s"
    )


def test_a_node_that_dies_is_a_failed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node's process ends at once, without a word: it does something else and is done."""
    efficiency, hops = script("efficiency"), script("hops")
    monkeypatch.setattr(hops, "_serve", operator.is_)
    rows: list[dict[str, Any]] = []
    with efficiency.counted(rows, "hop_cpu_us_single", 0):
        hops.cpu_us_per_hop(1, False, 0, 0.1)
    assert [(row["kind"], row["why"]) for row in rows] == [("failed", hops._DIED)]


def test_what_a_dead_node_would_be_told_is_an_error_with_its_reason() -> None:
    hops = script("hops")
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(RuntimeError, match="ended before it answered"):
        hops._tell(ours, "count")


def test_groups_are_compared_at_the_lowest_and_the_highest_load() -> None:
    groups = script("groups")
    rows = []
    for number, case in enumerate(groups.cases_of(quick=True)):
        latency = {"latency_p50_s": 0.001, "latency_p99_s": 0.01 * (number + 1)}
        rates = {"offered_per_s": 500.0, "throughput_per_s": 400.0 + number, "shed": 0.1}
        rows.append({"size": case.size, "load": case.load, "repetition": 0, **rates, **latency, "lost": 0})
    summary = groups.summarise(rows, quick=True)
    assert summary["p99_low_load_1_s"] == pytest.approx(0.01) and summary["p99_overload_1_s"] == pytest.approx(0.05)
    assert summary["throughput_adaptive_per_s"] == 407.0
    groups.show(rows, quick=True)
    groups.draw(rows, quick=True)
