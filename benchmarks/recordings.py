"""What split.py replays: recorded confidences of two networks, and the threshold that suits each."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mdi_exit.policies.bandit import replay
from mdi_exit.policies.splitting import FixedSplit, Setting, best_split
from mdi_exit.trace import ExitTrace

DATA = Path(__file__).resolve().parent / "data" / "text_transformer"
DISTORTED = Path(__file__).resolve().parent / "data" / "distorted"
COSTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # of offloading
GRID = [round(0.5 + 0.05 * step, 2) for step in range(11)]  # thresholds tried; at 1 all is offloaded
DROP_MAX = 0.01  # of the accuracy on development data, for a threshold to be chosen


@dataclass(frozen=True)
class Backbone:
    """A recording to choose the threshold on, another to report, and how its layers are counted."""

    development: ExitTrace
    test: ExitTrace
    setting: Setting


def _text() -> Backbone:
    traces = [ExitTrace.load(DATA / f"{part}.trace.npz") for part in ("dev", "test")]
    return Backbone(traces[0], traces[1], Setting(tuple(float(layer) for layer in range(1, 13))))


def _mobilenet() -> Backbone:
    test = ExitTrace.load(str(resources.files("mdi_exit") / "assets" / "mobilenetv2-cifar10-sample.trace.npz"))
    # features 3, 6, 10, 13 and 18 end the segments: so many of I-SplitEE's 19 layers
    setting = Setting((4.0, 7.0, 11.0, 14.0, 19.0), exit_share=0.0)
    return Backbone(ExitTrace.load(DISTORTED / "none-held-out.trace.npz"), test, setting)


BACKBONES: Mapping[str, Callable[[], Backbone]] = {"text": _text, "mobilenet_v2": _mobilenet}


@cache
def recorded(backbone: str) -> tuple[list[Any], list[Any], Setting, list[Any]]:
    """Confidences and correctness of the test data, the setting with its threshold, confidences of the other data."""
    made = BACKBONES[backbone]()
    development = lists(made.development)
    setting = dataclasses.replace(made.setting, threshold=choose_threshold(*development, made.setting))
    return *lists(made.test), setting, development[0]


def lists(trace: ExitTrace) -> tuple[list[Any], list[Any]]:
    """Confidences and correctness, samples x exits."""
    return trace.confidence.tolist(), (trace.prediction == trace.label[:, None]).tolist()


def choose_threshold(rows: list[Any], right: list[Any], setting: Setting) -> float:
    """The cheapest threshold of GRID whose best split loses little against the last exit, whatever offloading costs.

    At 1 all is offloaded and nothing lost, so there always is one.
    """
    whole = statistics.fmean(row[-1] for row in right)
    found: list[tuple[float, float]] = []
    for alpha in GRID:
        done = []
        for offload_cost in COSTS:
            tried = dataclasses.replace(setting, threshold=alpha, offload_cost=offload_cost)
            done.append(replay(FixedSplit(best_split(tried, rows)), rows, right, tried, random.Random(0)))
        if whole - min(one.accuracy or 0.0 for one in done) <= DROP_MAX or alpha == GRID[-1]:
            found.append((statistics.fmean(one.cost for one in done), alpha))
    return min(found)[1]
