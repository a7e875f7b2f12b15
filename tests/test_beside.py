"""What handling tasks takes beside computing them: measured by the runtime, charged by the simulation, averaged."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mdi_exit.compute.pacing import PacedRunner
from mdi_exit.core import events as ev
from mdi_exit.core.delays import Delays
from mdi_exit.core.types import ExitReading, Task
from mdi_exit.runtime.computer import Computed, Computer

from .worlds import mesh_world

TASK = Task(1, 0, 1, 100, 0)
PAYLOAD = np.zeros((1,), np.float32)


def burn(seconds: float) -> float:
    """Use the processor for so long; return what this thread used."""
    began_s = time.thread_time()
    while time.thread_time() - began_s < seconds:
        pass
    return time.thread_time() - began_s


class Busy:
    """A SegmentRunner that computes for a given time."""

    hosted, exits = (1, 2), 2

    def __init__(self) -> None:
        self.seconds = 0.0

    def feature_shape(self, k: int) -> tuple[int, ...]:
        return (1,)

    def feature_bytes(self, k: int) -> int:
        return 4

    def run(self, k: int, batch: NDArray[Any]) -> tuple[list[ExitReading], NDArray[np.float32] | None]:
        burn(self.seconds)
        return [ExitReading(0.5, 0, 0.5)] * len(batch), np.zeros((len(batch), 1), np.float32)


def test_a_tasks_share_is_of_all_that_were_handled_meanwhile() -> None:
    delays = Delays(2, 0.5, 0.1)
    delays.handled = 3  # came, or were sent
    delays.computed(1, 1, 0, 0.01, 0.008)
    assert delays.beside_s == pytest.approx(0.002)
    delays.computed(1, 2, 0, 0.01, 0.008)
    assert delays.beside_s == pytest.approx((0.002 + 0.004) / 2)


def test_the_loop_is_charged_for_what_it_does_while_there_is_something_to_compute() -> None:
    runner, beside = Busy(), list[float]()
    computer = Computer(runner, lambda: None)

    def collected(take: Any) -> float:
        count = len(beside)
        while len(beside) == count:
            time.sleep(0.001)
            computer.collect(take)
            computer.compute_here(take)
        return beside[-1]

    def taken(ended: Computed, beside_s: float) -> None:
        beside.append(beside_s)

    def follows(ended: Computed, beside_s: float) -> None:
        beside.append(beside_s)
        computer.submit(1, (TASK,), [PAYLOAD])

    idle_s = burn(0.3)  # nothing waits to be computed
    computer.submit(1, (TASK,), [PAYLOAD])
    assert collected(follows) < idle_s
    used_s = burn(0.05)
    assert collected(taken) >= used_s
    runner.seconds = 0.2
    computer.submit(1, (TASK,), [PAYLOAD])
    assert computer.busy_here, "a short segment is computed by the loop's thread"
    assert collected(taken) < 0.2, "and is not what goes on beside it"
    computer.stop(1.0)


def test_a_workers_process_looks_for_garbage_seldom_and_not_among_what_stays() -> None:
    program = "import gc; from mdi_exit.runtime.actor import collect_seldom; collect_seldom(); " \
        "print(gc.get_threshold()[0] > 10_000, gc.get_freeze_count() > 1_000, gc.isenabled())"  # fmt: skip
    program += """
import weakref
class Life: pass
life = Life(); life.itself = life; dead = weakref.ref(life)
collect_seldom(); del life; collect_seldom()
print(dead() is None)"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True"] * 4, "the last: what an earlier life left behind is let go of"


@pytest.mark.parametrize("alone", [False, True])
def test_whole_groups_are_computed_in_the_loop_by_a_worker_without_neighbours_alone(alone: bool) -> None:
    runner, done = Busy(), list[Computed]()
    runner.seconds = 0.003  # longer than a neighbour is to wait for an answer
    computer = Computer(runner, lambda: None, alone)
    for count in (1, 2):  # how long it takes is not known before the first
        computer.submit(1, (TASK,), [PAYLOAD])
        assert computer.busy_here == (alone and count == 2)
        while len(done) < count:
            time.sleep(0.001)
            computer.collect(lambda ended, beside_s: done.append(ended))
            computer.compute_here(lambda ended, beside_s: done.append(ended))
    computer.stop(1.0)


def test_the_loop_does_not_sleep_for_an_emulated_device() -> None:
    done = list[Computed]()
    computer = Computer(PacedRunner(Busy(), (0.004, 0.004), 0.0, random.Random(0)), lambda: None, alone=True)
    for count in (1, 2):
        computer.submit(1, (TASK,), [PAYLOAD])
        assert not computer.busy_here
        while len(done) < count:
            time.sleep(0.001)
            computer.collect(lambda ended, beside_s: done.append(ended))
    computer.stop(1.0)


def test_a_simulated_worker_is_charged_for_every_step_once() -> None:
    beside_s, steps = {"a": 0.0, "b": 0.0}, {"a": 0, "b": 0}

    def observe(now: float, node: str, event: Any, effects: list[Any]) -> None:
        if node in steps:
            steps[node] += 1
            beside_s[node] += event.beside_s if isinstance(event, ev.SegmentDone) else 0.0

    world = mesh_world(2, step_s=0.001, observe=observe)
    world.run(5.0)
    for node, charged_s in beside_s.items():
        assert steps[node] > 100 and 0.9 * 0.001 * steps[node] < charged_s <= 0.001 * steps[node]
