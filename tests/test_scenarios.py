"""Golden texts: what two or three workers say to each other, as a play.

`pytest tests/test_scenarios.py --rewrite` writes them anew; commit them only when you understand every changed line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import ExitReading, Limits, Result, Task
from mdi_exit.policies.admission import RateAdaptation, ThresholdAdaptation
from mdi_exit.policies.arrivals import ConstantArrivals
from mdi_exit.policies.offloading import LeastExpectedDelay, MdiExitOffloading, NeverOffload
from mdi_exit.simulation.world import CONTROLLER, World

from .worlds import fresh_worker, mesh_routes, mesh_world

SCENARIOS = Path(__file__).parent / "scenarios"
_QUIET_EVENTS = (ev.SourceObserved, ev.ReportReceived, ev.RoutesChanged)
_QUIET_EFFECTS = (fx.SendReport, fx.SetTimer, fx.DiscardPayloads, fx.RecordControl)


def render(now: float, node: str, event: ev.Event, effects: list[fx.Effect]) -> list[str]:
    """One line for what happened and one for each thing to do; gossip and timers left out."""
    told = [effect for effect in effects if not isinstance(effect, _QUIET_EFFECTS)]
    if not told and isinstance(event, (*_QUIET_EVENTS, ev.TimerFired)):
        return []
    return [
        f"{now * 1000:7.1f} ms {node.strip('()'):<10} {_say(event)}",
        *(f"{'':22}-> {_say(effect)}" for effect in told),
    ]


def _say(thing: ev.Event | fx.Effect) -> str:
    hidden = ("report", "reason") if getattr(thing, "arm", 0) else ("report", "reason", "arm", "cost", "reward")
    shown = [field.name for field in dataclasses.fields(thing) if field.name not in hidden]
    words = [f"{name}={_word(getattr(thing, name))}" for name in shown]
    return f"{type(thing).__name__} {' '.join(words)}".rstrip()


def _word(value: object) -> str:
    if isinstance(value, Task):
        return f"{value.data_id}.{value.attempt}/{value.k}"
    if isinstance(value, tuple):
        return "[" + " ".join(_word(part) for part in value) + "]"
    if isinstance(value, ExitReading | Result):
        return f"({value.prediction} {value.confidence:.2f})"
    return f"{value:.4g}" if isinstance(value, float) else str(getattr(value, "value", value))


def early_and_late_exits(world: Callable[..., World]) -> None:
    """One worker alone: data leave at different exits."""
    world(1, data_max=3, admission=RateAdaptation(first_interarrival_s=0.02), offloading=NeverOffload()).run(1.0)


def hand_over(world: Callable[..., World]) -> None:
    """A loaded source hands tasks to its neighbour and gets the results back."""
    pace = RateAdaptation(first_interarrival_s=0.004)
    world(2, data_max=4, admission=pace, offloading=LeastExpectedDelay()).run(1.0)


def crash_and_return(world: Callable[..., World]) -> None:
    """The neighbour dies with a task; the source asks again, nothing is lost."""
    pace, limits = RateAdaptation(first_interarrival_s=0.004), Limits(loss_grace_s=0.05)
    made = world(2, data_max=3, admission=pace, offloading=MdiExitOffloading(), limits=limits, compute_s=0.03)
    made.run(0.018)
    made.crash("b")
    made.schedule(0.010, CONTROLLER, ev.WorkerLost("b"))
    made.schedule(0.010, "a", ev.RoutesChanged(mesh_routes(["a"], 1)["a"]))
    made.run(0.060)
    made.restart("b", fresh_worker("b", 0, MdiExitOffloading(), limits, epoch=made.epochs["b"]), {})
    for name, routes in mesh_routes(["a", "b"], 2).items():
        made.schedule(0.0, name, ev.RoutesChanged(routes))
    made.schedule(0.0, CONTROLLER, ev.WorkerJoined("b"))
    made.run(2.0)


def thresholds_spread(world: Callable[..., World]) -> None:
    """Congestion lowers the thresholds at the source, and then everywhere."""
    admission = ThresholdAdaptation(period_s=0.05, queue_low=1, queue_high=2)
    made = world(2, data_max=8, admission=admission, arrivals=ConstantArrivals(200.0), compute_s=0.02)
    made.run(0.12)


@pytest.mark.parametrize("scenario", [early_and_late_exits, hand_over, crash_and_return, thresholds_spread])
def test_the_play_goes_as_written(scenario: Callable[..., None], request: pytest.FixtureRequest) -> None:
    lines = [f"# {scenario.__doc__}"]

    def world(count: int, **options: object) -> World:
        return mesh_world(count, observe=lambda *step: lines.extend(render(*step)), **options)  # type: ignore[arg-type]

    scenario(world)
    path = SCENARIOS / f"{scenario.__name__}.txt"
    played = "\n".join(lines) + "\n"
    if request.config.getoption("--rewrite"):
        path.write_text(played, encoding="utf-8")
    assert played == path.read_text(encoding="utf-8")
