"""Values that are made faster are what they were."""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib
import pickle

import pytest

from mdi_exit.core import effects as fx
from mdi_exit.core.types import Outcome, Task, Verdict
from mdi_exit.quick import KINDS, few_collections, quicken

TASK = Task(1, 2, 3, 4, seen=(Verdict(1, 2, 0.5),))


def test_they_are_made_faster_wherever_cores_are_built() -> None:
    importlib.import_module("mdi_exit.assembly")
    assert {type(kind.__new__).__name__ for kind in KINDS} == {"function"}


def test_they_stay_frozen_and_without_room_for_more() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TASK.k = 4  # type: ignore[misc]
    assert not hasattr(TASK, "__dict__")


def test_they_have_their_defaults_and_say_what_they_miss() -> None:
    done = fx.Complete(1, Outcome.SHED, k=0, prediction=-1, confidence=0.0, latency_s=0.0, attempts=0)
    assert (done.reason, done.arm, done.cost) == ("", 0, 0.0)
    with pytest.raises(TypeError, match="payload_bytes"):
        Task(1, 2, 3)  # type: ignore[call-arg]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_they_can_be_pickled(protocol: int) -> None:
    assert pickle.loads(pickle.dumps([TASK, fx.Finish()], protocol)) == [TASK, fx.Finish()]


def test_they_can_be_copied_and_replaced_and_are_equal_as_before() -> None:
    assert TASK == copy.deepcopy(TASK) == dataclasses.replace(TASK) != dataclasses.replace(TASK, k=4)
    assert hash(TASK) == hash(copy.copy(TASK))


def test_what_was_not_made_faster_is_equal_to_nothing_else() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Pair:
        one: int
        other: int = 2

    before = Pair(1)
    quicken(Pair)
    assert Pair(1) == before and repr(Pair(1)) == repr(before) and type(Pair(1)) is Pair


def test_what_would_lose_something_is_not_made_faster() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Checked:
        one: int

        def __post_init__(self) -> None:
            assert self.one > 0

    @dataclasses.dataclass(frozen=True, slots=True)
    class Made:
        many: list[int] = dataclasses.field(default_factory=list)

    @dataclasses.dataclass(frozen=True, slots=True)
    class Named:
        kind: str

    for kind in (Checked, Made, Named):
        with pytest.raises(AssertionError):
            quicken(kind)


def test_garbage_is_looked_for_as_before_once_a_world_has_run() -> None:
    usual = gc.get_threshold()
    with pytest.raises(KeyError), few_collections():
        assert gc.get_threshold() > usual
        raise KeyError
    assert gc.get_threshold() == usual
