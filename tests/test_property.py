"""Drawn experiments in virtual time (mdi_exit.fuzzing) under their oracles, and that those find what is broken.

`mdi-exit simulate --fuzz N --seed S` looks at as many as one likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdi_exit import policies
from mdi_exit.core.controller import ControllerCore
from mdi_exit.core.neighbour import Neighbourhood
from mdi_exit.core.relay import ResultRelay
from mdi_exit.core.worker import WorkerCore
from mdi_exit.fuzzing.cases import ARRIVALS, MODES, drawn
from mdi_exit.fuzzing.hunt import check, hunt
from mdi_exit.fuzzing.oracles import Watch


def checked(number: int, mode: str) -> Watch:
    """A case of that mode, gone through without a violation."""
    case = drawn(len(MODES) * number + MODES.index(mode))
    watch = Watch(case.experiment.offloading.may_rest)
    assert case.mode == mode
    check(case, watch)
    return watch


@settings(max_examples=20)
@given(number=st.integers(0, 2**32))
def test_calm_nothing_is_done_twice(number: int) -> None:
    checked(number, "calm")


@settings(max_examples=15)
@given(number=st.integers(0, 2**32))
def test_without_crashes_every_datum_completes_though_frames_vanish_double_and_overtake(number: int) -> None:
    checked(number, "no-crash")


@settings(max_examples=20)
@given(number=st.integers(0, 2**32))
def test_swarm_every_datum_has_one_outcome_though_workers_crash_and_return(number: int) -> None:
    checked(number, "swarm")


@settings(max_examples=2)
@given(number=st.integers(0, 2**32))
def test_the_same_number_gives_the_same_history(number: int) -> None:
    first, again, other = (checked(n, "swarm") for n in (number, number, number + 1))
    assert str(first.fingerprint) == str(again.fingerprint) != str(other.fingerprint)


def test_every_policy_and_every_kind_of_trouble_is_drawn() -> None:
    cases = [drawn(seed) for seed in range(300)]
    rules = Counter(name for case in cases for name in case.experiment.policy_names().values())
    registries = (policies.EXIT, policies.OFFLOADING, policies.ADMISSION, policies.ARRIVALS)
    assert all(rules[name] for registry in registries for name in registry)
    assert set(ARRIVALS) == set(policies.ARRIVALS)
    assert {case.mode for case in cases} == set(MODES)
    graphs = {case.experiment.topology.description for case in cases}
    assert graphs == {"mesh", "line", "one-way ring", "star", "random graph"}
    shapes = [link.shape for case in cases for link in case.experiment.topology.links]
    assert all(any(getattr(shape, key) for shape in shapes) for key in ("channel", "bandwidth_trace", "loss"))
    assert any(len(set(case.experiment.hosted.values())) > 1 for case in cases)
    kinds = {(case.mode, change.kind) for case in cases for change in case.experiment.churn}
    assert kinds == {
        ("swarm", "crash"),
        ("swarm", "leave"),
        ("swarm", "join"),
        ("no-crash", "leave"),
        ("no-crash", "join"),
    }


def forgetting(method: Callable[..., Any], every: int) -> Callable[..., Any]:
    """The method, except that now and then it does nothing."""
    calls = Counter[None]()

    def sometimes(self: Any, *arguments: Any) -> Any:
        calls[None] += 1
        return None if calls[None] % every == 0 else method(self, *arguments)

    return sometimes


@pytest.mark.interpreted("compiled methods cannot be replaced")
@pytest.mark.parametrize(
    ("kind", "name", "broken", "says"),
    [
        (WorkerCore, "_start_compute", lambda method: forgetting(method, 9), "idles while holding runnable work"),
        (WorkerCore, "_discard", lambda method: forgetting(method, 5), "keep tensors that nobody needs"),
        (ControllerCore, "_answered", lambda method: forgetting(method, 7), "given up though the source lived"),
        (Neighbourhood, "replace", lambda method: lambda self, routes: method(self, routes) and [], "still hold"),
        (ResultRelay, "retry", lambda method: lambda self: [], "still hold something"),
    ],
    ids=["idling", "hoarding", "answers overlooked", "tasks left with the dead", "results left lying"],
)
def test_what_is_broken_is_found(
    kind: type, name: str, broken: Callable[..., Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, name, broken(getattr(kind, name)))
    found = hunt(0, 60)
    assert found is not None and says in found.error
