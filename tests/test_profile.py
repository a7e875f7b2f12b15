"""Profiles: what is measured of emulated devices and links, what is written, and that it is not emulated twice."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mdi_exit import compute
from mdi_exit.assembly import load_card
from mdi_exit.channel import Channel
from mdi_exit.cli.profiled import write
from mdi_exit.compute.pacing import PacedRunner
from mdi_exit.config.load import load_experiment
from mdi_exit.core.types import ExitReading
from mdi_exit.devices import Overhead
from mdi_exit.errors import UserError
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.probe import Prober, SliceTimes, WayTimes, _waits, summary
from mdi_exit.runtime.profiling import SLICES_MAX, Profiled, profile, slices_to_time

from .test_cli import here, mdi_exit, refused

STEADY = "memory_bytes: 8500000\nsegment_s: {mobilenet_v2@32: [0.004, 0.008, 0.004, 0.008, 0.004]}\n"
RUNTIME = Overhead(0.001, 0.0004, 0.002)
GRAPH = """source: a
workers: {a: {device: steady.yaml}, b: {device: steady.yaml, speed: 2}}
links:
  - {from: a, to: b, bandwidth: 20 Mbit/s, latency_s: 0.01}
  - {from: b, to: a, bandwidth: 5 Mbit/s}
"""


@pytest.mark.ray
def test_emulated_devices_and_links_are_measured_as_they_are_emulated(tmp_path: Path) -> None:
    (tmp_path / "steady.yaml").write_text(STEADY, encoding="utf-8")
    (tmp_path / "graph.yaml").write_text(GRAPH, encoding="utf-8")
    words = ("near-optimal", "--set", "topology=graph.yaml", "--set", "devices=null", "--seconds", "1")
    done = mdi_exit("profile", *words, "--out", "m", folder=tmp_path, within_s=240)
    assert done.returncode == 0, done.stderr
    measured = load_experiment(tmp_path / "m" / "experiment.yaml")
    assert measured.runtime.emulate == "all"  # they stand for others
    segment_s = [0.004, 0.008, 0.004, 0.008, 0.004]
    for worker, speed in (("a", 1), ("b", 2)):
        device = measured.devices[worker]
        assert device is not None and device.memory_bytes == 8_500_000
        slices = device.slice_s.get("mobilenet_v2@32", {})  # those that differ from their segments' sum
        assert "1-5" not in slices  # the whole does not fit
        # Whatever else the machine does, a paced device is never faster than its profile, nor a shaped link than its
        # bandwidth; of what one step slept too long the next one has less, so that single ones may be shorter.
        found = zip(device.seconds("mobilenet_v2", 32), segment_s, strict=True)
        assert all(seconds >= 0.5 * given / speed for seconds, given in found)
        assert sum(device.seconds("mobilenet_v2", 32, (1, 2, 3, 4))[:4]) >= 0.9 * 0.024 / speed
    there, back = measured.topology.carrier("a", "b"), measured.topology.carrier("b", "a")
    assert there is not None and back is not None and there != back
    assert 0 < (there.shape.bandwidth_bps or 0) <= 21e6 and 0 < (back.shape.bandwidth_bps or 0) <= 5.3e6
    assert there.shape.latency_s >= 0.005 and back.shape.latency_s >= 0.005  # halves of a round trip, 10 ms one way
    planned = mdi_exit("plan", "m/experiment.yaml", "--no-check", "--out", "out/p", folder=tmp_path, within_s=240)
    assert planned.returncode == 0 and "does not fit" in planned.stdout, planned.stderr
    again, first = load_experiment(tmp_path / "out" / "p" / "plan.yaml").devices["b"], measured.devices["b"]
    assert again is not None and first is not None and again.slice_s == first.slice_s


def by_hand(folder: Path, devices: str | None = None, **links: str) -> Path:
    """Write what would have been measured of two workers, and return the experiment."""
    settings = {"topology": "2-node", "devices": devices, "links": links, "runtime": {"port_base": 7000}}
    measured = Profiled(
        load_card(load_experiment()),
        dict.fromkeys(
            ("n1", "n2"), SliceTimes({"1-5": 0.01, "1": 0.003}, dict.fromkeys(range(1, 6), 0.002), 0.1, 10**9)
        ),
        {("n1", "n2"): WayTimes(0.004, 1e7), ("n2", "n1"): WayTimes(0.006, 2e7)},
        dict.fromkeys(("n1", "n2"), RUNTIME),
    )
    write("near-optimal", settings, load_experiment("near-optimal", settings), measured, folder)
    return folder / "experiment.yaml"


def test_what_was_measured_as_it_is_is_not_emulated_on_top_of_itself(tmp_path: Path) -> None:
    measured = load_experiment(by_hand(tmp_path))
    assert measured.runtime.emulate == "none" and measured.runtime.port_base == 7000
    device = measured.devices["n1"]
    assert device is not None and device.memory_bytes == 5 * 10**8 and device.spread == 0.1
    assert device.runtime == RUNTIME
    assert device.seconds("mobilenet_v2", 32) == pytest.approx([0.002] * 5)
    assert device.occupied_s("mobilenet_v2", 32) == pytest.approx([0.002 + RUNTIME.task_s] * 5)
    life = Life(measured, compute.prepare(measured.model), "n1", 0, time.time())
    emulating = dataclasses.replace(measured.runtime, emulate="all")
    other = dataclasses.replace(life, experiment=dataclasses.replace(measured, runtime=emulating))
    with contextlib.ExitStack() as opened:
        assert not isinstance(life.runner(), PacedRunner) and life.shapers(opened, 0.0) == {}
        assert isinstance(other.runner(), PacedRunner)
        assert other.shapers(opened, 0.0)["n2"].shape.bandwidth_bps == 1e7
    links = dataclasses.replace(measured.runtime, emulate="links")
    third = dataclasses.replace(life, experiment=dataclasses.replace(measured, runtime=links))
    with contextlib.ExitStack() as opened:
        assert not isinstance(third.runner(), PacedRunner) and set(third.shapers(opened, 0.0)) == {"n2"}
    assert load_experiment(by_hand(tmp_path / "nano", "jetson-nano")).runtime.emulate == "all"
    assert load_experiment(by_hand(tmp_path / "slow", bandwidth="1 Mbit/s")).runtime.emulate == "links"


def test_loss_and_noise_of_links_stay_as_they_were(tmp_path: Path) -> None:
    settings = {"links.loss": 0.1, "links.snr_db": 7, "links.fading": "rayleigh"}
    given = load_experiment("noisy-channel", settings)
    ways = {("n1", "n2"): WayTimes(0.004, 1e7), ("n2", "n1"): WayTimes(0.006, 2e7)}
    times = SliceTimes({"1": 0.003}, dict.fromkeys(range(1, given.exits + 1), 0.002), 0.1, 10**9)
    own = dict.fromkeys(("n1", "n2"), RUNTIME)
    measured = Profiled(load_card(given), dict.fromkeys(("n1", "n2"), times), ways, own)
    write("noisy-channel", settings, given, measured, tmp_path)
    written = load_experiment(tmp_path / "experiment.yaml")
    assert written.exit == given.exit  # which knows the SNR
    for (a, b), way in ways.items():
        link = written.topology.carrier(a, b)
        assert link is not None and link.shape.bandwidth_bps == way.bandwidth_bps
        assert (link.shape.loss, link.shape.noise) == (0.1, Channel(7, "rayleigh"))


def test_a_device_that_cannot_hold_a_segment_cannot_be_profiled() -> None:
    with pytest.raises(UserError, match=r"^n1: segment 1 takes 87592 bytes of weights, it has 7000; allowed:"):
        slices_to_time(load_experiment(), {"n1": 7_000})


def test_no_more_slices_are_timed_than_is_said() -> None:
    shipped = load_experiment()
    every = slices_to_time(shipped, {"n1": 10**9})["n1"]
    assert len(every) == len(set(every)) == 15 <= SLICES_MAX
    assert max(map(len, slices_to_time(shipped, {"n1": 7_000_000})["n1"])) == 4


def test_links_that_share_a_channel_are_refused(tmp_path: Path) -> None:
    (tmp_path / "air.yaml").write_text(
        "source: a\nworkers: [a, b]\nlinks: [{between: [a, b], bandwidth: 1 Mbit/s, channel: wifi}]\n", encoding="utf-8"
    )
    on_air = load_experiment("near-optimal", {"topology": str(tmp_path / "air.yaml")})
    with pytest.raises(UserError, match=r"links on channel wifi are measured one at a time.*allowed: links without"):
        profile(on_air, True, lambda: False, 1.0, print)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("near-optimal", "--address", "127.0.0.1:1"), "nobody answers there"),
        (("nothing",), "no such file; allowed: an experiment's YAML file"),
        (("near-optimal", "--seconds", "0"), "--seconds"),
    ],
)
def test_what_cannot_be_profiled_is_one_line(
    words: tuple[str, ...],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert complaint in refused(here("profile", *words, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys))


class Stopped:
    """A runner of two segments that take as long, one of which is always stopped by the system for a while."""

    def __init__(self, hosted: tuple[int, ...]) -> None:
        self.hosted, self.exits = hosted, 2

    def feature_shape(self, k: int) -> tuple[int, ...]:
        return (4,)

    def feature_bytes(self, k: int) -> int:
        return 16

    def run(self, k: int, batch: NDArray[Any]) -> tuple[list[ExitReading], NDArray[np.float32] | None]:
        until_s = time.thread_time() + 0.002
        while time.thread_time() < until_s:
            pass
        if k == 2:
            time.sleep(0.004)
        return [ExitReading(0.5, 0, 0.5)], batch.astype(np.float32)


def test_whom_a_control_group_stops_is_not_the_slower_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment("near-optimal", {"topology": "2-node", "devices": None})
    life = Life(experiment, compute.prepare(experiment.model), "n1", 0, time.time())
    monkeypatch.setattr(Life, "runner", lambda life: Stopped(life.experiment.hosted[life.name]))
    found = Prober().time_slices(life, [(1, 2)], 0.5).segment_s
    assert found[1] == pytest.approx(found[2], rel=0.2)
    assert sum(found.values()) > 0.007  # and both together take as long as they take


def test_a_slice_is_told_of_where_it_is_not_the_sum_of_its_segments() -> None:
    """Slice 1-2 by chance took longer than its segments and slice 2-3, which does not fit a cache, always does."""
    once: dict[tuple[int, ...], list[list[float]]] = {(1,): [[1.0]] * 9, (2,): [[1.0]] * 9, (3,): [[1.0]] * 9}
    once |= {(1, 2): [[1.0, 1.0]] * 8 + [[9.0, 1.0]], (2, 3): [[2.0, 2.0]] * 9}
    found = summary({hosted: [passes] * 3 for hosted, passes in once.items()}, 10**9)
    assert set(found.slice_s) >= {"2-3"} and "1-2" not in found.slice_s
    assert found.slice_s["2-3"] == pytest.approx(4.0)
    assert found.segment_s[1] == pytest.approx((9 + 17) / 18) and found.available_bytes == 10**9


def test_a_slice_that_was_slow_for_a_while_is_not_told_of() -> None:
    """For a third of the time something else ran while 1-2 was timed: by its mean it is far from its segments' sum."""
    quiet: dict[tuple[int, ...], list[list[float]]] = {(1,): [[1.0]] * 9, (2,): [[1.0]] * 9, (1, 2): [[1.0, 1.0]] * 9}
    found = summary({h: [p, [[5.0] * len(h)] * 9 if len(h) == 2 else p, p] for h, p in quiet.items()}, 10**9)
    assert found.slice_s == {}
    # But what is slow all the time is, although the whole machine is slower in one round than in the others.
    slow = {**quiet, (1, 2): [[2.0, 2.0]] * 9}
    rounds = {h: [p, [[3 * s for s in row] for row in p], p] for h, p in slow.items()}
    assert summary(rounds, 10**9).slice_s["1-2"] == pytest.approx(4 * 5 / 3)


def test_whose_processor_time_counts() -> None:
    """That of a thread says nothing of what others do, nor of a device that sleeps or is a GPU."""

    def waits(runner: Any = None, **runtime: Any) -> bool:
        experiment = load_experiment("near-optimal")
        changed = dataclasses.replace(experiment, runtime=dataclasses.replace(experiment.runtime, **runtime))
        return _waits(Life(changed, compute.prepare(experiment.model), "n1", 0, time.time()), runner)

    assert not waits() and not waits(device="cpu", threads_per_worker=1)
    assert waits(threads_per_worker=2) and waits(device="cuda:1")
    assert waits(PacedRunner(Stopped((1,)), [0.001] * Stopped((1,)).exits, 0.0, Random(0)))
    assert waits(device="auto") == torch.cuda.is_available()
