"""What an exit rule that learns chose in a run, and whose verdicts counted: folded beside the other tallies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mdi_exit.compiled import remade
from mdi_exit.config import Experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.policies.learned import LearnedExit


@dataclass(slots=True)
class Choices:
    """Of the answers that came to the source."""

    answers: int = 0
    arms: dict[int, int] = field(default_factory=dict)  # of completed data: how many each was played for
    cost: float = 0.0  # sums over them
    reward: float = 0.0
    earlier: int = 0  # answers that are the verdict of an exit before the one where the datum left

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return remade(self)

    def came(self, event: ev.ResultsArrived) -> None:
        """Take in answers."""
        for result in event.results:
            self.answers += result.error is None
            self.earlier += bool(result.seen) and result.seen[-1].k != result.k

    def complete(self, done: fx.Complete) -> None:
        """Take in what a datum's choice came to."""
        if done.arm:
            self.arms[done.arm] = self.arms.get(done.arm, 0) + 1
            self.cost += done.cost
            self.reward += done.reward

    def report(self, experiment: Experiment, answered_here: int) -> dict[str, Any]:
        """Who answered, and what was chosen: `cost` and `reward` are sums in units of confidence, `cost_lambda` in
        layers' costs, `mean_cut` is the last exit that the source computes, on average."""
        rule, split = experiment.exit, None
        if isinstance(rule, LearnedExit):
            counts = [self.arms.get(arm, 0) for arm in range(1, len(rule.begin(experiment.exits).bandit.plays) + 1)]
            cuts = sum(rule.cut(arm) * count for arm, count in enumerate(counts, 1))
            split = {
                "arms": counts,
                "mean_cut": cuts / sum(counts) if sum(counts) else None,
                "cost": self.cost,
                "cost_lambda": self.cost / rule.layer_cost if rule.layer_cost else None,
                "reward": self.reward,
            }
        share = answered_here / self.answers if self.answers else None
        return {"edge_share": share, "earlier_verdicts": self.earlier, "split": split}
