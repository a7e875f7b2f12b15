"""Thresholds with a guarantee: exact tests in a fixed sequence, and whether what is promised is kept on real logits."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest

from mdi_exit.analysis.calibrated import Logits, RecordedLogits
from mdi_exit.config.load import load_experiment
from mdi_exit.config.settings import parse_setting
from mdi_exit.errors import UserError
from mdi_exit.models.card import Card
from mdi_exit.training import guarantee
from mdi_exit.training.calibrate import fit_temperatures
from mdi_exit.training.guarantee import FULL, LABELS, Walk, Wish
from mdi_exit.training.sequence import COMMON, LEVELS, PER_EXIT, common, per_exit

from .test_cli import here, refused
from .test_training import honest_logits, named_next, said, write_images

REAL = Path(__file__).resolve().parents[1] / "benchmarks" / "data" / "calibration" / "mobilenet_v2.npz"
DRAWS = 200


def walk_of(*wrong: int, images: int) -> Walk:
    """At the first thresholds so many of the images go wrong, at all others every one."""
    counts = [*wrong, *[images] * (len(LEVELS) - len(wrong))]
    rows = np.array([[i < count for i in range(images)] for count in counts])
    return Walk(common(2), rows, np.zeros(rows.shape, dtype=np.int8))


def test_p_values_are_the_binomial_tail() -> None:
    found = guarantee.p_values(np.array([0, 2, 5]), 20, 0.15)
    for value, wrong in zip(found, (0, 2, 5), strict=True):
        tail = sum(math.comb(20, k) * 0.15**k * 0.85 ** (20 - k) for k in range(wrong + 1))
        assert value == pytest.approx(tail)


def test_a_true_hypothesis_is_rejected_no_more_often_than_the_risk() -> None:
    """By adding up the probabilities of all outcomes, not by drawing some."""
    for images, limit, risk in ((20, 0.3, 0.1), (100, 0.1, 0.05), (333, 0.02, 0.01)):
        rejected = guarantee.p_values(np.arange(images + 1), images, limit) <= risk
        ways = [math.comb(images, k) * limit**k * (1 - limit) ** (images - k) for k in range(images + 1)]
        assert 0 < sum(way for way, yes in zip(ways, rejected, strict=True) if yes) <= risk


def test_the_walk_ends_at_the_first_threshold_that_may_be_too_low() -> None:
    wish = Wish(0.8, 0.05)
    assert guarantee.choose(walk_of(5, 6, 7, images=100), wish) == 2
    assert guarantee.choose(walk_of(5, 6, 90, 5, 5, images=100), wish) == 1, "what comes later is not looked at"
    assert guarantee.choose(walk_of(20, 1, 1, images=100), wish) is None
    assert guarantee.choose(walk_of(*[1] * len(LEVELS), images=100), wish) == len(LEVELS) - 1


def test_the_sequence_begins_where_nothing_leaves_early() -> None:
    logits, labels = honest_logits(300)
    walked = guarantee.walk(Logits(np.stack([100 * logits, logits]), labels), (1.0, 1.0), LABELS, common(2))
    assert LEVELS[0] == 1 and (walked.leaves[0] == 1).all() and list(LEVELS) == sorted(LEVELS)[::-1]
    assert (walked.leaves[-1] == 0).all(), "four classes: every first answer is surer than that"
    assert (walked.wrong[0] == (logits.argmax(axis=1) != labels)).all()


def test_an_image_leaves_at_the_first_exit_above_the_threshold_and_not_at_it() -> None:
    even = np.array([[[0.0, 0.0]], [[9.0, 0.0]], [[9.0, 0.0]]], dtype=np.float32)
    walked = guarantee.walk(Logits(even, np.array([0])), (1.0, 1.0, 1.0), LABELS, common(3))
    by_threshold = dict(zip(LEVELS, walked.leaves[:, 0].tolist(), strict=True))
    assert (by_threshold[1.0], by_threshold[0.995], by_threshold[0.5], by_threshold[0.495]) == (2, 1, 1, 0)


def test_against_the_full_network_only_what_it_would_have_got_right_is_spoilt() -> None:
    """Three images: the first exit is wrong, right, wrong; the last one right, wrong, wrong."""
    logits = np.array([[[0, 9], [9, 0], [0, 9]], [[9, 0], [0, 9], [0, 9]]], dtype=np.float32)
    images = Logits(logits, np.array([0, 0, 0]))
    early = LEVELS.index(0.9)
    assert guarantee.walk(images, (1.0, 1.0), LABELS, common(2)).wrong[[0, early]].tolist() == [[0, 1, 1], [1, 0, 1]]
    assert guarantee.walk(images, (1.0, 1.0), FULL, common(2)).wrong[[0, early]].tolist() == [[0, 0, 0], [1, 0, 0]]


def test_the_best_reachable_is_reached_and_nothing_above_it() -> None:
    walked = walk_of(12, images=100)
    best = guarantee.best_reachable(walked, Wish(0.99, 0.05))
    assert 0.8 < best < 0.88
    assert guarantee.choose(walked, Wish(best - 1e-9, 0.05)) == 0
    assert guarantee.choose(walked, Wish(best + 1e-9, 0.05)) is None
    assert guarantee.best_reachable(walk_of(images=5), Wish(0.5, 0.05)) == 0


def test_thresholds_per_exit_begin_where_nothing_leaves_and_are_the_best_at_each_price() -> None:
    """Beside every pair of thresholds of a coarse grid, on real logits of three exits."""
    real = RecordedLogits.load(REAL.with_name("b_alexnet.npz")).validation.at_most(800, 0)
    temperatures = fit_temperatures(real.logits, real.label)
    wrong = guarantee.goes_wrong(real, LABELS)
    found = guarantee.walk(real, temperatures, LABELS, per_exit(real.confidence(temperatures), wrong))
    assert (found.sequence[0] == 1).all() and (found.leaves[0] == 2).all()
    assert np.abs(np.diff(found.sequence, axis=0)).max() < 0.0101, "no more than two levels at once"
    grid = np.array([(one, other) for one in LEVELS[::5] for other in LEVELS[::5]])
    others = guarantee.walk(real, temperatures, LABELS, grid)

    def dearness(walked: Walk, price: float) -> float:
        losses = walked.wrong.mean(axis=1) + price * (walked.leaves.mean(axis=1) + 1) / 3
        return float(losses.min())

    for price in (0.01, 0.05, 0.2, 1.0):
        assert dearness(found, price) <= dearness(others, price) + 0.002


def test_an_exit_that_is_always_wrong_is_closed_and_one_that_is_always_right_is_open() -> None:
    confidence = np.random.default_rng(0).uniform(0.3, 1, (200, 3))
    confidence[:, 0] = 0.5
    wrong = np.zeros((200, 3), dtype=bool)
    wrong[:, 0] = True
    found = per_exit(confidence, wrong)
    assert (found[:, 0] == 1).all() and found[-1, 1] <= confidence[:, 1].min()


@pytest.mark.parametrize("exits", [PER_EXIT, COMMON])
@pytest.mark.parametrize(("against", "target"), [(LABELS, 0.84), (LABELS, 0.86), (FULL, 0.98)])
def test_on_real_logits_the_promise_is_broken_no_more_often_than_said(against: str, target: float, exits: str) -> None:
    """Images drawn anew from all recorded ones, of which the truth at all thresholds is therefore known."""
    real = RecordedLogits.load(REAL)
    temperatures = fit_temperatures(real.validation.logits, real.validation.label)
    wish = Wish(target, 0.1, against, exits)
    sequence = guarantee.sequence_for(wish, real.validation, temperatures)
    walked = guarantee.walk(real.test, temperatures, against, sequence)
    truth = 1 - walked.wrong.mean(axis=1)
    generator = np.random.default_rng(5)
    broken = naive = found = 0
    for _ in range(DRAWS):
        drawn = walked.rows(generator.integers(0, len(real.test.label), 1000))
        if (number := guarantee.choose(drawn, wish)) is not None:
            found += number > 0
            broken += truth[number] < target
        enough = np.flatnonzero(1 - drawn.wrong.mean(axis=1) >= target)
        naive += enough.size > 0 and truth[enough[-1]] < target
    assert broken <= wish.risk * DRAWS
    assert naive > 2 * wish.risk * DRAWS, (
        "taking what was good enough on the images breaks promises: the check can fail"
    )
    if target != 0.86:  # so near what the whole network does, often only the first thresholds are safe
        assert found > DRAWS / 2


# ---- from the command line


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that tells red from blue, and images of both."""
    folder = tmp_path_factory.mktemp("colours")
    data = write_images(folder / "data.zip", 80)
    write_images(folder / "others.zip", 240, seed=8)
    words = ("--epochs", "8", "--batch-size", "9", "--lr", "0.01", "--ema-decay", "0", "--device", "cpu")
    given = ("--model", "b_alexnet", "--image-size", "16", "--threads", "1")
    assert said("train", "--data", data, "--out", folder / "net", *given, *words)[0] == 0
    return folder


