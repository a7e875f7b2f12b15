"""Calibrated offloading on recorded logits: the decision rule, its measures by hand, kinds of temperatures."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mdi_exit.analysis.calibrated import (
    ECE_BINS,
    Decisions,
    Logits,
    LogitsError,
    RecordedLogits,
    decide,
    expected_calibration_error,
    latencies_s,
    missed_deadlines,
    outage,
    reliability,
)
from mdi_exit.errors import UserError
from mdi_exit.jsonfile import read_json
from mdi_exit.models.card import Card
from mdi_exit.softmax import softmax
from mdi_exit.training.calibrate import KINDS, temperatures_of

from .test_training import honest_logits, invoke, write_images

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "calibration" / "results.json"


def logits_of(shares: list[list[list[float]]]) -> NDArray[np.float32]:
    """Logits (K, N, classes) whose softmax is what is given datum by datum, exit by exit."""
    logits: NDArray[np.float32] = np.log(np.array(shares, dtype=np.float32).transpose(1, 0, 2))
    return logits


# three exits, two classes, four data: how sure each exit is of class 0
SURE = [[0.9, 0.6, 0.7], [0.6, 0.8, 0.2], [0.7, 0.6, 0.1], [0.3, 0.45, 0.6]]
FOUR = Logits(logits_of([[[p, 1 - p] for p in row] for row in SURE]), np.array([0, 0, 0, 1]))
PLAIN = (1.0, 1.0, 1.0)


def test_a_datum_is_answered_by_the_first_edge_branch_that_reaches_the_target() -> None:
    made = decide(FOUR, PLAIN, edge=2, target=0.75)
    assert made.branch.tolist() == [0, 1, 2, 2]
    # beyond the edge: the last exit is 0.9 sure of the wrong class; or nobody reaches it, and 0.7 for class 1 is most
    assert made.correct.tolist() == [True, True, False, True]
    assert (made.edge_share, made.edge_accuracy, made.accuracy) == (0.5, 1.0, 0.75)


def test_the_target_itself_is_enough_and_fewer_edge_branches_answer_less() -> None:
    sure = Logits(np.array([[[0.0, 0.0]], [[3.0, 0.0]]], dtype=np.float32), np.array([0]))
    assert decide(sure, (1.0, 1.0), edge=1, target=0.5).branch.tolist() == [0]
    assert decide(FOUR, PLAIN, edge=1, target=0.75).branch.tolist() == [0, 1, 1, 1]
    assert decide(FOUR, PLAIN, edge=2, target=1.0).edge_accuracy is None
    for edge in (0, 3):
        with pytest.raises(ValueError, match="branches at the edge of 3 exits"):
            decide(FOUR, PLAIN, edge, 0.5)


def test_the_far_side_runs_to_the_end_and_only_then_all_verdicts_count() -> None:
    """The second exit lies beyond the edge: it reaches the target, but is asked only when the last one does not."""
    rows = [[[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.9, 0.1], [0.3, 0.7]]]
    made = decide(Logits(logits_of(rows), np.array([1, 0])), PLAIN, edge=1, target=0.8 - 1e-6)
    assert made.branch.tolist() == [1, 1] and made.correct.tolist() == [True, True]


def test_a_temperature_changes_who_leaves_and_no_verdict() -> None:
    logits, labels = honest_logits(500)
    said = Logits(np.stack([3 * logits, 3 * logits]), labels)
    hot, cold = (decide(said, (t, t), edge=1, target=0.8) for t in (3.0, 1.0))
    assert 0 < hot.edge_share < cold.edge_share
    assert (hot.correct == cold.correct).all()
    assert hot.edge_accuracy is not None and cold.edge_accuracy is not None
    assert hot.edge_accuracy > 0.8 > cold.edge_accuracy, "claims of 3 times the logits are exaggerated"


def test_confidences_are_those_of_the_formula() -> None:
    logits, labels = honest_logits(50)
    found = Logits(logits[None], labels).confidence((1.7,))
    assert found.shape == (50, 1)
    shares = np.exp(logits.astype(np.float64) / 1.7)
    assert found[:, 0] == pytest.approx((shares / shares.sum(axis=1, keepdims=True)).max(axis=1))


def made_of(branch: list[int], correct: list[int], edge: int = 1) -> Decisions:
    return Decisions(np.array(branch), np.array(correct, dtype=np.bool_), edge)


def test_outage_counts_batches_whose_edge_accuracy_is_below_the_target() -> None:
    half = made_of([0, 0, 1, 1], [1, 0, 0, 0])  # the far side's mistakes are not the edge's
    assert outage(half, 0.5, batch=4, rounds=3, seed=0).mean == 0.0, "the target itself is no outage"
    assert outage(half, 0.51, batch=4, rounds=3, seed=0).mean == 1.0
    one_by_one = outage(half, 0.5, batch=1, rounds=3, seed=0)
    assert (one_by_one.mean, one_by_one.low, one_by_one.high) == (0.25, 0.25, 0.25), "no answer at the edge is none"
    assert outage(made_of([0] * 20, [1] * 11 + [0] * 9), 0.55, batch=20, rounds=1, seed=0).mean == 0.0


def test_outage_over_shuffled_batches_is_what_chance_makes_of_it() -> None:
    """Pairs out of 2 right and 2 wrong: both wrong in a third of the ways, and then the others are both right."""
    found = outage(made_of([0] * 4, [1, 1, 0, 0]), 0.5, batch=2, rounds=4000, seed=1)
    assert found.mean == pytest.approx(1 / 6, abs=0.02) and found.low < 1 / 6 < found.high
    assert outage(made_of([0] * 4, [1, 1, 0, 0]), 0.5, batch=2, rounds=9, seed=1) == outage(
        made_of([0] * 4, [1, 1, 0, 0]), 0.5, batch=2, rounds=9, seed=1
    )
    with pytest.raises(ValueError, match="batches of 5 of 4"):
        outage(made_of([0] * 4, [1] * 4), 0.5, batch=5, rounds=1, seed=0)


def test_latencies_add_up_to_where_the_answer_was() -> None:
    made = made_of([0, 1, 2], [1, 1, 1], edge=2)
    took_s = latencies_s(made, (1.0, 2.0, 4.0), (0.1, 0.2, 0.4), (3072, 800, 500, 0), uplink_bps=1000)
    assert took_s.tolist() == pytest.approx([1.0, 3.0, 3.0 + 4.0 + 0.4])


def test_a_deadline_is_missed_by_time_or_by_accuracy() -> None:
    made = made_of([0, 0, 1, 1], [1, 1, 1, 0])
    took_s = np.array([1.0, 1.0, 5.0, 5.0])
    found = missed_deadlines(made, took_s, 0.75, (2.9, 3.0), batch=4, rounds=2, seed=0)
    assert [each.mean for each in found] == [1.0, 0.0], "the mean of the batch is 3 s"
    assert missed_deadlines(made, took_s, 0.76, (99.0,), batch=4, rounds=2, seed=0)[0].mean == 1.0


def test_a_reliability_diagram_adds_up_to_the_calibration_error() -> None:
    logits, labels = honest_logits(1000)
    confidence = softmax(2 * logits).max(axis=1)
    correct = logits.argmax(axis=1) == labels
    bars = reliability(confidence, correct)
    assert sum(count for _, _, count in bars) == 1000 and len(bars) <= ECE_BINS
    by_hand = sum(count * abs(right - claimed) for claimed, right, count in bars) / 1000
    assert expected_calibration_error(confidence, correct) == pytest.approx(by_hand)


# ---- recorded logits


def recorded() -> RecordedLogits:
    return RecordedLogits(FOUR, FOUR.at_most(3, 0), (3072, 800, 500, 0), "b_alexnet@32", "net@1")


def test_recorded_logits_survive_the_file_in_sixteen_bits(tmp_path: Path) -> None:
    for name in ("one", "two"):
        recorded().save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = RecordedLogits.load(tmp_path / "one")
    assert read.validation.logits == pytest.approx(FOUR.logits, abs=2e-3)
    assert (read.validation.label == FOUR.label).all() and read.test.logits.shape == (3, 3, 2)
    assert (read.payload_bytes, read.model, read.card) == ((3072, 800, 500, 0), "b_alexnet@32", "net@1")


@pytest.mark.parametrize(("changes", "message"), [
    ({"card": None}, "array card is missing"),
    ({"test_label": np.array([0, 1])}, "K x N x classes"),
    ({"test_label": np.array([0, 1, 2])}, "labels must lie in 0..1"),
    ({"test_logits": np.full((3, 3, 2), np.nan)}, "not a number"),
    ({"model": np.array([{}], dtype=object)}, "not readable"),
])  # fmt: skip
def test_logits_that_contradict_themselves_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "logits.npz"
    recorded().save(path)
    with np.load(path) as content:
        arrays = {**content, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(LogitsError, match=f"logits.npz: .*{message}"):
        RecordedLogits.load(path)
    with pytest.raises(LogitsError, match=r"none.npz: no such file"):
        RecordedLogits.load(tmp_path / "none.npz")


# ---- kinds of temperatures


def exaggerated() -> Logits:
    """Two exits: where the first is sure it exaggerates twofold, elsewhere not at all; the second threefold."""
    logits, labels = honest_logits(6000)
    sure = softmax(2 * logits).max(axis=1) >= 0.8
    return Logits(np.stack([np.where(sure[:, None], 2 * logits, logits), 3 * logits]), labels)


def test_each_kind_is_fitted_to_its_own_images() -> None:
    said = exaggerated()
    found = {kind: temperatures_of(kind, said, leave_at=0.8) for kind in KINDS}
    assert found["conventional"] == (1.0, 1.0)
    assert found["per-exit-leaving"] == pytest.approx((2.0, 3.0), rel=0.12)
    assert found["per-exit"][1] == pytest.approx(3.0, rel=0.06)
    assert found["global"][0] == found["global"][1]
    assert 2.0 < found["global"][0] < 3.0, "between what leaves at the first exit and what leaves at the second"


def test_an_exit_where_none_leaves_keeps_its_logits() -> None:
    logits, labels = honest_logits(200)
    said = Logits(np.stack([0 * logits, logits]), labels)
    assert temperatures_of("per-exit-leaving", said, leave_at=0.8)[0] == 1.0


def test_the_card_says_which_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, net = write_images(tmp_path / "data.zip", 24), tmp_path / "net"
    words = ("--epochs", "1", "--batch-size", "9", "--image-size", "16", "--threads", "1", "--device", "cpu")
    assert invoke("train", "--model", "b_alexnet", "--data", data, "--out", net, "--lr", "0.01", *words) == 0
    given = ("calibrate", net / "network", "--data", data, "--out", tmp_path / "out", "--separate")
    for kind in KINDS:
        assert invoke(*given, "--kind", kind) == 0
        card = Card.load(tmp_path / "out" / "network.json")
        assert card.calibration == kind and card.promise is None
        assert (kind == "conventional") == (card.temperatures == (1.0, 1.0, 1.0))
        if kind != "per-exit-leaving":  # those of so few images that few leave may all come to rest at the bound
            assert (kind in ("global", "conventional")) == (len(set(card.temperatures)) == 1)
        assert json.loads((tmp_path / "out" / "calibration.json").read_text())["kind"] == kind
    with pytest.raises(UserError, match="--kind platt: allowed are per-exit, per-exit-leaving, global, conventional"):
        invoke(*given, "--kind", "platt")
    with pytest.raises(UserError, match="--keep-logits 5: needs --test"):
        invoke(*given, "--keep-logits", "5")
    assert invoke(*given, "--keep-logits", "9", "--test", data) == 0
    read = RecordedLogits.load(tmp_path / "out" / "logits.npz")
    assert read.validation.logits.shape == read.test.logits.shape == (3, 9, 2)
    assert read.model == "b_alexnet@16" and read.payload_bytes == (768, 64 * 8 * 8 * 4, 96 * 4 * 4 * 4, 0)
    assert read.card == Card.load(tmp_path / "out" / "network.json").identity


# ---- the benchmark


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/calibration.py; a benchmark is a script: its folder is the first place where it looks for modules."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("calibration")
    for name in ("calibration", "calibration_figures", "harness"):
        sys.modules.pop(name, None)


def test_committed_results_follow_from_the_committed_logits(benchmark: ModuleType) -> None:
    results = read_json(RESULTS)
    assert not results["quick"] and results["summary"]["guard_held"] == 1
    for name, edge in benchmark.EDGE.items():
        net = benchmark.network(name)
        found = benchmark.exits_of(net)
        written = [row for row in results["rows"] if row["measure"] == "exit" and row["network"] == name]
        assert len(found) == len(written) == len(KINDS) * len(net.recorded.test.logits)
        for now, then in zip(found, written, strict=True):
            assert now == {**then, **{key: pytest.approx(then[key], rel=1e-4) for key in ("temperature", "ece")}}
        for kind, temperatures in net.temperatures.items():
            made = decide(net.recorded.test, temperatures, edge, benchmark.TARGET)
            row = benchmark.row_of(results["rows"], name, edge, kind)
            assert row["edge_share"] == pytest.approx(made.edge_share, abs=1e-4)
            assert row["accuracy"] == pytest.approx(made.accuracy, abs=1e-4)


def test_the_document_shows_the_committed_results(benchmark: ModuleType) -> None:
    results = read_json(RESULTS)
    text = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
    lines = benchmark.markdown(results["rows"])
    assert len(lines) > 10 and [line for line in lines if line not in text] == []


def test_a_quick_run_of_the_benchmark_says_what_it_found(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "TARGETS", (0.5, benchmark.TARGET))
    monkeypatch.setattr(sys, "argv", ["benchmarks/calibration.py", "--quick", "--out", str(tmp_path)])
    benchmark.benchmark()
    summary = read_json(tmp_path / "results.json")["summary"]
    for name in ("outage_conventional", "outage_global", "outage_per_branch", "ece_before", "ece_after"):
        assert 0 <= summary[name] <= 1
    assert summary["ece_after"] < summary["ece_before"], "B-AlexNet was trained to be overconfident"
    assert summary["outage_conventional"] > summary["outage_per_branch"]
    assert summary["guarantee_failure_rate"] < summary["guarantee_failure_rate_naive"]
    assert "Uncalibrated, it misses its target more often" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("*.png")} == {"decisions.png", "deadlines.png", "reliability.png"}
