"""An emulated device: the answer is the real network's, the time is the device's, and what was missed is counted."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdi_exit.compute import ComputeError, open_runner, prepare
from mdi_exit.compute.pacing import PacedRunner
from mdi_exit.core.types import ExitReading

from .networks import BUNDLED, noise


class HandClock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now, self.sleeps = 100.0, 0
        self.oversleep_s = 0.0
        self.interrupted = False

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.sleeps += 1
        self.now += seconds / 2 if self.interrupted else seconds + self.oversleep_s
        self.interrupted = False


class Host:
    """Two segments that take the host `takes_s`, whatever the batch."""

    hosted, exits = (1, 2), 2

    def __init__(self, clock: HandClock) -> None:
        self.clock, self.takes_s = clock, 0.0

    def run(self, k: int, batch: np.ndarray) -> tuple[list[ExitReading], np.ndarray | None]:
        self.clock.now += self.takes_s
        if k not in self.hosted:
            raise ComputeError(f"segment {k} is not hosted here")
        return [ExitReading(0.5, k, 0.1)] * len(batch), None

    def feature_shape(self, k: int) -> tuple[int, ...]:
        return (k,)

    def feature_bytes(self, k: int) -> int:
        return k


def device(spread: float = 0.0, segment_s: tuple[float, ...] = (0.25, 0.5)) -> tuple[HandClock, Host, PacedRunner]:
    clock = HandClock()
    host = Host(clock)
    return clock, host, PacedRunner(host, segment_s, spread, random.Random(4), clock, clock.sleep)


def batch(n: int) -> Any:
    return np.zeros((n, 1), np.float32)


def test_what_the_device_s_runtime_takes_is_waited_for_and_not_counted_as_computing() -> None:
    clock = HandClock()
    paced = PacedRunner(Host(clock), (0.25, 0.5), 0.0, random.Random(4), clock, clock.sleep, task_s=0.125)
    paced.run(1, batch(2))
    assert (clock.now - 100.0, paced.took_s) == (0.75, 0.5)


def test_a_step_takes_as_long_as_the_device_takes_for_that_segment() -> None:
    clock, host, paced = device()
    host.takes_s = 0.0625
    for k, wanted in ((1, 0.25), (2, 0.5)):
        started = clock.now
        assert paced.run(k, batch(1)) == ([ExitReading(0.5, k, 0.1)], None)
        assert clock.now - started == wanted
    assert (paced.paced, paced.pace_missed) == (2, 0)


def test_a_group_takes_as_long_as_its_data_one_by_one() -> None:
    clock, _, paced = device()
    paced.run(1, batch(6))
    assert clock.now == 101.5


def test_oversleeping_does_not_add_up() -> None:
    clock, _, paced = device()
    clock.oversleep_s = 0.03125
    for _ in range(40):
        paced.run(1, batch(1))
    assert clock.now == 100 + 40 * 0.25 + 0.03125
    assert paced.pace_missed == 0


def test_the_time_between_steps_is_not_the_devices() -> None:
    clock, _, paced = device()
    clock.oversleep_s = 0.03125
    paced.run(1, batch(1))
    clock.now += 7.0
    waited_until = clock.now
    paced.run(1, batch(1))
    assert clock.now - waited_until == 0.25  # 0.03125 earlier, and 0.03125 overslept again


def test_a_step_that_follows_starts_when_the_last_one_was_due() -> None:
    clock, host, paced = device(spread=0.25)
    clock.oversleep_s, host.takes_s = 0.03125, 0.015625
    began, took_s = clock.now, 0.0
    for step in range(40):
        paced.run(1, batch(1), follows=step > 0)
        took_s += paced.took_s
        clock.now += 0.0625  # until the answer is taken in and the next step asked for
    assert clock.now - 0.0625 - 0.03125 == pytest.approx(began + took_s)
    assert paced.pace_missed == 0


def test_a_step_that_follows_a_missed_one_starts_when_it_is_asked_for() -> None:
    clock, host, paced = device()
    host.takes_s = 0.375
    paced.run(1, batch(1))
    assert paced.took_s == 0.375
    host.takes_s = 0.0
    clock.now += 0.0625
    paced.run(1, batch(1), follows=True)
    assert clock.now == 100 + 0.375 + 0.0625 + 0.25
    assert paced.took_s == 0.25


def test_a_sleep_that_ends_early_is_taken_up_again() -> None:
    clock, _, paced = device()
    clock.interrupted = True
    paced.run(2, batch(1))
    assert (clock.now, clock.sleeps) == (100.5, 2)


def test_a_host_that_is_too_slow_is_counted_and_nothing_is_made_up_for() -> None:
    clock, host, paced = device()
    clock.oversleep_s = 0.0625
    paced.run(1, batch(1))
    host.takes_s = 0.375
    paced.run(1, batch(1))
    assert (clock.now, clock.sleeps) == (100 + 0.25 + 0.0625 + 0.375, 1)
    host.takes_s = clock.oversleep_s = 0.0
    paced.run(1, batch(1))
    assert clock.now == 100 + 0.25 + 0.0625 + 0.375 + 0.25
    assert (paced.paced, paced.pace_missed) == (3, 1)


def test_a_refused_batch_takes_no_time_and_is_no_step() -> None:
    clock, _, paced = device()
    with pytest.raises(ComputeError):
        paced.run(3, batch(1))
    assert (clock.now, paced.paced, paced.pace_missed) == (100.0, 0, 0)


@pytest.mark.parametrize(("n", "wanted_spread"), [(1, 0.3), (9, 0.1)])
def test_times_spread_around_the_devices(n: int, wanted_spread: float) -> None:
    clock, _, paced = device(spread=0.3)
    times = []
    for _ in range(4000):
        before = clock.now
        paced.run(1, batch(n))
        times.append(clock.now - before)
    mean = statistics.fmean(times)
    assert mean == pytest.approx(0.25 * n, rel=0.02)
    assert statistics.stdev(times) / mean == pytest.approx(wanted_spread, rel=0.06)
    assert min(times) > 0 and paced.pace_missed == 0


def test_the_answer_is_the_real_networks(tmp_path: Path) -> None:
    runner = open_runner(prepare(BUNDLED, cache_dir=tmp_path), (1, 2))
    clock = HandClock()
    paced = PacedRunner(runner, [0.01] * 5, 0.0, random.Random(0), clock, clock.sleep)
    (reading,), feature = paced.run(1, noise(1))
    (wanted,), wanted_feature = runner.run(1, noise(1))
    assert reading == wanted and feature is not None and wanted_feature is not None
    np.testing.assert_array_equal(feature, wanted_feature)
    assert clock.now == pytest.approx(100.01)
    assert (paced.hosted, paced.exits) == (runner.hosted, runner.exits)
    assert paced.feature_shape(1) == runner.feature_shape(1) == feature.shape[1:]
    assert paced.feature_bytes(1) == runner.feature_bytes(1)