def calibrating(folder: Path) -> list[str]:
    checkpoint, others = folder / "net" / "network", folder / "others.zip"
    return ["calibrate", str(checkpoint), "--data", str(others), "--separate", "--out", str(folder / "out")]


def test_the_promise_is_on_the_card_and_in_the_command_to_type_next(colours: Path) -> None:
    words = (*calibrating(colours), "--target-accuracy", "0.9", "--risk", "0.1", "--test", str(colours / "data.zip"))
    status, output = said(*words)
    assert status == 0 and "with confidence 0.9, at least 90 % of all answers are right" in output
    assert "On the test images, which had no part in the choice: " in output
    promise = Card.load(colours / "out" / "network.json").promise
    assert promise is not None
    assert (promise.target, promise.risk, promise.against, promise.images) == (0.9, 0.1, LABELS, 160)
    assert promise.found >= 0.9 and sum(promise.exits) == pytest.approx(1) and len(promise.exits) == 3
    assert len(promise.thresholds) == 2 and set(promise.thresholds) <= set(LEVELS)
    written = json.loads((colours / "out" / "calibration.json").read_text())["promise"]
    assert tuple(written["thresholds"]) == promise.thresholds
    running = named_next(output)[0]
    settings = dict(parse_setting(setting) for setting in running[3::2])
    assert load_experiment("own-data", settings).thresholds == promise.thresholds, shlex.join(running)
    assert said(*calibrating(colours))[0] == 0
    assert Card.load(colours / "out" / "network.json").promise is None, "kept from other temperatures"


