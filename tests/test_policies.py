"""What every policy must do, run over the registries, and the baselines' own rules."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest

from mdi_exit import policies
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.views import ExitDecision
from mdi_exit.policies.admission import RateAdaptation, ThresholdAdaptation
from mdi_exit.policies.arrivals import BurstyArrivals, ConstantArrivals, PoissonArrivals, RecordedArrivals
from mdi_exit.policies.exit import NeverExit
from mdi_exit.policies.offloading import LeastExpectedDelay, MdiExitOffloading, RandomNeighbour

from .worlds import SURE, admit, done, mesh_world, of, only, report, task, worker

REGISTRIES: dict[str, Mapping[str, type]] = {
    "exit": policies.EXIT,
    "offloading": policies.OFFLOADING,
    "admission": policies.ADMISSION,
    "arrivals": policies.ARRIVALS,
}
REQUIRED: dict[type, dict[str, Any]] = {
    ConstantArrivals: {"rate_per_s": 10.0},
    PoissonArrivals: {"rate_per_s": 10.0},
    BurstyArrivals: {"rate_per_s": 5.0, "burst_rate_per_s": 50.0},
    RecordedArrivals: {"gaps_s": (0.1, 0.3)},
}


@pytest.mark.parametrize("policy", [p for registry in REGISTRIES.values() for p in registry.values()])
def test_a_policy_is_a_frozen_value_that_keeps_only_its_options(policy: type) -> None:
    made = policy(**REQUIRED.get(policy, {}))
    assert made == policy(**REQUIRED.get(policy, {})) and hash(made) is not None
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)


@pytest.mark.parametrize("offloading", [rule() for rule in policies.OFFLOADING.values()], ids=list(policies.OFFLOADING))
def test_every_offloading_rule_serves_all_that_is_admitted(offloading: Any) -> None:
    outcomes: list[fx.Complete] = []
    world = mesh_world(
        3,
        offloading=offloading,
        data_max=150,
        observe=lambda now, node, event, effects: outcomes.extend(of(effects, fx.Complete)),
    )
    world.run(until_s=120)
    assert world.finished and sorted(o.data_id for o in outcomes) == list(range(150))
    assert all(core.idle for core in world.workers.values())


def test_the_least_expected_delay_goes_where_the_wait_ends_first() -> None:
    core = worker("m", "o", offloading=LeastExpectedDelay())
    done(core, only(admit(core, 0), fx.RunSegment), SURE, duration_s=0.1)
    core.handle(ev.ReportReceived(report("m", waiting=9, delay_s=0.1)), 0.0)
    core.handle(ev.ReportReceived(report("o", waiting=2, delay_s=0.04)), 0.0)
    sent = of(admit(core, 1, 2, 3), fx.SendTasks)
    assert [(s.to, s.tasks[0].data_id) for s in sent] == [("o", 2)], "1 is done here in 0.1 s; 2 in 0.12 s there"


def test_a_random_neighbour_is_as_likely_as_this_worker() -> None:
    kept = 0
    for seed in range(300):
        core = worker("m", "o", offloading=RandomNeighbour(), seed=seed)
        admit(core, 0)
        kept += bool(core.computing)
    assert 70 <= kept <= 130


def test_received_tasks_do_not_wander_under_the_baselines() -> None:
    for rule in (RandomNeighbour(), LeastExpectedDelay()):
        core = worker("m", offloading=rule, is_source=False, toward_source=("m",))
        for d in range(20):
            core.handle(ev.TasksArrived((task(d),), "m", d + 1), 0.0)
        assert core.output.length == 0


def test_never_exit_goes_through_to_the_last_exit() -> None:
    assert NeverExit().decide(task(), SURE, worker()) is ExitDecision.GO_ON


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MdiExitOffloading(output_limit=-1), "output_limit"),
        (lambda: MdiExitOffloading(retry_s=0.0), "retry_s"),
        (lambda: RateAdaptation(alpha=0.1, beta=0.2), "alpha"),
        (lambda: RateAdaptation(queue_low=30, queue_high=10), "queue_low"),
        (lambda: RateAdaptation(first_interarrival_s=0.0), "first_interarrival_s"),
        (lambda: ThresholdAdaptation(threshold_min=0.0), "threshold_min"),
        (lambda: ThresholdAdaptation(queue_max=3), "queue_max"),
        (lambda: PoissonArrivals(rate_per_s=-1.0), "rate_per_s"),
        (lambda: BurstyArrivals(1.0, 10.0, quiet_s=0.0), "quiet_s"),
        (lambda: RecordedArrivals(()), "gaps_s"),
    ],
)
def test_impossible_options_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class TestArrivals:
    @pytest.mark.parametrize(
        "process", [ConstantArrivals(20.0), PoissonArrivals(20.0), BurstyArrivals(10.0, 60.0, quiet_s=0.4, burst_s=0.2)]
    )
    def test_the_gaps_have_the_stated_mean(self, process: Any) -> None:
        gaps = list(itertools.islice(process.gaps(random.Random(1)), 20_000))
        assert sum(gaps) / len(gaps) == pytest.approx(process.mean_interarrival_s, rel=0.06)

    def test_bursts_make_the_gaps_vary_more_than_a_poisson_processs(self) -> None:
        gaps = list(itertools.islice(BurstyArrivals(2.0, 80.0).gaps(random.Random(1)), 20_000))
        mean = sum(gaps) / len(gaps)
        variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
        assert variance > 2 * mean**2

    def test_a_recording_is_repeated_or_ends(self) -> None:
        assert list(itertools.islice(RecordedArrivals((1.0, 2.0)).gaps(random.Random(0)), 5)) == [1, 2, 1, 2, 1]
        assert list(RecordedArrivals((1.0, 2.0), repeat=False).gaps(random.Random(0))) == [1, 2]
