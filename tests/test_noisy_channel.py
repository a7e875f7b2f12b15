"""benchmarks/noisy_channel.py: the recordings it ships, what it refuses, what its summary is made of."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mdi_exit.analysis.transmission import RecordedLink, Sent, at, enough, tuned
from mdi_exit.config.load import load_experiment
from mdi_exit.errors import UserError
from mdi_exit.models import checkpoint
from mdi_exit.models.analog import AnalogBottleneck
from mdi_exit.models.card import BottleneckConfig
from mdi_exit.policies.over_channel import TransmissionExit
from mdi_exit.policies.transmission import ConfidenceTransmission, SnrThreshold

from .networks import noise, save_untrained

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
RECORDINGS = {cut: BENCHMARKS / "data" / "noisy_channel" / f"cut-{cut}.npz" for cut in (1, 2)}


@pytest.mark.parametrize("cut", RECORDINGS)
def test_the_shipped_recordings_are_of_both_cuts(cut: int) -> None:
    link = RecordedLink.load(RECORDINGS[cut])
    assert (link.cut, link.uses, set(link.validation), set(link.test)) == (cut, 128, *[{"none", "rayleigh"}] * 2)
    test = link.test["none"]
    assert len(test.label) >= 4000 and len(link.validation["none"].label) >= 2000
    accuracy = test.far_right.mean(axis=1)
    assert (np.diff(accuracy) > -0.02).all() and accuracy[0] < test.early_right.mean() < accuracy[-1]
    gain = 10 ** ((link.test["rayleigh"].snr_db - link.test["rayleigh"].mean_db[:, None]) / 10)
    assert gain.mean() == pytest.approx(1.0, abs=0.03)


def test_the_shipped_link_and_the_example_are_those_that_the_second_recording_is_of() -> None:
    network, card = checkpoint.load("mobilenetv2-cifar10-analog")
    link = RecordedLink.load(RECORDINGS[2])
    assert card.model.analog is not None and (card.model.analog.cut, card.model.analog.uses) == (link.cut, link.uses)
    assert isinstance(network.bottlenecks["2"], AnalogBottleneck) and link.card == card.identity
    rule = load_experiment("noisy-channel").exit
    assert isinstance(rule, TransmissionExit) and isinstance(rule.decision, SnrThreshold)
    aware = tuned(link.validation["none"])
    assert (rule.cut, rule.decision.snr_db) == (2, aware.snr_db)
    assert rule.decision.thresholds == pytest.approx(aware.thresholds, abs=0.005)


def test_a_good_exit_saves_most_transmissions_at_a_high_snr_and_a_weak_one_few() -> None:
    saved = {}
    for cut, path in RECORDINGS.items():
        link = RecordedLink.load(path)
        held, test = (at(part["none"], -1 % 7) for part in (link.validation, link.test))
        limit = enough(-held.confidence[None], held, float(held.far_right.mean()))
        assert limit is not None
        transmitted = -test.confidence[None] > limit
        assert float(test.accuracy(transmitted)[0]) > float(test.far_right.mean()) - 0.01
        saved[cut] = 1 - float(transmitted.mean())
    assert saved[2] > 0.4 > 0.25 > saved[1]


@pytest.mark.parametrize(("words", "message"), [
    (["--uses", "0"], "uses is 0; allowed: 1 or more channel uses"),
    (["--snr-db", "20", "-10"], "the SNR range is 20 to -10 dB; allowed: from low to high"),
    (["--epochs", "0"], "cut and epochs of 1 or more"),
    (["--cut", "0"], "cut and epochs of 1 or more"),
])  # fmt: skip
def test_training_refuses_what_cannot_be_before_it_reads_anything(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("noisy_channel")
    monkeypatch.setattr(sys, "argv", ["noisy_channel.py", "--train", "nowhere", "--test", "nowhere", *words])
    with pytest.raises(SystemExit) as ended:
        benchmark.benchmark()
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(("bottlenecks", "size", "cut", "message"), [
    ((), 32, 5, r"cut is 5; allowed: 1 to 4, as .*own\.safetensors has them"),
    ((BottleneckConfig(3, 8),), 32, 3, r"own\.safetensors: has a bottleneck or a link at the cut already"),
    ((), 48, 3, r"cut is 3 of .*own\.safetensors: the feature is \(64, 6, 6\); allowed: .* multiples of 4"),
])  # fmt: skip
def test_a_cut_where_no_link_can_be_is_one_line_before_any_image_is_read(
    bottlenecks: tuple[BottleneckConfig, ...], size: int, cut: int, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    own = save_untrained(tmp_path / "base" / "own", bottlenecks=bottlenecks, size=size)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    training = importlib.import_module("noisy_training")
    words = ["--train", "nowhere", "--test", "nowhere", "--model", str(own), "--out", str(tmp_path / "link")]
    with pytest.raises(UserError, match=message) as refused:
        training.train([*words, "--cut", str(cut)])
    assert "\n" not in str(refused.value) and not (tmp_path / "link").exists()


def test_training_beside_an_own_network_ends_with_a_checkpoint_that_loads_and_its_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, image in enumerate(noise(24)):
        folder = tmp_path / "images" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:02}.png")
    network, card = checkpoint.load(save_untrained(tmp_path / "base" / "own"))
    card = dataclasses.replace(card, data_images=24, validation_share=0.25)
    checkpoint.save(tmp_path / "base" / "own", network, card)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    training = importlib.import_module("noisy_training")
    monkeypatch.chdir(tmp_path)
    training.train(["--train", "images", "--test", "images", "--model", "base/own.safetensors", "--out", "link",
                    "--cut", "3", "--uses", "5", "--epochs", "1"])  # fmt: skip
    _, made = checkpoint.load("link/own-analog")
    assert made.model.analog is not None and made.model.analog.uses == 5 and made.base == "own"
    assert (made.model.analog.cut, made.model.analog.shape) == (3, (64, 4, 4))
    link = RecordedLink.load(Path("link") / "cut-3.npz")
    assert link.cut == 3 and (len(link.validation["none"].label), len(link.test["rayleigh"].label)) == (6, 24)


# ---- what the summary is made of, on a recording that is made up


def made_up(count: int, seed: int) -> Sent:
    """An exit that is right where its confidence is above a half, a far side that is right on nine in ten at 20 dB."""
    generator = np.random.default_rng(seed)
    confidence, label = generator.random(count), generator.integers(0, 9, count)
    mean_db = np.array([-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0])
    far_right = generator.random((7, count)) < np.linspace(0.3, 0.9, 7)[:, None]
    snr_db = np.repeat(mean_db[:, None], count, axis=1)
    prediction, far = np.where(confidence > 0.5, label, label + 1), np.where(far_right, label, label + 1)
    return Sent(confidence, 1.0 - confidence, prediction, label, mean_db, snr_db, far)


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("noisy_judging")


def a_judged(judging: Any, scores: dict[str, Any] | None = None) -> Any:
    held, test = made_up(2000, 1), made_up(3000, 2)
    link = RecordedLink({"none": held}, {"none": test}, 0.95, 2, 4, 100, "net@1.0")
    rule = ConfidenceTransmission(0.5)  # as good as a learned one can be here
    return judging.Judged(link, rule, {"none": scores or {"learned": test.scores(rule, 0)}})


def test_savings_are_chosen_on_held_out_images_and_counted_on_test_images(judging: Any) -> None:
    judged = a_judged(judging)
    none, some, many = (judging.saved(judged, loss, 100, 0) for loss in (0.0, 0.5, 40.0))
    test = judged.link.test["none"]
    # fewest: of the half where the exit is wrong, as many as it takes to reach nine in ten again
    assert none["saved"] == pytest.approx(0.5 + 0.05 / 0.9, abs=0.03)
    assert none["anew_low"] < none["low"] < none["saved"] < none["high"] < none["anew_high"]
    assert none["change_low"] < none["change_points"] < 2.0
    limit = enough(
        at(judged.link.validation["none"], 6).scores(judged.learned, 0), at(judged.link.validation["none"], 6),
        float(judged.link.validation["none"].far_right[6].mean()),
    )  # fmt: skip
    assert limit is not None
    sent = judged.scores["none"]["learned"][6] > limit
    assert none["saved"] == pytest.approx(1 - sent.mean())
    change = np.where(sent, test.far_right[6], test.early_right).mean() - test.far_right[6].mean()
    assert none["change_points"] == pytest.approx(100 * change)
    assert none["saved"] < some["saved"] < many["saved"] and some["change_points"] < none["change_points"]
    assert many["change_points"] == pytest.approx(-40.0, abs=4.0)


def test_the_highest_are_those_that_a_trade_off_takes(judging: Any) -> None:
    scores = np.array([[0.1, 0.9, 0.5], [0.9, 0.2, 0.9]])
    assert judging.highest(scores, 1 / 3).tolist() == [[False, True, False], [True, False, False]]
    assert not judging.highest(scores, 0.0).any() and judging.highest(scores, 1.0).all()
    test = made_up(500, 3)
    drawn = np.random.default_rng(0).random((7, 500))
    for share in (0.2, 0.7):
        right = np.where(judging.highest(drawn, share), test.far_right, test.early_right).mean()
        assert judging.trade_off(drawn, test, [share]) == pytest.approx([right])


def test_gains_at_equal_transmissions_are_those_over_one_threshold_moved_to_as_many(judging: Any) -> None:
    test = made_up(2000, 4)
    one = ConfidenceTransmission(0.4)
    by_snr = test.scores(one, 0) + np.linspace(-0.3, 0.3, 7)[:, None]
    scores = {"always": np.ones_like(by_snr), "never": -np.ones_like(by_snr), "confidence": test.scores(one, 0)}
    scores |= {"learned": by_snr, "SNR-aware": test.scores(one, 0), "genie": test.gain - 0.5}
    found = judging._gains(test, scores, "", 50, 0)
    share = float((scores["confidence"] > 0).mean())
    better, plain = (judging.trade_off(each, test, [share])[0] for each in (by_snr, scores["confidence"]))
    assert found["decider_gain_at_equal_transmissions_points"] == pytest.approx(100 * (better - plain))
    assert found["snr_aware_gain_at_equal_transmissions_points"] == found["snr_aware_gain_points"] == 0.0
    ahead = [
        100 * (judging.trade_off(by_snr, test, [each])[0] - judging.trade_off(scores["confidence"], test, [each])[0])
        for each in judging.SHARES[1:-1]
    ]
    assert found["decider_least_gain_at_any_share_points"] == pytest.approx(min(ahead))
    assert found["decider_mean_gain_over_shares_points"] == pytest.approx(float(np.mean(ahead)))
    assert judging.SHARES[1:-1][int(np.argmin(ahead))] == found["decider_least_gain_share"]
    low = test.accuracy(by_snr > 0)[0] - test.far_right[0].mean()
    assert found["low_snr_gain_points"] == pytest.approx(100 * low)
