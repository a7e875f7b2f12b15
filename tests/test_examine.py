"""How the nodes of a cluster are looked at: in which order they are asked, and what comes of one that falls silent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from mdi_exit.runtime import examine as examining

FACTS = {"host": "nano1"}


class SlowNode:
    """An actor that does one thing at a time: it answers so many calls, and notes in which order it was asked."""

    def __init__(self, answers: int) -> None:
        self.left, self.asked = answers, list[str]()

    def __getattr__(self, name: str) -> Any:
        answers = {"clock": 0.0, "survey": FACTS, "listen": 7001}

        def get() -> Any:
            self.left -= 1
            if self.left < 0:
                raise GetTimeoutError("Get timed out")
            return answers[name]

        def remote(*_: object) -> Any:
            self.asked.append(name)
            return get

        return SimpleNamespace(remote=remote)


def test_a_survey_that_takes_long_does_not_hold_up_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda call, timeout: call())
    node, found = SlowNode(answers=100), examining.Examined(chosen={"b": "10.0.0.2"})
    examining._look(found, {"b": node}, None)
    assert node.asked == ["clock"] * (1 + examining._CLOCK_LOOKS) + ["survey", "listen"]
    assert found.surveys == {"b": FACTS} and set(found.clocks) == {"b"} and not found.troubles


@pytest.mark.parametrize("answers", range(2 + examining._CLOCK_LOOKS))
def test_a_node_that_falls_silent_is_one_finding(answers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda call, timeout: call())
    node, found = SlowNode(answers), examining.Examined(chosen={"b": "10.0.0.2"})
    examining._look(found, {"b": node}, None)
    (trouble_,) = found.troubles
    assert trouble_.verdict == "bad" and "Get timed out" in trouble_.what
    assert len(node.asked) == answers + 1  # and it is asked no more