def test_confidence_is_risk_the_other_way_round_and_full_counts_what_is_spoilt(colours: Path) -> None:
    words = (*calibrating(colours), "--target-accuracy", "0.9", "--confidence", "0.8", "--against", "full")
    assert "are not spoilt by leaving early" in said(*words)[1]
    promise = Card.load(colours / "out" / "network.json").promise
    assert promise is not None and promise.risk == pytest.approx(0.2) and promise.against == FULL


def test_one_threshold_for_all_exits_is_chosen_where_that_is_wanted(colours: Path) -> None:
    status, output = said(*calibrating(colours), "--target-accuracy", "0.9", "--thresholds", "common")
    promise = Card.load(colours / "out" / "network.json").promise
    assert status == 0 and promise is not None and len(set(promise.thresholds)) == 1
    assert f"Threshold {promise.thresholds[0]:g}: with confidence 0.95" in output
    assert f"--set thresholds={promise.thresholds[0]:g}\n" in output


def test_a_target_out_of_reach_is_one_line_with_the_best_there_is(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*calibrating(colours), "--out", str(tmp_path / "none"), "--target-accuracy", "0.999"]
    done = here(*words, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    line = refused(done)
    assert "--target-accuracy 0.999: no thresholds reach it with confidence 0.95 on 160 images" in line
    best = float(line.rsplit(" ", 1)[1])
    assert 0.9 < best <= 0.05 ** (1 / 160) and not (tmp_path / "none").exists()
    again = said(*calibrating(colours), "--target-accuracy", str(best))
    assert again[0] == 0, "what was said to be reachable is"


@pytest.mark.parametrize(("words", "message"), [
    (("--target-accuracy", "1"), "--target-accuracy 1: allowed is a share above 0 and below 1"),
    (("--target-accuracy", "0.9", "--risk", "0"), "--risk 0: allowed is a probability"),
    (("--target-accuracy", "0.9", "--confidence", "1.5"), "--confidence 1.5: allowed is a probability"),
    (("--target-accuracy", "0.9", "--risk", "0.1", "--confidence", "0.9"), "one says the other"),
    (("--target-accuracy", "0.9", "--against", "humans"), "--against humans: allowed are labels, full"),
    (("--target-accuracy", "0.9", "--thresholds", "two"), "--thresholds two: allowed are per-exit, common"),
    (("--thresholds", "common"), "are about --target-accuracy, which is missing"),
    (("--risk", "0.1"), "are about --target-accuracy, which is missing"),
    (("--against", "full"), "are about --target-accuracy, which is missing"),
])  # fmt: skip
def test_wishes_that_make_no_sense_are_refused(colours: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        said(*calibrating(colours), *words)
