"""What benchmarks share, and what they conclude from their rows; the measurements themselves are no tests."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mdi_exit.analysis import plots
from mdi_exit.jsonfile import read_json

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A benchmark is a script: its folder is the first place where it looks for modules."""
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in ("harness", "workers"):
        sys.modules.pop(name, None)


def harness() -> ModuleType:
    return importlib.import_module("harness")


def chosen(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["benchmarks/some.py", *arguments])
    return harness().options("some", "Is it so?", repetitions=3)


def test_options_have_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    full, quick = chosen(monkeypatch), chosen(monkeypatch, "--quick", "--seed", "4", "--out", "x")
    assert (full.quick, full.repetitions, full.out) == (False, 3, Path("runs/benchmark-some"))
    assert (quick.quick, quick.repetitions, quick.seed, quick.out) == (True, 1, 4, Path("x"))
    assert chosen(monkeypatch, "--quick", "--repetitions", "5").repetitions == 5
    with pytest.raises(SystemExit) as ended:
        chosen(monkeypatch, "--repetitions", "0")
    assert ended.value.code == 2


def test_cases_take_turns_every_other_time_backwards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = list(harness().turns(["a", "b", "c"], chosen(monkeypatch, "--repetitions", "3")))
    assert order == [(0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "b"), (1, "a"), (2, "a"), (2, "b"), (2, "c")]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "[1/9] a" and said[8].startswith("[9/9] c, ") and said[8].endswith(" s left")


def test_a_spread_is_the_median_with_its_ends() -> None:
    assert str(harness().spread([3.0, 1.0, 2.0])) == "2.0 (1.0 to 3.0)"
    assert str(harness().spread([2.5])) == "2.5"


def test_results_are_written_under_the_contracts_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = chosen(monkeypatch, "--quick", "--out", str(tmp_path / "new"))
    with plots.style():
        figure = plots.new_figure(4, 3)
        figure.subplots().plot([1, 2])
    harness().conclude(options, {"rate": 1 / 3}, [{"rate": 0.25}], [(figure, "rates")])
    content = read_json(tmp_path / "new" / "results.json")
    assert set(content) == {"benchmark", "command", "seed", "machine", "quick", "summary", "rows"}
    assert content["summary"] == {"rate": 0.333333} and content["rows"] == [{"rate": 0.25}]
    assert content["command"] == "python benchmarks/some.py --quick --out new"
    assert (tmp_path / "new" / "rates.png").exists() and (tmp_path / "new" / "rates.svg").exists()
    assert "results.json, rates.png, rates.svg" in capsys.readouterr().out


def rows(workers: ModuleType, **changes: Any) -> list[dict[str, Any]]:
    """What a perfect machine would measure."""
    answer = []
    for case in workers.CASES:
        count = {"local": 1, "2-node": 2, "3-node-mesh": 3, "5-node-mesh": 5}[case.topology]
        possible = 25.0 * count / (0.5 if case.threshold < 1 else 1.0)
        row = {
            "topology": case.topology,
            "threshold": case.threshold,
            "workers": count,
            "rate_per_s": 0.9 * possible,
            "accuracy": 0.8,
            "possible_per_s": possible,
            "utilization": 0.9,
            "latency_p50_s": 0.1,
            "lost": 0,
            "pace_missed": 0.0,
        }
        answer += [{**row, "repetition": repetition, **changes} for repetition in range(3)]
    return answer


def test_workers_are_found_to_help(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    workers = importlib.import_module("workers")
    measured = rows(workers)
    summary = workers.summarise(measured)
    assert summary["grows_with_workers_exits"] == summary["grows_with_workers_full"] == summary["guard_held"] == 1
    assert summary["speedup_5_node_mesh_exits"] == pytest.approx(5) and summary["lost"] == 0
    assert summary["gain_of_exits_3_node_mesh"] == pytest.approx(2)
    assert summary["rate_local_full_per_s"] == pytest.approx(22.5)
    workers.show(measured, summary)
    printed = capsys.readouterr().out
    assert "Guard: no rate above what the devices can do: held" in printed and "kept the devices' pace" in printed
    assert len(plots.save(workers.draw(measured), tmp_path, "workers")) == 2


def test_a_rate_that_cannot_be_is_called_out(capsys: pytest.CaptureFixture[str]) -> None:
    workers = importlib.import_module("workers")
    measured = rows(workers, rate_per_s=100.0, pace_missed=0.2)
    summary = workers.summarise(measured)
    assert summary["guard_held"] == 0 and summary["guard_worst"] == 4 and summary["grows_with_workers_full"] == 0
    workers.show(measured, summary)
    printed = capsys.readouterr().out
    assert "BROKEN" in printed and "too low" in printed


def test_the_share_computed_is_where_images_left() -> None:
    workers = importlib.import_module("workers")
    times_s = (1.0, 2.0, 1.0)
    assert workers._fraction([0, 0, 7], times_s) == 1.0
    assert workers._fraction([1, 0, 1], times_s) == pytest.approx((1 + 4) / 2 / 4)
    assert workers._fraction([0, 0, 0], times_s) == 1.0
