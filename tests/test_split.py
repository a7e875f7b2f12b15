"""What benchmarks/split.py concludes from its rows, how it chooses thresholds, and the example in docs/splitee.md."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mdi_exit.analysis import plots
from mdi_exit.errors import UserError
from mdi_exit.jsonfile import read_json
from mdi_exit.policies.splitting import Setting
from mdi_exit.trace import ExitTrace
from mdi_exit.training.text import TextTraining, run_text_training

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A benchmark is a script: its folder is the first place where it looks for modules."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield
    for name in ("harness", "recordings", "split", "distorted"):
        sys.modules.pop(name, None)


def split() -> ModuleType:
    return importlib.import_module("split")


def test_the_text_networks_exits_are_surer_and_better_the_deeper_they_are() -> None:
    traces = [
        ExitTrace.load(ROOT / "benchmarks/data/text_transformer" / f"{part}.trace.npz") for part in ("dev", "test")
    ]
    assert [len(trace) for trace in traces] == [872, 1821] and traces[0].card == traces[1].card
    made = read_json(ROOT / "benchmarks/data/text_transformer/training.json")
    for trace, part in zip(traces, ("dev", "test"), strict=True):
        assert trace.exits == 12 and made[part]["accuracy"] == pytest.approx(trace.accuracy(), rel=1e-5)
        confidence = trace.confidence.mean(axis=0)
        assert confidence[0] < confidence[2] < confidence[5] and trace.accuracy()[0] + 0.02 < trace.accuracy()[-1]


def test_the_cheapest_threshold_that_loses_little_is_chosen() -> None:
    recordings = importlib.import_module("recordings")
    setting = Setting((1.0, 9.0))
    sure_and_right, sure_and_wrong, doubtful = (0.95, 0.75), (0.82, 0.75), (0.6, 0.75)
    rows = [sure_and_right] * 50 + [sure_and_wrong] * 25 + [doubtful] * 25
    right = [[True, True]] * 50 + [[False, True]] * 50
    # 0.85 is the first that offloads all that exit 1 would get wrong, 1 offloads more
    assert recordings.choose_threshold(rows, right, setting) == 0.85
    assert recordings.choose_threshold(rows, [[True, True]] * 100, setting) <= 0.6
    beyond = [[False, True]] * 100  # whatever leaves at exit 1 is wrong
    assert recordings.choose_threshold(rows, beyond, setting) == 1.0


def test_an_interval_is_students() -> None:
    mean, half = split().interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert split().interval([5.0]) == (5.0, 0.0)


@pytest.mark.parametrize(("name", "grows"), [("log", math.log), ("root", math.sqrt), ("linear", float)])
def test_the_fit_that_made_a_curve_is_found(name: str, grows: Any) -> None:
    at = split().times(20000)
    found = split().fits({"t": at, "regret_mean": [3 + 2 * grows(t) for t in at]})
    assert found[name] == pytest.approx(1) and max(found, key=found.__getitem__) == name
    assert sorted(found.values())[1] < 0.98
    kinked = [100 * t if t < 2000 else 10 * grows(t) for t in at]
    assert split().fits({"t": at, "regret_mean": kinked}, since=2000)[name] == pytest.approx(1)


def quick_rows(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["split.py", "--quick"])
    chosen = dataclasses.replace(importlib.import_module("harness").options("split", "?", 20), repetitions=2)
    return [module.measure(case) for case in module.cases_of(chosen)]


def test_a_quick_run_has_every_figure_and_draws_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module = split()
    rows = quick_rows(module, monkeypatch)
    summary = module.summarise(rows)
    assert {"cost_cut", "accuracy_drop_points", "regret_ratio_to_random", "splitee_s_regret_ratio"} <= set(summary)
    assert all(math.isfinite(value) for value in summary.values())
    assert 0 < summary["regret_ratio_to_random"] < 1
    for row in rows:
        assert row.get("regret", 0) >= 0 and (row["algorithm"] != "best split" or row["regret"] == 0)
        assert row["algorithm"] != "final exit" or row["cost"] == pytest.approx({"text": 1.2}.get(row["backbone"], 1.9))
    module.show(rows, summary)
    printed = capsys.readouterr().out
    assert "cost cut above 50 %" in printed and "SplitEE-S regrets less" in printed
    for figure in (module.draw_costs(rows), module.draw_regret(rows)):
        assert len(plots.save(figure, tmp_path, "figure")) == 2


def test_goals_that_are_missed_are_called_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = split()
    missed = {"cost_cut": 0.4, "accuracy_drop_points": 2.5, "splitee_s_regret_ratio": 1.2}
    monkeypatch.setattr(module, "BACKBONES", {})
    module.show([], missed)
    assert capsys.readouterr().out.count("NOT MET") == 3


def test_training_writes_recordings_and_says_how_they_were_made(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for part, count in (("train", 40), ("dev", 12), ("test", 10)):
        lines = [f"{'good' if n % 2 else 'bad'} film\t{n % 2}" for n in range(count)]
        (data / f"{part}.tsv").write_text("\n".join(lines), encoding="utf-8")
    options = TextTraining(layers=2, epochs=1, batch_size=8)
    run_text_training(data, tmp_path / "out", ("negative", "positive"), options)
    made = read_json(tmp_path / "out" / "training.json")
    traces = [ExitTrace.load(tmp_path / "out" / f"{part}.trace.npz") for part in ("dev", "test")]
    assert [len(trace) for trace in traces] == [12, 10] and made["options"]["epochs"] == 1
    assert np.allclose(made["test"]["confidence"], traces[1].confidence.mean(axis=0), rtol=1e-4)
    (data / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"dev\.tsv"):
        run_text_training(data, tmp_path / "out", ("negative", "positive"), options)


def test_the_example_of_the_document_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    example = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "splitee.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    exec(compile(example[1], "docs/splitee.md", "exec"), {})
    accuracy, cost, best, regret = (float(word) for word in capsys.readouterr().out.split())
    assert 0.8 < accuracy < 0.9 and 0.4 < cost < 1.9 and best == 1 and 0 < regret < 100


def test_distorted_images_are_blurred_or_noisy_and_their_recordings_are_what_the_results_say() -> None:
    module = importlib.import_module("distorted")
    images = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    images[:, :, 16] = 200
    blurred, noisy = (module.distorted(images, name, np.random.default_rng(0)) for name in ("blur 1", "noise 20"))
    assert blurred.shape == noisy.shape == images.shape and module.distorted(images, "none", None) is images
    assert 0 < blurred[0, 0, 15, 0] < blurred[0, 0, 16, 0] < 200 and (blurred[:, :, :8] == 0).all()
    assert np.std(noisy[:, :, 16].astype(float)) == pytest.approx(20, rel=0.3)
    rows = read_json(ROOT / "benchmarks/results/distorted/results.json")["rows"]
    for row in (row for row in rows if row["algorithm"] == "final exit"):
        trace = ExitTrace.load(module.trace_file(row["distortion"]))
        assert row["accuracy"] == pytest.approx(trace.accuracy()[-1], rel=1e-4) and row["samples"] == len(trace)
