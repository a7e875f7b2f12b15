"""Rewards, costs and learning rules of the SplitEE family, by cases computed by hand and by properties."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdi_exit.policies.bandit import AdaEE, BanditState, SplitEE, SplitEES, replay
from mdi_exit.policies.splitting import (
    FinalExit,
    FirstConfident,
    FixedSplit,
    RandomSplit,
    Setting,
    best_split,
    correctness,
    readings,
)

THREE = Setting((1.0, 2.0, 3.0), threshold=0.7, layer_cost=0.1, offload_cost=0.5)
CONFIDENT, DOUBTFUL = (0.75, 0.8, 0.9), (0.5, 0.6, 0.95)  # two samples at three exits


def fresh(arms: int = 3) -> BanditState:
    return BanditState([0] * arms, [0.0] * arms)


# ---- rewards and costs


def test_a_confident_sample_earns_its_confidence_less_the_layers() -> None:
    assert THREE.rewards(CONFIDENT) == pytest.approx((0.75 - 0.1, 0.8 - 0.2, 0.9 - 0.3))


def test_an_offloaded_sample_earns_the_last_confidence_and_pays_for_the_way() -> None:
    assert THREE.rewards(DOUBTFUL) == pytest.approx((0.95 - 0.5 - 0.1, 0.95 - 0.5 - 0.2, 0.95 - 0.3))


def test_the_last_exit_answers_however_doubtful_and_at_the_threshold_it_is_confident_enough() -> None:
    assert THREE.answers(3, 0.0) and THREE.answers(1, 0.7) and not THREE.answers(1, 0.6999)


def test_the_exchange_weighs_layers_and_offloading_alike() -> None:
    doubled = dataclasses.replace(THREE, exchange=2.0)
    assert doubled.rewards(DOUBTFUL) == pytest.approx((0.95 - 2 * 0.6, 0.95 - 2 * 0.7, 0.95 - 2 * 0.3))


def test_i_splitee_counts_layers_between_exits_and_no_exits() -> None:
    depths = (3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 19.0)
    setting = Setting(depths, threshold=0.5, layer_cost=0.1, offload_cost=0.5, exit_share=0.0)
    row = (0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.8)
    assert setting.rewards(row)[0] == pytest.approx(0.8 - 0.5 - 0.1 * 3)
    assert setting.rewards(row)[1] == pytest.approx(0.6 - 0.1 * 6)
    assert setting.rewards(row)[6] == pytest.approx(0.8 - 0.1 * 19)
    assert setting.cost(2, 1, True) == pytest.approx(0.5 + 0.1 * 6) and setting.cost(7, 7, False) == pytest.approx(1.9)


@pytest.mark.parametrize("i", [1, 5, 12])
def test_the_reported_cost_is_not_the_rewards(i: int) -> None:
    setting = Setting(tuple(float(depth) for depth in range(1, 13)))
    assert setting.cost(i, 1, True) == pytest.approx(0.8 * 0.1 * (i - 1) + 0.1 + 0.5)  # SplitEE
    assert setting.cost(i, i, False) == pytest.approx(0.1 * i)  # SplitEE-S


@pytest.mark.parametrize(
    "wrong",
    [
        {"depths": (1.0,)},
        {"depths": (1.0, 1.0)},
        {"depths": (0.0, 1.0)},
        {"depths": (1.0, math.nan)},
        {"depths": (1.0, math.inf)},
        {"threshold": 1.1},
        {"threshold": math.nan},
        {"exit_share": -0.1},
        {"offload_cost": -0.1},
        {"layer_cost": math.inf},
        {"exchange": math.nan},
    ],
)
def test_a_setting_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed") as refused:
        dataclasses.replace(THREE, **wrong)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


# ---- rules that learn nothing


def test_the_baselines_do_what_they_are_named_for() -> None:
    rng = random.Random(0)
    final = FinalExit().play(THREE, DOUBTFUL, rng)
    assert (final.exit, final.offloaded) == (3, False) and final.cost == pytest.approx(0.3)
    offloaded = FixedSplit(2).play(THREE, DOUBTFUL, rng)
    assert (offloaded.exit, offloaded.offloaded) == (3, True) and offloaded.cost == pytest.approx(0.08 + 0.1 + 0.5)
    answered = FixedSplit(2).play(THREE, CONFIDENT, rng)
    assert (answered.exit, answered.offloaded) == (2, False) and answered.cost == pytest.approx(0.08 + 0.1)
    assert {RandomSplit().play(THREE, CONFIDENT, rng).arm for _ in range(50)} == {1, 2, 3}


def test_the_first_confident_exit_is_not_before_the_least() -> None:
    rng = random.Random(0)
    assert FirstConfident().play(THREE, CONFIDENT, rng).exit == 2
    assert FirstConfident(least=1).play(THREE, CONFIDENT, rng).exit == 1
    last = FirstConfident().play(THREE, DOUBTFUL, rng)
    assert (last.exit, last.offloaded, last.arm) == (3, False, None) and last.cost == pytest.approx(0.3)


def test_the_best_split_in_hindsight_is_by_mean_reward() -> None:
    # means: (.65 + .35) / 2, (.6 + .25) / 2, (.6 + .65) / 2
    assert best_split(THREE, [CONFIDENT, DOUBTFUL]) == 3
    assert best_split(THREE, [CONFIDENT]) == 1


# ---- what bandits choose and learn


def test_each_arm_first_then_the_highest_bound() -> None:
    state = fresh()
    assert state.best(1.0) == 1
    state.learn(1, 0.5)
    assert state.best(1.0) == 2
    state = BanditState([4, 1, 2], [2.0, 0.1, 1.1], rounds=7)
    # .5 + sqrt(ln 8 / 4) = 1.221, .1 + sqrt(ln 8) = 1.542, .55 + sqrt(ln 8 / 2) = 1.570
    assert state.best(1.0) == 3
    assert BanditState([4, 1], [2.0, -0.23], rounds=7).best(1.0) == 1  # 1.221 and 1.212; with ln 9 it would be 2
    assert state.best(2.0) == 2 and state.best(0.0) == 3  # 1.942, 2.984, 2.589; the means alone


def test_splitee_teaches_the_arm_played_alone() -> None:
    state = BanditState([1, 1, 1], [0.0, 0.0, 0.0], rounds=3)
    SplitEE().learn(state, THREE, 2, DOUBTFUL[:2], DOUBTFUL[2])
    assert state.plays == [1, 2, 1] and state.sums == pytest.approx([0, 0.95 - 0.5 - 0.2, 0]) and state.rounds == 4


def test_splitee_s_teaches_all_arms_on_the_way() -> None:
    state = BanditState([1, 1, 1], [0.0, 0.0, 0.0], rounds=3)
    SplitEES().learn(state, THREE, 2, DOUBTFUL[:2], DOUBTFUL[2])
    assert state.plays == [2, 2, 1] and state.sums == pytest.approx([0.35, 0.25, 0])


def test_a_first_play_teaches_its_own_arm_alone() -> None:
    state = fresh()
    for arm in (1, 2, 3):
        SplitEES().learn(state, THREE, arm, CONFIDENT, CONFIDENT[-1])
    assert state.plays == [1, 1, 1] and state.sums == pytest.approx([0.65, 0.6, 0.6])


@pytest.mark.parametrize(
    ("unseen", "plays", "first"),
    [("released", [2, 2, 1], 0.95 - 0.6), ("last_seen", [2, 2, 1], 0.8 - 0.6), ("skip", [1, 2, 1], 0.0)],
)
def test_what_stands_for_a_confidence_that_was_not_observed(unseen: str, plays: list[int], first: float) -> None:
    state = BanditState([1, 1, 1], [0.0, 0.0, 0.0], rounds=3)
    # answered at exit 2, so nothing was offloaded; exit 1 was in doubt and would have been
    SplitEES(unseen=unseen).learn(state, THREE, 2, (0.5, 0.8), 0.95)  # type: ignore[arg-type]
    assert state.plays == plays and state.sums == pytest.approx([first, 0.8 - 0.2, 0])


def test_what_is_used_live_needs_no_confidence_that_was_not_observed() -> None:
    told, untold = (BanditState([1, 1, 1], [0.0, 0.0, 0.0], rounds=3) for _ in range(2))
    for state, final in ((told, 0.95), (untold, math.nan)):
        SplitEES(unseen="last_seen").learn(state, THREE, 2, (0.5, 0.8), final)
        SplitEE().learn(state, THREE, 2, (0.5, 0.8), final)
    assert told == untold


def test_adaee_earns_the_gain_less_the_overhead() -> None:
    rule = AdaEE(thresholds=(0.0, 0.6, 0.9))
    earned = [rule.reward(THREE, arm, 0.5, 0.8) for arm in (1, 2, 3)]
    assert earned == pytest.approx([0.0, 0.3 - 0.5, 0.3 - 0.5])
    worse = [rule.reward(THREE, arm, 0.55, 0.4) for arm in (1, 2)]
    assert worse == pytest.approx([0.0, 0.0 - 0.5])


def test_adaee_answers_with_the_surer_of_two_in_doubt() -> None:
    rule, state = AdaEE(thresholds=(0.9,)), fresh(1)
    assert rule.play(state, THREE, (0.95, 0.1, 0.2)).exit == 1
    unsure = rule.play(state, THREE, (0.6, 0.1, 0.5))
    assert unsure.exit == 1 and unsure.offloaded and unsure.cost == pytest.approx(0.1 + 0.5)
    assert rule.play(state, THREE, (0.6, 0.1, 0.7)).exit == 3 and rule.play(state, THREE, (0.6, 0.1, 0.95)).exit == 3


def test_options_that_cannot_be_are_refused() -> None:
    for wrong in (lambda: SplitEE(c=-1.0), lambda: SplitEES(c=math.nan), lambda: AdaEE(branch=0)):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(ValueError, match="1 to 2"):
        replay(AdaEE(branch=3), [CONFIDENT], None, THREE, random.Random(0))


# ---- replays


def test_a_replay_is_what_a_hand_computes() -> None:
    rows, right = [CONFIDENT, DOUBTFUL], [[True, True, False], [False, False, True]]
    done = replay(SplitEE(), rows, right, THREE, random.Random(0), order=[0, 1, 1])
    # arms 1, 2, 3: answered at 1; offloaded from 2; answered at 3
    assert [(play.arm, play.exit, play.offloaded) for play in done.plays] == [
        (1, 1, False),
        (2, 3, True),
        (3, 3, False),
    ]
    assert done.accuracy == 1.0 and done.best_arm == 3
    assert done.cost == pytest.approx((0.1 + (0.08 + 0.1 + 0.5) + (0.16 + 0.1)) / 3)
    assert done.reward == pytest.approx((0.65 + 0.25 + 0.65) / 3)
    assert done.regret == pytest.approx((0.625 - 0.5, 0.625 - 0.5 + 0.625 - 0.425, 0.325))
    assert done.state is not None and done.state.plays == [1, 1, 1] and done.state.rounds == 3


def test_a_restarted_clock_plays_the_first_samples_twice_and_counts_them_once() -> None:
    rows = [CONFIDENT, DOUBTFUL, CONFIDENT, DOUBTFUL]
    done = replay(SplitEE(clock="restart"), rows, None, THREE, random.Random(0))
    assert len(done.plays) == 4 and done.accuracy is None and done.state is not None
    assert sum(done.state.plays) == 4 + 3 and done.state.rounds == 4
    assert done.plays[0].arm == 1  # ln 1 = 0: the highest of .65, .25, .6 alone
    with pytest.raises(ValueError, match="3 samples or more"):
        replay(SplitEE(clock="restart"), rows[:2], None, THREE, random.Random(0))


def test_arrays_and_lists_are_replayed_alike() -> None:
    confidences, said, labels = np.array([CONFIDENT, DOUBTFUL]), np.array([[0, 0, 1], [1, 1, 0]]), np.array([0, 0])
    of_arrays = replay(FinalExit(), confidences, said == labels[:, None], THREE, random.Random(0))  # type: ignore[arg-type]
    of_lists = replay(FinalExit(), [CONFIDENT, DOUBTFUL], correctness(said.tolist(), [0, 0]), THREE, random.Random(0))
    assert of_arrays == of_lists and of_lists.accuracy == 0.5


def test_readings_of_whole_tables() -> None:
    tables = [[[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]]]
    assert readings(tables, [1]) == ([[0.75, 0.5, 0.9]], [[True, False, False]])


@pytest.mark.parametrize("row", [[0.5, 0.4], [1.5, -0.5], [math.nan, 0.5], [0.0, 0.0]])
def test_what_is_no_distribution_is_refused_in_one_line(row: list[float]) -> None:
    with pytest.raises(ValueError, match=r"sample 2, exit 1: .* allowed: 0 to 1, adding up to 1") as refused:
        readings([[[0.5, 0.5]], [row]], [0, 0])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("confidences", "correct", "words"),
    [
        ([CONFIDENT, (0.5, math.nan, 0.5)], None, "confidence of sample 2, exit 2: nan; allowed: 0 to 1"),
        ([CONFIDENT, (0.5, 0.5, 1.5)], None, "confidence of sample 2, exit 3: 1.5"),
        ([CONFIDENT, (0.5, 0.5)], None, "confidences of sample 2: 2 exits; allowed: 3"),
        ([], None, "no samples"),
        ([CONFIDENT], [[True, True]], "correct of sample 1: 2 exits; allowed: 3"),
        ([CONFIDENT], [], "correct: 0 samples; allowed: 1"),
    ],
)
def test_a_recording_that_cannot_be_replayed_is_refused_in_one_line(
    confidences: list[tuple[float, ...]], correct: list[list[bool]] | None, words: str
) -> None:
    with pytest.raises(ValueError) as refused:
        replay(SplitEE(), confidences, correct, THREE, random.Random(0))
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("order", [[], [1], [-1]])
def test_an_order_of_samples_that_are_not_there_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match="0 to 0"):
        replay(SplitEE(), [CONFIDENT], None, THREE, random.Random(0), order=order)


@pytest.mark.parametrize(("said", "labels"), [([[0]], [0, 1]), ([[0], [1]], [0])])
def test_as_many_labels_as_samples_are_wanted(said: list[list[int]], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="allowed: as many"):
        correctness(said, labels)


# ---- properties

EXITS = st.integers(2, 6)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Setting, list[list[float]]]:
    exits = draw(EXITS)
    row = st.lists(st.floats(0, 1), min_size=exits, max_size=exits)
    depths = tuple(float(depth) for depth in range(1, exits + 1))
    share = st.floats(0, 1)
    setting = Setting(depths, draw(share), draw(share), draw(share), draw(share), draw(st.floats(0, 3)))
    return setting, draw(st.lists(row, min_size=1, max_size=25))


RULES = [
    *(SplitEE(), SplitEES(), SplitEES(unseen="last_seen"), SplitEES(unseen="skip"), AdaEE()),
    *(RandomSplit(), FixedSplit(1), FinalExit()),
]


@given(recordings(), st.sampled_from(RULES))
def test_regret_is_never_negative_and_never_falls(recording: tuple[Setting, list[list[float]]], rule: object) -> None:
    setting, rows = recording
    done = replay(rule, rows, None, setting, random.Random(1))  # type: ignore[arg-type]
    assert done.regret is not None and len(done.regret) == len(rows)
    assert all(a <= b for a, b in zip((0.0, *done.regret), done.regret, strict=False))


@given(recordings())
def test_the_best_fixed_split_has_no_regret(recording: tuple[Setting, list[list[float]]]) -> None:
    setting, rows = recording
    best = best_split(setting, rows)
    done = replay(FixedSplit(best), rows, None, setting, random.Random(0))
    assert done.regret == (0.0,) * len(rows) and done.best_arm == best


@given(recordings(), st.data(), st.sampled_from(["released", "last_seen"]))
def test_splitee_s_teaches_exactly_the_arms_up_to_its_own(
    recording: tuple[Setting, list[list[float]]], data: st.DataObject, unseen: str
) -> None:
    setting, rows = recording
    arm = data.draw(st.integers(1, setting.exits))
    state = BanditState([1] * setting.exits, [0.0] * setting.exits, setting.exits)
    SplitEES(unseen=unseen).learn(state, setting, arm, rows[0][:arm], rows[0][-1])  # type: ignore[arg-type]
    assert state.plays == [2] * arm + [1] * (setting.exits - arm)


@given(recordings())
def test_splitee_s_with_the_last_arm_knows_every_reward(recording: tuple[Setting, list[list[float]]]) -> None:
    setting, rows = recording
    state = BanditState([1] * setting.exits, [0.0] * setting.exits, setting.exits)
    for unseen in ("released", "last_seen", "skip"):
        again = dataclasses.replace(state, plays=list(state.plays), sums=list(state.sums))
        SplitEES(unseen=unseen).learn(again, setting, setting.exits, rows[0], rows[0][-1])
        assert again.sums == pytest.approx(setting.rewards(rows[0])) and again.plays == [2] * setting.exits


def test_a_bandit_finds_an_arm_that_is_clearly_the_best() -> None:
    rng = random.Random(3)
    rows = [[0.5 + 0.4 * rng.random(), 0.9, 0.95] for _ in range(2000)]
    setting = Setting((1.0, 5.0, 9.0), threshold=0.0)
    for rule in (SplitEE(), SplitEES()):
        done = replay(rule, rows, None, setting, random.Random(0))
        late = [play.arm for play in done.plays[1000:]]
        assert done.best_arm == 1 and late.count(1) > 0.9 * len(late)
        assert done.regret is not None and done.regret[-1] < 0.25 * 2000 * 0.2
