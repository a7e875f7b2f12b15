"""AdaEE with a buffer (papers.md section 2.6): a bandit over thresholds for each length of the queue, and its replay.

Samples come at random times and wait in a buffer; a sample that finds it full is lost. One server takes them in turn:
up to an exit, the branch, and where the sample is not confident there, on to the last exit, which takes longer. How
confident it must be is the arm, and the longer the queue, the dearer it is to go on. Read in
Div290/Buffer_based_threshold (adaee_buffer.py, simulation.py); what is ours is said beside it.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mdi_exit.policies.bandit import BanditState
from mdi_exit.policies.splitting import Row, Setting, checked, mean_rewards


@dataclass(frozen=True, slots=True)
class Buffer:
    """Arrivals, a Poisson process, and the server's times; raises ValueError in one line. Defaults as read."""

    arrivals_per_s: float = 5.0
    branch_s: float = 0.0  # up to the branch
    final_s: float = 0.5  # up to the last exit
    capacity: int = 10  # that wait, beside the one that is served

    def __post_init__(self) -> None:
        if not 0 < self.arrivals_per_s < math.inf or not 0 <= self.branch_s <= self.final_s < math.inf:
            raise ValueError("a buffer wants arrivals_per_s above 0, and final_s of branch_s or more, of 0 or more")
        if self.capacity < 1:
            raise ValueError(f"capacity is {self.capacity}; allowed: 1 or more")


@dataclass(frozen=True, slots=True)
class BufferedAdaEE:
    """The bandit: reward 0 at the branch, else max(C_f - C_b, 0) - (mu q - kappa), q samples waiting.

    Index mean + c sqrt(ln(t + 1) / n) of the arms at that q, t counting the rounds at that q; c = sqrt 2 as read (there
    ln t). q does not count the sample itself (ours: the code's q may be either). With `aware` off (ours, to compare)
    all lengths of the queue share one bandit; with a single threshold nothing is learnt.
    """

    branch: int = 1
    thresholds: tuple[float, ...] = (0.55, 0.65, 0.75, 0.85, 0.95)  # read
    waiting_cost: float = 0.1  # mu, in confidence per sample that waits
    allowance: float = 0.05  # kappa
    c: float = math.sqrt(2)
    aware: bool = True

    def __post_init__(self) -> None:
        if self.branch < 1 or not self.thresholds or not all(0 <= alpha <= 1 for alpha in self.thresholds):
            raise ValueError("BufferedAdaEE wants a branch of 1 or more and thresholds within 0 to 1")
        if not all(0 <= value < math.inf for value in (self.waiting_cost, self.allowance, self.c)):
            raise ValueError("waiting_cost, allowance and c are numbers of 0 or more")

    def states(self, capacity: int) -> list[BanditState]:
        """What is remembered, by the number of samples waiting behind one that is taken: 0 to `capacity` - 1."""
        arms = len(self.thresholds)
        return [BanditState([0] * arms, [0.0] * arms) for _ in range(capacity if self.aware else 1)]

    def choose(self, states: Sequence[BanditState], waiting: int) -> int:
        """The number of the threshold for the next sample, from 1."""
        return self._at(states, waiting).best(self.c)

    def learn(self, states: Sequence[BanditState], arm: int, waiting: int, reward: float) -> None:
        """Take in what a sample gave."""
        state = self._at(states, waiting)
        state.learn(arm, reward)
        state.rounds += 1

    def reward(self, arm: int, waiting: int, at_branch: float, final: float) -> float:
        """What threshold number `arm` earns; `final` matters to a sample that goes on only."""
        if at_branch >= self.thresholds[arm - 1]:
            return 0.0
        return max(final - at_branch, 0.0) - (self.waiting_cost * waiting - self.allowance)

    def _at(self, states: Sequence[BanditState], waiting: int) -> BanditState:
        return states[waiting if self.aware else 0]


@dataclass(frozen=True, slots=True)
class Served:
    """What became of one sample."""

    arm: int
    waiting: int  # samples behind it when it was taken
    exit: int  # whose prediction is the answer, from 1
    reward: float
    waited_s: float


