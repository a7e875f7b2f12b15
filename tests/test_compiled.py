"""The compiled installation: what is tested is really compiled, and decides as the sources do."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from mdi_exit import assembly
from mdi_exit.compiled import MODULES, is_compiled
from mdi_exit.config.load import load_experiment
from mdi_exit.journal import Fingerprint
from mdi_exit.machine import machine
from mdi_exit.shaping import BandwidthTrace, Shape
from mdi_exit.simulation.run import simulate
from mdi_exit.trace import trace_of

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ("near-optimal", "churn", "drift-plus-penalty", "hold-latency", "calibrated-offloading")
only_compiled = pytest.mark.skipif(not is_compiled(), reason="mdi-exit is not compiled: make test COMPILED=1")


def fingerprint(name: str) -> str:
    """Of every step of a short simulation."""
    experiment, found = load_experiment(name, {"duration_s": 9.0, "seed": 5}), Fingerprint()
    card = assembly.load_card(experiment)
    trace = trace_of(experiment.model, card.identity, experiment.exits)[1]
    simulate(experiment, card, trace, observe=found.add)
    return str(found)


def test_compiled_is_all_or_nothing_and_is_told() -> None:
    files = [importlib.import_module(module).__file__ or "" for module in MODULES]
    assert {Path(file).suffix != ".py" for file in files} == {is_compiled()}
    assert machine()["compiled"] == is_compiled()


def test_nothing_compiled_lies_beside_the_sources() -> None:
    assert [*(ROOT / "mdi_exit").rglob("*.so"), *(ROOT / "mdi_exit").rglob("*.pyd")] == []


def test_what_travels_between_processes_can() -> None:
    trace = BandwidthTrace(((1.0, 2e6), (0.5, 0.0)), file="bandwidth.csv")
    for value in (trace, Shape(bandwidth_trace=trace, latency_s=0.1), Shape(bandwidth_bps=1e6, channel="air")):
        again = pickle.loads(pickle.dumps(value))
        assert again == value and again.mean_bps == value.mean_bps
    assert pickle.loads(pickle.dumps(trace)).file == "bandwidth.csv"


@only_compiled
def test_what_is_tested_is_what_was_installed() -> None:
    assert not Path(assembly.__file__).is_relative_to(ROOT / "mdi_exit")


@only_compiled
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_compiled_or_not_every_step_is_the_same(name: str) -> None:
    words = f"from tests.test_compiled import *; assert not is_compiled(); print(fingerprint({name!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == (fingerprint(name), 0), done.stderr
