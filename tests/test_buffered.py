"""AdaEE with a buffer: rewards, one bandit per length of the queue, and a queue that is one."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from mdi_exit.policies.buffered import Buffer, BufferedAdaEE, BufferedReplay, replay_buffered

ROWS = [(0.6, 0.9)] * 4
ALL_GO_ON = BufferedAdaEE(thresholds=(1.0,))


class Gaps(random.Random):
    """Times between arrivals that are known."""

    def __init__(self, *gaps_s: float) -> None:
        super().__init__(0)
        self.gaps_s = list(gaps_s)

    def expovariate(self, lambd: float = 1.0) -> float:
        return self.gaps_s.pop(0)


def told(done: BufferedReplay) -> list[tuple[int, float, int] | None]:
    return [None if one is None else (one.waiting, round(one.waited_s, 6), one.exit) for one in done.served]


@pytest.mark.parametrize(
    ("arm", "waiting", "here", "final", "reward"),
    [(1, 0, 0.6, 0.9, 0.0), (2, 0, 0.6, 0.9, 0.3 + 0.05), (2, 3, 0.6, 0.9, 0.3 - 0.3 + 0.05),
     (2, 1, 0.6, 0.5, 0.0 - 0.1 + 0.05), (2, 9, 0.8, 0.9, 0.0)],
)  # fmt: skip
def test_going_on_earns_confidence_less_what_the_queue_costs(
    arm: int, waiting: int, here: float, final: float, reward: float
) -> None:
    algorithm = BufferedAdaEE(thresholds=(0.6, 0.8))
    assert algorithm.reward(arm, waiting, here, final) == pytest.approx(reward)


def test_samples_wait_in_turn_and_one_that_finds_the_buffer_full_is_lost() -> None:
    buffer = Buffer(final_s=10.0, capacity=2)
    done = replay_buffered(ALL_GO_ON, ROWS, [(False, True)] * 4, buffer, Gaps(0.0, 1.0, 1.0, 1.0))
    # the first is served at once until 10; two wait; the fourth comes at 3 and is lost
    assert told(done) == [(0, 0.0, 2), (1, 9.0, 2), (0, 18.0, 2), None]
    assert (done.lost, done.accuracy, done.accuracy_offered, done.went_on) == (0.25, 1.0, 0.75, 1.0)
    assert done.waited_s == pytest.approx(9.0) and done.regret == 0
    assert done.reward == pytest.approx((0.35 + 0.25 + 0.35) / 3)


def test_confident_samples_take_the_time_of_the_branch() -> None:
    rows = [(0.9, 0.9), (0.5, 0.9), (0.9, 0.9)]
    algorithm = BufferedAdaEE(thresholds=(0.9,))
    buffer = Buffer(branch_s=2.0, final_s=5.0)
    done = replay_buffered(algorithm, rows, [(True, False)] * 3, buffer, Gaps(0.0, 1.0, 0.0))
    assert told(done) == [(0, 0.0, 1), (1, 1.0, 2), (0, 6.0, 1)]
    assert done.accuracy == pytest.approx(2 / 3) and done.went_on == pytest.approx(1 / 3)


def test_a_buffer_that_is_long_enough_waits_as_queueing_theory_has_it() -> None:
    """M/D/1: the mean wait is rho D / (2 (1 - rho)), here 0.6 s."""
    buffer = Buffer(arrivals_per_s=0.6, final_s=1.0, capacity=200)
    waits = []
    for seed in range(5):
        order = [0] * 20_000
        done = replay_buffered(ALL_GO_ON, [(0.5, 0.9)], None, buffer, random.Random(seed), order)
        assert done.lost == 0 and done.accuracy is None
        waits.append(done.waited_s)
    assert sum(waits) / 5 == pytest.approx(0.6 * 1.0 / (2 * 0.4), rel=0.05)


def test_each_length_of_the_queue_has_its_own_bandit_or_all_share_one() -> None:
    for aware in (True, False):
        algorithm = BufferedAdaEE(thresholds=(0.0, 1.0), aware=aware)
        states = algorithm.states(3)
        algorithm.learn(states, 1, 0, 0.5)
        assert len(states) == (3 if aware else 1)
        assert algorithm.choose(states, 0) == 2, "the other one has not been tried"
        assert algorithm.choose(states, 2) == (1 if aware else 2)


def test_the_index_has_two_under_the_root_and_counts_the_rounds_at_that_length() -> None:
    algorithm = BufferedAdaEE(thresholds=(0.0, 0.5))
    states = algorithm.states(2)
    for arm, reward, times in ((1, 0.10, 3), (2, 0.60, 30)):
        for _ in range(times):
            algorithm.learn(states, arm, 1, reward)
    bounds = [mean + math.sqrt(2 * math.log(34) / n) for mean, n in ((0.10, 3), (0.60, 30))]
    assert bounds[0] > bounds[1] and algorithm.choose(states, 1) == 1
    narrow = BufferedAdaEE(thresholds=(0.0, 0.5), c=1.0)  # without the factor 2 the order is another
    assert 0.10 + math.sqrt(math.log(34) / 3) > 0.60 + math.sqrt(math.log(34) / 30) and narrow.choose(states, 1) == 1
    assert BufferedAdaEE(thresholds=(0.0, 0.5), c=0.5).choose(states, 1) == 2


def test_it_learns_to_go_on_while_nobody_waits_and_to_answer_while_many_do() -> None:
    rows = [(0.6, 0.9)] * 3000
    algorithm = BufferedAdaEE(thresholds=(0.5, 1.0), waiting_cost=0.2, c=0.2)
    done = replay_buffered(algorithm, rows, None, Buffer(arrivals_per_s=2.5, branch_s=0.2), random.Random(1))
    late = [one for one in done.served[1000:] if one is not None]
    alone = [one.arm for one in late if one.waiting == 0]
    crowded = [one.arm for one in late if one.waiting >= 4]
    assert len(alone) > 100 and alone.count(2) > 0.9 * len(alone)
    assert len(crowded) > 100 and crowded.count(1) > 0.9 * len(crowded)
    assert replay_buffered(algorithm, rows, None, Buffer(arrivals_per_s=2.5, branch_s=0.2), random.Random(1)) == done


@pytest.mark.parametrize(
    "wrong",
    [lambda: Buffer(arrivals_per_s=0), lambda: Buffer(branch_s=1.0), lambda: Buffer(capacity=0),
     lambda: Buffer(final_s=math.nan), lambda: BufferedAdaEE(branch=0), lambda: BufferedAdaEE(thresholds=()),
     lambda: BufferedAdaEE(thresholds=(1.1,)), lambda: BufferedAdaEE(waiting_cost=-1.0),
     lambda: BufferedAdaEE(c=math.inf),
     lambda: replay_buffered(BufferedAdaEE(branch=2), ROWS, None, Buffer(), random.Random(0)),
     lambda: replay_buffered(BufferedAdaEE(), [], None, Buffer(), random.Random(0)),
     lambda: replay_buffered(BufferedAdaEE(), [(0.5, math.nan)], None, Buffer(), random.Random(0)),
     lambda: replay_buffered(BufferedAdaEE(), ROWS, [(True, True)], Buffer(), random.Random(0)),
     lambda: replay_buffered(BufferedAdaEE(), ROWS, None, Buffer(), random.Random(0), [4])],
)  # fmt: skip
def test_what_cannot_be_replayed_is_refused_in_one_line(wrong: Any) -> None:
    with pytest.raises(ValueError) as error:
        wrong()
    assert "\n" not in str(error.value)
