"""Exit rules that learn while they serve: SplitEE, SplitEE-S and AdaEE (UCBEE), live. bandit.py has the algorithms.

The source plays an arm of a bandit for each datum it admits; the arm travels with the task, so that every worker knows
where the datum is cut and what is confident enough there. The device computes up to the cut and answers, or offloads;
whoever takes it then runs to the last exit. What the exits said comes back with the result, and the bandit learns.
Offloading rule `by_exit` carries it out. An answer teaches when it comes: with one datum in flight at a time arms and
rewards are exactly those of `bandit.replay`; with more, choices are made before the last ones have been heard of, and
at first those arms take turns of which nothing has been heard.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from mdi_exit.core.types import ExitReading, Result, Task, Verdict
from mdi_exit.core.views import ExitDecision, ExitView
from mdi_exit.policies.bandit import THRESHOLDS, AdaEE, Bandit, BanditState, SplitEE, SplitEES
from mdi_exit.policies.splitting import Setting


@dataclass(frozen=True, slots=True)
class Learned:
    """All that the source remembers."""

    setting: Setting
    algorithm: Bandit
    bandit: BanditState
    chosen: list[int]  # how often each arm was


@dataclass(frozen=True, slots=True)
class LearnedExit(ABC):
    """What such rules share: costs as in `splitting.Setting`, in units of confidence.

    Without depths there are k layers up to exit k.
    """

    depths: tuple[float, ...] = ()
    layer_cost: float = 0.1  # lambda
    offload_cost: float = 0.5  # o
    exit_share: float = 0.2
    exchange: float = 1.0  # mu
    c: float = 1.0

    def begin(self, exits: int) -> Learned:
        """Nothing learned yet; raises ValueError for options that do not fit together, or a network of K exits."""
        depths = self.depths or tuple(float(k) for k in range(1, exits + 1))
        if len(depths) != exits:
            raise ValueError(f"depths has {len(depths)} entries; allowed: {exits}, one per exit")
        algorithm = self.algorithm()
        costs = (self.layer_cost, self.offload_cost, self.exit_share, self.exchange)
        setting = Setting(depths, self.answers_from(1), *costs)
        arms = algorithm.arms(setting)
        return Learned(setting, algorithm, BanditState.fresh(arms), [0] * arms)

    def choose(self, state: Learned) -> int:
        unheard = [arm for arm, plays in enumerate(state.bandit.plays, 1) if not plays]
        by_turns = min(unheard, key=lambda arm: state.chosen[arm - 1], default=0)  # answers take their time
        arm = by_turns or state.algorithm.choose(state.bandit)
        state.chosen[arm - 1] += 1
        return arm

    def learn(self, state: Learned, arm: int, result: Result) -> tuple[float, float]:
        row = [0.0] * state.setting.exits  # an exit nobody looked at is one the algorithm does not ask about
        for verdict in result.seen:
            row[verdict.k - 1] = verdict.confidence
        state.algorithm.learn(state.bandit, state.setting, arm, row, row[-1])
        play = state.algorithm.outcome(state.setting, arm, row)
        return play.cost, play.reward

    def decide(self, task: Task, reading: ExitReading, view: ExitView) -> ExitDecision:
        if task.k != self.cut(task.arm):
            return ExitDecision.GO_ON
        enough = reading.confidence >= self.answers_from(task.arm)
        return ExitDecision.LEAVE if enough else ExitDecision.OFFLOAD

    def remember(self, task: Task, reading: ExitReading, view: ExitView) -> tuple[Verdict, ...]:
        if self.looks_at(task.k, task.arm) or task.k == view.exits:
            return (*task.seen, Verdict(task.k, reading.prediction, reading.confidence))
        return task.seen

    @abstractmethod
    def algorithm(self) -> Bandit:
        """What learns."""

    @abstractmethod
    def cut(self, arm: int) -> int:
        """The last exit that the device computes."""

    @abstractmethod
    def answers_from(self, arm: int) -> float:
        """The confidence that suffices there."""

    def looks_at(self, k: int, arm: int) -> bool:
        """Whether exit k of the device is looked at."""
        return k == self.cut(arm)


@dataclass(frozen=True, slots=True)
class LearnedSplit(LearnedExit):
    """SplitEE: arms are splitting layers i = 1..K, leave at i when C_i(d) >= threshold.

    `observe`: the exit at the cut alone (SplitEE), or all up to it (SplitEE-S). `unseen`: as in `SplitEES`.
    """

    threshold: float = 0.7  # alpha
    observe: Literal["cut", "all"] = "cut"
    unseen: Literal["last_seen", "skip"] = "last_seen"

    def algorithm(self) -> Bandit:
        return SplitEE(self.c) if self.observe == "cut" else SplitEES(self.c, unseen=self.unseen)

    def cut(self, arm: int) -> int:
        return arm

    def answers_from(self, arm: int) -> float:
        return self.threshold

    def looks_at(self, k: int, arm: int) -> bool:
        return k == arm or (self.observe == "all" and k < arm)


@dataclass(frozen=True, slots=True)
class LearnedThreshold(LearnedExit):
    """AdaEE, also UCBEE: the cut is at exit `branch`, arms are thresholds. When neither the branch nor the last exit is
    confident enough, the more confident of the two answers."""

    branch: int = 1
    thresholds: tuple[float, ...] = THRESHOLDS

    def algorithm(self) -> Bandit:
        return AdaEE(self.branch, self.thresholds, self.c)

    def cut(self, arm: int) -> int:
        return self.branch

    def answers_from(self, arm: int) -> float:
        return self.thresholds[min(arm, len(self.thresholds)) - 1]

    def remember(self, task: Task, reading: ExitReading, view: ExitView) -> tuple[Verdict, ...]:
        seen = LearnedExit.remember(self, task, reading, view)
        doubtful = task.k == view.exits and reading.confidence < self.answers_from(task.arm)
        return tuple(sorted(seen, key=lambda verdict: verdict.confidence)) if doubtful else seen
