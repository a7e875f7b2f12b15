"""Transmission decisions: each rule, what tunes them, and the recordings they are judged on."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdi_exit.analysis import transmission as judged
from mdi_exit.analysis.decider import fit_decider
from mdi_exit.analysis.transmission import RecordedLink, RecordingError, Sent
from mdi_exit.core.types import ExitReading
from mdi_exit.policies import transmission as rules


def reading(confidence: float, entropy: float = 0.5, prediction: int = 0) -> ExitReading:
    return ExitReading(confidence, prediction, entropy)


def transmits(rule: rules.TransmissionPolicy, said: ExitReading, snr_db: float = 0.0) -> bool:
    return rule.score(said, snr_db, random.Random(0)) > 0


# ---- the rules


def test_always_and_never_look_at_nothing() -> None:
    for confidence in (0.0, 1.0):
        assert transmits(rules.AlwaysTransmit(), reading(confidence))
        assert not transmits(rules.NeverTransmit(), reading(confidence))


def test_the_random_rule_transmits_its_share() -> None:
    rng = random.Random(0)
    sent = sum(rules.RandomTransmission(0.3).score(reading(0.5), 0.0, rng) > 0 for _ in range(5000))
    assert sent / 5000 == pytest.approx(0.3, abs=0.02)
    for share in (0.0, 1.0):
        assert all((rules.RandomTransmission(share).score(reading(0.5), 0.0, rng) > 0) == share for _ in range(50))


def test_confidence_below_and_entropy_above_the_threshold_transmit() -> None:
    rule = rules.ConfidenceTransmission(0.8)
    assert [transmits(rule, reading(c)) for c in (0.79, 0.8, 0.81)] == [True, False, False]
    by_entropy = rules.EntropyTransmission(0.5)
    assert [transmits(by_entropy, reading(0.5, nats)) for nats in (0.49, 0.5, 0.51)] == [False, False, True]


def test_the_snr_threshold_is_linear_between_its_points_and_flat_beyond() -> None:
    rule = rules.SnrThreshold((-10.0, 0.0, 20.0), (0.0, 0.6, 0.9))
    found = [rule.threshold(snr_db) for snr_db in (-30.0, -10.0, -5.0, 0.0, 10.0, 20.0, 50.0)]
    assert found == pytest.approx([0.0, 0.0, 0.3, 0.6, 0.75, 0.9, 0.9])
    assert not transmits(rule, reading(0.2), -10.0) and transmits(rule, reading(0.2), 0.0)


def test_the_learned_rule_computes_what_its_weights_say() -> None:
    rule = rules.LearnedTransmission(
        hidden=((0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, 2.0, -0.5)),
        output=((1.0, 0.0, 0.1), (0.0, 1.0, 0.2)),
        price=0.05,
    )
    assert rule.classes == 2
    # the first unit is the SNR's place (20 - 5) / 15 = 1, the second confidence + 2 (of class 1) - 0.5
    far, early = 1 / (1 + math.exp(-1.1)), 1 / (1 + math.exp(-(0.7 + 2.0 - 0.5 + 0.2)))
    score = rule.score(reading(0.7, prediction=1), 20.0, random.Random(0))
    assert score == pytest.approx(far - early - 0.05)
    assert rule.score(reading(0.7, prediction=1), -20.0, random.Random(0)) < score  # a worse channel


@pytest.mark.parametrize(("early", "far", "sends"), [(0, 1, True), (1, 1, False), (1, 0, False), (0, 0, False)])
def test_the_genie_transmits_when_only_the_far_side_is_right(early: int, far: int, sends: bool) -> None:
    assert rules.genie(bool(early), bool(far)) is sends


@pytest.mark.parametrize(("kind", "options", "message"), [
    (rules.RandomTransmission, {"share": 1.1}, "share is 1.1; allowed: 0 to 1"),
    (rules.ConfidenceTransmission, {"threshold": -0.1}, "threshold is -0.1"),
    (rules.EntropyTransmission, {"threshold": math.nan}, "threshold is nan"),
    (rules.SnrThreshold, {"snr_db": (0.0,), "thresholds": (0.1, 0.2)}, "thresholds has 2 entries for 1 SNRs"),
    (rules.SnrThreshold, {"snr_db": (), "thresholds": ()}, "0 SNRs"),
    (rules.SnrThreshold, {"snr_db": (5.0, -5.0), "thresholds": (0.1, 0.2)}, "from low to high"),
    (rules.SnrThreshold, {"snr_db": (0.0, math.nan), "thresholds": (0.1, 0.2)}, "finite, from low to high"),
    (rules.SnrThreshold, {"snr_db": (0.0,), "thresholds": (1.1,)}, "allowed: 0 to 1"),
    (rules.LearnedTransmission, {"hidden": ((1.0,) * 7,), "output": ((1.0, 0.0),)}, "output two rows"),
    (rules.LearnedTransmission, {"hidden": ((1.0,) * 5,), "output": ((1.0, 0.0),) * 2}, "a row of hidden has 5"),
    (rules.LearnedTransmission, {"hidden": ((math.inf,) * 7,), "output": ((1.0, 0.0),) * 2}, "not a number"),
    (rules.LearnedTransmission, {"hidden": ((1.0,) * 7,), "output": ((1.0, 0.0),) * 2, "price": 2.0}, "price is 2"),
])  # fmt: skip
def test_a_rule_that_cannot_be_is_refused(kind: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


# ---- tuning and judging, on a recording that is made up


def made_up(count: int = 400, seed: int = 0) -> Sent:
    """An exit as right as it is sure, and a far side that is right in 20, 60 and 90 % at -10, 0 and 10 dB."""
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.3, 1.0, count)
    label = generator.integers(0, 3, count)
    right = generator.random(count) < confidence
    mean_db = np.array([-10.0, 0.0, 10.0])
    far_right = generator.random((3, count)) < np.array([[0.2], [0.6], [0.9]])
    far = np.where(far_right, label, (label + 1) % 3)
    nats = -np.log(confidence)
    snr_db = np.repeat(mean_db[:, None], count, axis=1)
    return Sent(confidence, nats, np.where(right, label, (label + 2) % 3), label, mean_db, snr_db, far)


def test_the_best_limit_is_the_best_of_all_limits() -> None:
    sent = made_up()
    for number, price in ((0, 0.0), (1, 0.0), (2, 0.0), (2, 0.2)):
        doubt, gain = 1 - sent.confidence, sent.gain[number]
        limit = judged.best_limit(doubt, gain, price)
        earned = float((gain - price)[doubt > limit].sum())
        tried = [float((gain - price)[doubt > other].sum()) for other in np.linspace(-0.1, 1.1, 400)]
        assert earned >= max(tried) - 1e-9
    assert judged.best_limit(np.array([0.1, 0.2]), np.array([-1.0, -1.0])) == math.inf
    assert judged.best_limit(np.array([0.1, 0.2]), np.array([1.0, 1.0])) == -math.inf
    # equal doubts cannot be told apart: both or none
    assert judged.best_limit(np.array([0.5, 0.5, 0.1]), np.array([1.0, -2.0, 0.0])) == math.inf


def test_tuned_thresholds_rise_with_the_snr_and_beat_one_threshold() -> None:
    held, test = made_up(seed=1, count=3000), made_up(seed=2, count=3000)
    aware = judged.tuned(held)
    low, middle, high = aware.thresholds
    assert low < middle < high and high > 0.8
    one = 1 - judged.best_limit(np.broadcast_to(1 - held.confidence, held.gain.shape), held.gain)
    shares = [test.accuracy(test.scores(rule, 0) > 0).mean() for rule in (aware, rules.ConfidenceTransmission(one))]
    assert shares[0] > shares[1] + 0.02
    dear = judged.tuned(held, price=0.3)
    assert all(a <= b for a, b in zip(dear.thresholds, aware.thresholds, strict=True))


def test_the_learned_rule_finds_who_gains_and_the_same_seed_finds_it_again() -> None:
    held, test = made_up(seed=1, count=1500), made_up(seed=2, count=1500)
    learned = fit_decider([held], classes=3, seed=0, hidden=6)
    assert learned == fit_decider([held], classes=3, seed=0, hidden=6)
    accuracy = test.accuracy(test.scores(learned, 0) > 0)
    never, always = test.early_right.mean(), test.far_right.mean(axis=1)
    assert accuracy[0] > always[0] + 0.3 and accuracy[2] > never + 0.1
    assert (accuracy >= np.maximum(never, always) - 0.01).all()
    genie = np.where(test.far_right, True, test.early_right[None]).mean(axis=1)
    assert (accuracy < genie).all()


def test_accuracy_and_trade_off_count_what_they_say() -> None:
    sent = Sent(
        confidence=np.array([0.9, 0.5, 0.6]), entropy=np.zeros(3), prediction=np.array([1, 0, 0]),
        label=np.array([1, 1, 1]), mean_db=np.array([0.0]), snr_db=np.zeros((1, 3)), far=np.array([[0, 1, 1]]),
    )  # fmt: skip
    assert sent.gain.tolist() == [[-1.0, 1.0, 1.0]]
    assert sent.accuracy(np.array([[False, True, False]])).tolist() == pytest.approx([2 / 3])
    scores = sent.scores(rules.ConfidenceTransmission(1.0), 0)
    assert judged.trade_off(scores, sent, (0.0, 1 / 3, 2 / 3, 1.0)) == pytest.approx([1 / 3, 2 / 3, 1.0, 2 / 3])
    limit = judged.enough(scores, sent, 0.9)
    assert limit is not None and (scores > limit).sum() == 2
    assert judged.enough(scores, sent, 0.2) == math.inf


def test_a_device_that_knows_the_mean_only_decides_by_the_mean() -> None:
    sent = made_up(10)
    faded = dataclasses.replace(sent, snr_db=sent.snr_db + np.linspace(-20, 20, 10))
    rule = rules.SnrThreshold((-10.0, 10.0), (0.0, 1.0))
    assert (faded.scores(rule, 0, mean_only=True) == sent.scores(rule, 0)).all()
    assert (faded.scores(rule, 0) != sent.scores(rule, 0)).any()


def test_some_images_of_a_recording_are_those_as_often_as_they_are_named() -> None:
    sent = made_up(6)
    twice = judged.some(sent, np.array([4, 0, 4]))
    assert twice.confidence.tolist() == sent.confidence[[4, 0, 4]].tolist()
    assert twice.gain.tolist() == sent.gain[:, [4, 0, 4]].tolist() and (twice.mean_db == sent.mean_db).all()
    assert [r.confidence for r in twice.readings] == [sent.readings[n].confidence for n in (4, 0, 4)]


# ---- recordings


def arrays() -> dict[str, Any]:
    """A recording of three images at two SNRs."""
    found: dict[str, Any] = {"mean_db": np.array([0.0, 10.0]), "temperature": np.array(2.0), "uses": np.array(4)}
    found |= {
        "cut": np.array(2),
        "clean_accuracy": np.array(0.9),
        "feature_bytes": np.array(100),
        "card": np.array("net@1.0"),
    }
    for part in ("validation", "test"):
        found[f"{part}_exit_logits"] = np.array([[2.0, 0.0], [0.0, 4.0], [1.0, 1.0]], np.float16)
        found[f"{part}_label"] = np.array([0, 0, 1], np.int16)
        for fading in ("none", "rayleigh"):
            found[f"{part}_{fading}_far"] = np.array([[0, 0, 0], [0, 0, 1]], np.int16)
            found[f"{part}_{fading}_snr_db"] = np.array([[0.0] * 3, [10.0] * 3], np.float16)
    return found


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    judged.save(tmp_path / "one.npz", arrays())
    link = RecordedLink.load(tmp_path / "one.npz")
    assert (link.cut, link.uses, link.clean_accuracy, link.feature_bytes, link.card) == (2, 4, 0.9, 100, "net@1.0")
    sent = link.test["rayleigh"]
    assert sent.confidence.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2)), 0.5])
    assert sent.early_right.tolist() == [True, False, False]
    assert sent.far_right.tolist() == [[True, True, False], [True, True, True]]
    assert sent.gain.tolist() == [[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]


@pytest.mark.parametrize(("change", "message"), [
    ({"test_exit_logits": np.full((3, 2), np.nan)}, "test_exit_logits: N x classes finite numbers"),
    ({"mean_db": np.array([20.0, -10.0])}, "mean_db from low to high"),
    ({"validation_none_far": np.zeros((1, 3))}, "validation, none: far .* disagree"),
    ({"uses": None}, "uses is not a file in the archive"),
    ({"cut": None}, "cut is not a file in the archive"),
])  # fmt: skip
def test_a_damaged_recording_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    found = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    judged.save(tmp_path / "damaged.npz", found)
    with pytest.raises(RecordingError, match=rf"damaged\.npz: .*{message}"):
        RecordedLink.load(tmp_path / "damaged.npz")


def test_what_is_no_recording_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        RecordedLink.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(RecordingError, match="not readable"):
        RecordedLink.load(tmp_path / "text.npz")