@dataclass(frozen=True, slots=True)
class BufferedReplay:
    """What became of the samples in the order in which they came, and what that amounted to."""

    served: tuple[Served | None, ...]  # None: lost
    lost: float  # share
    accuracy: float | None  # of those served; None without knowledge of what was correct
    accuracy_offered: float | None  # a lost one counts as wrong
    went_on: float  # share of those served
    waited_s: float  # mean
    reward: float  # mean of those served
    regret: float  # expected: sum of what the best arm at each q earns on average, less what the arm played does


def replay_buffered(
    algorithm: BufferedAdaEE,
    confidences: Sequence[Row],
    correct: Sequence[Sequence[bool]] | None,
    buffer: Buffer,
    rng: random.Random,
    order: Sequence[int] | None = None,
) -> BufferedReplay:
    """Let samples (rows of confidences, samples x exits) come in `order`, wait, be decided about and served.

    `rng` draws the times between arrivals, and nothing else. What is waiting when the last one has come is served too.
    Raises ValueError in one line for what cannot be replayed.
    """
    exits = len(confidences[0]) if len(confidences) else 0
    rows = checked(confidences, correct, Setting(tuple(range(1, max(exits, 2) + 1))))
    if algorithm.branch >= exits:
        raise ValueError(f"branch is {algorithm.branch}; allowed: 1 to {exits - 1}, an exit before the last")
    order = range(len(rows)) if order is None else order
    if len(order) == 0 or not all(0 <= number < len(rows) for number in order):
        raise ValueError(f"order: allowed are 1 or more numbers from 0 to {len(rows) - 1}")
    states = algorithm.states(buffer.capacity)
    found: list[Served | None] = [None] * len(order)
    queue: deque[tuple[int, float]] = deque()  # place in the order, and when it came
    now_s = free_s = 0.0

    def serve_until(end_s: float) -> None:
        nonlocal free_s
        while queue and max(free_s, queue[0][1]) <= end_s:
            place, came_s = queue.popleft()
            start_s = max(free_s, came_s)
            row, waiting = rows[order[place]], len(queue)
            here, final = row[algorithm.branch - 1], row[-1]
            arm = algorithm.choose(states, waiting)
            reward = algorithm.reward(arm, waiting, here, final)
            algorithm.learn(states, arm, waiting, reward)
            stays = here >= algorithm.thresholds[arm - 1]
            free_s = start_s + (buffer.branch_s if stays else buffer.final_s)
            at = algorithm.branch if stays else exits
            found[place] = Served(arm, waiting, at, reward, start_s - came_s)

    for place in range(len(order)):
        now_s += rng.expovariate(buffer.arrivals_per_s)
        serve_until(now_s)
        if len(queue) < buffer.capacity:
            queue.append((place, now_s))
            serve_until(now_s)
    serve_until(math.inf)
    return _summed(algorithm, rows, correct, order, found)


def _summed(
    algorithm: BufferedAdaEE,
    rows: Sequence[Row],
    correct: Sequence[Sequence[bool]] | None,
    order: Sequence[int],
    found: Sequence[Served | None],
) -> BufferedReplay:
    served = [(number, one) for number, one in zip(order, found, strict=True) if one is not None]
    right = None if correct is None else sum(bool(correct[number][one.exit - 1]) for number, one in served)
    arms = range(1, len(algorithm.thresholds) + 1)
    means = {
        waiting: mean_rewards(
            [[algorithm.reward(arm, waiting, row[algorithm.branch - 1], row[-1]) for arm in arms] for row in rows]
        )
        for waiting in sorted({one.waiting for _, one in served})
    }
    return BufferedReplay(
        served=tuple(found),
        lost=1 - len(served) / len(found),
        accuracy=None if right is None else right / len(served),
        accuracy_offered=None if right is None else right / len(found),
        went_on=sum(one.exit != algorithm.branch for _, one in served) / len(served),
        waited_s=math.fsum(one.waited_s for _, one in served) / len(served),
        reward=math.fsum(one.reward for _, one in served) / len(served),
        regret=math.fsum(max(means[one.waiting]) - means[one.waiting][one.arm - 1] for _, one in served),
    )
