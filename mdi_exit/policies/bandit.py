"""Learning where to split, without labels: SplitEE, SplitEE-S, I-SplitEE, AdaEE, and `replay` on recorded confidences.

All are the UCB1 bandit: play the arm with the highest mean reward + c sqrt(ln(t + 1) / N). Arms are splitting layers
(splitting.py has the reward) or, in AdaEE, thresholds. I-SplitEE is SplitEE with other depths in its `Setting`. What
the released code does oddly is an option, with our default beside it. Sources: docs/splitee.md.

A bandit's state is one `BanditState`; the algorithms are frozen options. A live system (learned.py) calls `choose`,
runs the layers and then `learn`; `play` does the three on a recorded sample, and `replay` plays a whole recording.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar, Literal, Protocol

from mdi_exit.policies.splitting import Play, Row, Setting, checked, mean_rewards, split_at

Clock = Literal["continue", "restart"]
Unseen = Literal["released", "last_seen", "skip"]
THRESHOLDS: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # read: the arms of AdaEE


@dataclass(slots=True)
class BanditState:
    """All that a bandit remembers."""

    plays: list[int]  # N_i, updates of arm i
    sums: list[float]  # S_i, its rewards
    rounds: int = 0  # t

    @classmethod
    def fresh(cls, arms: int) -> BanditState:
        """Before the first sample."""
        return cls([0] * arms, [0.0] * arms)

    def learn(self, arm: int, reward: float) -> None:
        """Add a reward to arm 1, 2, ..."""
        self.plays[arm - 1] += 1
        self.sums[arm - 1] += reward

    def best(self, c: float) -> int:
        """The arm with the highest upper confidence bound; before that each arm once, in order; of equals the first."""
        if 0 in self.plays:
            return self.plays.index(0) + 1
        wide = math.log(self.rounds + 1)
        bounds = [s / n + c * math.sqrt(wide / n) for s, n in zip(self.sums, self.plays, strict=True)]
        return bounds.index(max(bounds)) + 1


def _check_width(c: float) -> None:
    if not 0 <= c < math.inf:
        raise ValueError(f"c is {c}; allowed: a number of 0 or more")


@dataclass(frozen=True, slots=True)
class _Splitting:
    """What SplitEE and SplitEE-S share: arms are splitting layers.

    `clock`: "continue" (ours): the first play of each arm is a round like all others; "restart" (released): they are
    made on the first L samples beforehand and for nothing, then t is 0 again and these samples come once more.
    """

    c: float = 1.0  # read in the released code
    clock: Clock = "continue"

    def __post_init__(self) -> None:
        _check_width(self.c)

    def arms(self, setting: Setting) -> int:
        return setting.exits

    def rewards(self, setting: Setting, row: Row) -> tuple[float, ...]:
        """The reward of every arm for one sample."""
        return setting.rewards(row)

    def choose(self, state: BanditState) -> int:
        """The splitting layer for the next sample."""
        return state.best(self.c)


@dataclass(frozen=True, slots=True)
class SplitEE(_Splitting):
    """Only the exit at the splitting layer is evaluated, so only the arm played learns."""

    def learn(self, state: BanditState, setting: Setting, arm: int, seen: Row, final: float) -> None:
        """Take in what a sample gave: `seen` are C_1 to C_arm at least (only C_arm is used), `final` is C_L.

        Where nothing was offloaded and arm < L, C_L is not known, and any number will do.
        """
        state.learn(arm, setting.reward(arm, seen[arm - 1], final))
        state.rounds += 1

    def play(self, state: BanditState, setting: Setting, row: Row) -> Play:
        """Choose, answer or offload, learn."""
        arm = self.choose(state)
        self.learn(state, setting, arm, row, row[-1])
        return self.outcome(setting, arm, row)

    def outcome(self, setting: Setting, arm: int, row: Row) -> Play:
        """What playing an arm comes to; of `row` only C_arm and, when offloaded, C_L matter."""
        return split_at(setting, arm, row, heads=1)


@dataclass(frozen=True, slots=True)
class SplitEES(_Splitting):
    """SplitEE-S: every exit on the way is evaluated and paid for, so all arms j <= i learn from each sample.

    The first play of each arm teaches that arm alone, as in the released code. `unseen`: where C_j < alpha at some
    j < i but the sample was answered at i, C_L, which arm j's reward needs, was never observed. "released" (the
    default, to reproduce): C_L is used all the same, which only a replay can do; "last_seen" (ours, for live use): C_i
    stands for it; "skip": arm j learns nothing, which biases it towards its confident samples.
    """

    unseen: Unseen = "released"

    def learn(self, state: BanditState, setting: Setting, arm: int, seen: Row, final: float) -> None:
        """Take in what a sample gave: `seen` are C_1 to C_arm at least, `final` is C_L.

        Where nothing was offloaded and arm < L, C_L is not known; any number will do unless `unseen` is "released".
        """
        state.rounds += 1
        if not state.plays[arm - 1]:
            state.learn(arm, setting.reward(arm, seen[arm - 1], final))
            return
        hidden = arm < setting.exits and setting.answers(arm, seen[arm - 1])
        if hidden and self.unseen == "last_seen":
            final = seen[arm - 1]
        for j in range(1, arm + 1):
            if hidden and self.unseen == "skip" and not setting.answers(j, seen[j - 1]):
                continue
            state.learn(j, setting.reward(j, seen[j - 1], final))

    def play(self, state: BanditState, setting: Setting, row: Row) -> Play:
        """Choose, answer or offload, learn."""
        arm = self.choose(state)
        self.learn(state, setting, arm, row, row[-1])
        return self.outcome(setting, arm, row)

    def outcome(self, setting: Setting, arm: int, row: Row) -> Play:
        """What playing an arm comes to; of `row` only C_arm and, when offloaded, C_L matter."""
        return split_at(setting, arm, row, heads=arm)


@dataclass(frozen=True, slots=True)
class AdaEE:
    """AdaEE, also UCBEE: the exit is fixed at `branch`, the arms are thresholds; the setting's own is not used.

    With C_b at the branch and C_f at the end: gain = C_f - C_b if C_f >= alpha else max(C_b, C_f) - C_b; an offloaded
    sample (C_b < alpha) earns gain - o, any other 0. (The released code has max(gain, 0), and a variant without; it is
    never negative.) When neither is confident, the more confident of the two answers.
    """

    branch: int = 1
    thresholds: tuple[float, ...] = THRESHOLDS
    c: float = 1.0  # read
    clock: ClassVar[Clock] = "continue"

    def __post_init__(self) -> None:
        _check_width(self.c)
        if self.branch < 1:
            raise ValueError(f"branch is {self.branch}; allowed: 1 or more")
        if not self.thresholds or not all(0 <= alpha <= 1 for alpha in self.thresholds):
            raise ValueError(f"thresholds are {self.thresholds}; allowed: 1 or more, each 0 to 1")

    def arms(self, setting: Setting) -> int:
        if self.branch >= setting.exits:
            raise ValueError(f"branch is {self.branch}; allowed: 1 to {setting.exits - 1}, an exit before the last")
        return len(self.thresholds)

    def rewards(self, setting: Setting, row: Row) -> tuple[float, ...]:
        """The reward of every arm for one sample."""
        return tuple(
            self.reward(setting, arm, row[self.branch - 1], row[-1]) for arm in range(1, self.arms(setting) + 1)
        )

    def reward(self, setting: Setting, arm: int, at_branch: float, final: float) -> float:
        """What threshold number `arm` earns with one sample; `final` matters to an offloaded sample only."""
        alpha = self.thresholds[arm - 1]
        if at_branch >= alpha:
            return 0.0
        gain = (final if final >= alpha else max(at_branch, final)) - at_branch
        return gain - setting.exchange * setting.offload_cost

    def choose(self, state: BanditState) -> int:
        """The number of the threshold for the next sample."""
        return state.best(self.c)

    def learn(self, state: BanditState, setting: Setting, arm: int, seen: Row, final: float) -> None:
        """Take in what a sample gave: `seen` holds C_b at its place, `final` is C_f if it was offloaded."""
        state.learn(arm, self.reward(setting, arm, seen[self.branch - 1], final))
        state.rounds += 1

    def play(self, state: BanditState, setting: Setting, row: Row) -> Play:
        """Choose, answer or offload, learn."""
        arm = self.choose(state)
        self.learn(state, setting, arm, row, row[-1])
        return self.outcome(setting, arm, row)

    def outcome(self, setting: Setting, arm: int, row: Row) -> Play:
        """What playing an arm comes to; of `row` only C_b and, when offloaded, C_f matter."""
        alpha, here, final = self.thresholds[arm - 1], row[self.branch - 1], row[-1]
        offloaded = here < alpha
        at = self.branch if not offloaded or (final < alpha and here > final) else setting.exits
        cost = setting.cost(self.branch, 1, offloaded)
        return Play(arm, at, offloaded, cost, self.reward(setting, arm, here, final))


class Rule(Protocol):
    """A rule that learns nothing (splitting.py)."""

    def play(self, setting: Setting, row: Row, rng: random.Random) -> Play:
        """Answer or offload one sample."""


Bandit = SplitEE | SplitEES | AdaEE


@dataclass(frozen=True, slots=True)
class Replay:
    """What an algorithm did with a recording, sample by sample as they came, and what that amounted to."""

    plays: tuple[Play, ...]
    accuracy: float | None  # None without knowledge of what was correct
    cost: float  # mean per sample, as reported
    reward: float  # mean per sample
    regret: tuple[float, ...] | None  # after each sample; None of a rule that plays no arm
    best_arm: int  # the arm with the highest mean reward over the recording
    state: BanditState | None = field(repr=False)  # of a bandit, afterwards


def replay(
    algorithm: Bandit | Rule,
    confidences: Sequence[Row],
    correct: Sequence[Sequence[bool]] | None,
    setting: Setting,
    rng: random.Random,
    order: Sequence[int] | None = None,
) -> Replay:
    """Let an algorithm decide about recorded samples, one after the other.

    `confidences` and `correct` are samples x exits (arrays do too); only what is reported uses `correct`. `order` are
    the numbers (from 0) of the samples as they come, repetitions allowed; by default each once. `rng` is for algorithms
    that draw. Regret is the expected one: the sum over the samples of what the best arm earns on average over the
    recording, less what the arm played does; it never falls. Raises ValueError in one line for what cannot be replayed.
    """
    rows = checked(confidences, correct, setting)
    order = range(len(rows)) if order is None else order
    if len(order) == 0 or not all(0 <= number < len(rows) for number in order):
        raise ValueError(f"order: allowed are 1 or more numbers from 0 to {len(rows) - 1}")
    state: BanditState | None = None
    if isinstance(algorithm, SplitEE | SplitEES | AdaEE):
        arms = algorithm.arms(setting)
        state = BanditState.fresh(arms)
        means = mean_rewards([algorithm.rewards(setting, row) for row in rows])
        if algorithm.clock == "restart":
            _play_beforehand(algorithm, state, setting, [rows[number] for number in order[:arms]])
        plays = [algorithm.play(state, setting, rows[number]) for number in order]
    else:
        means = mean_rewards([setting.rewards(row) for row in rows])
        plays = [algorithm.play(setting, rows[number], rng) for number in order]
    best = max(means)
    behind = [best - means[play.arm - 1] for play in plays if play.arm is not None]
    right = None if correct is None else sum(bool(correct[n][p.exit - 1]) for n, p in zip(order, plays, strict=True))
    return Replay(
        plays=tuple(plays),
        accuracy=None if right is None else right / len(plays),
        cost=math.fsum(play.cost for play in plays) / len(plays),
        reward=math.fsum(play.reward for play in plays) / len(plays),
        regret=tuple(accumulate(behind)) if len(behind) == len(plays) else None,
        best_arm=means.index(best) + 1,
        state=state,
    )


def _play_beforehand(algorithm: Bandit, state: BanditState, setting: Setting, first: Sequence[Row]) -> None:
    """The released code's first plays, which count for nothing but what they teach."""
    if len(first) < algorithm.arms(setting):
        raise ValueError(f"clock restart wants {algorithm.arms(setting)} samples or more, one for each arm")
    for row in first:
        algorithm.play(state, setting, row)
    state.rounds = 0
