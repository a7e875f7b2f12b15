"""The fluid bound of experiments: what is read from them, and that no policy beats it in virtual time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdi_exit.analysis.fluid import FluidProblem, continuation, problem_of
from mdi_exit.analysis.optimum import optimum
from mdi_exit.assembly import datum_index, load_card
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.errors import UserError
from mdi_exit.policies import OFFLOADING
from mdi_exit.simulation.frames import FrameSizes
from mdi_exit.trace import ExitTrace

from . import recorded

HEADER_BYTES = FrameSizes("n1").tasks(1)
SLOW = {"bandwidth": "1 Mbit/s", "latency_s": 0.01}
SELDOM: dict[str, Any] = {"arrivals": {"rule": "constant", "rate_per_s": 10.0}, "thresholds": 1.0}
FAST_START = {"rule": "rate_adaptation", "period_s": 0.2, "signal": "in_flight", "first_interarrival_s": 0.01}


def trace_of(rows: list[int], exits: int = 5) -> ExitTrace:
    """These rows of the recorded runs' trace."""
    whole = recorded.TRACE
    said = (whole.confidence[rows, :exits], whole.prediction[rows, :exits], whole.entropy[rows, :exits])
    return ExitTrace(*said, whole.label[rows], (*whole.payload_bytes[:exits], 0), whole.classes, "")


def measured(example: str, seconds: float, **changes: Any) -> tuple[float, float]:
    """Data per second that a run answered, and the bound for just these data."""
    run = recorded.record(example, until_s=seconds, close=False, admission=FAST_START, **changes)
    answers = [effect for step in run.steps for effect in step.effects if isinstance(effect, fx.DeliverResults)]
    data_ids = sorted({result.data_id for answer in answers for result in answer.results})
    rows = [datum_index(run.experiment, d, len(recorded.TRACE)) for d in data_ids]
    bound = optimum(problem_of(run.experiment, run.card, trace_of(rows), header_bytes=HEADER_BYTES))
    return len(data_ids) / seconds, bound.rate_per_s


@pytest.mark.parametrize("offloading", OFFLOADING)
@pytest.mark.parametrize(
    ("example", "changes"),
    [
        ("heterogeneous", {}),
        ("heterogeneous", {"links": SLOW}),
        ("heterogeneous", {"links": SLOW, "worker": {"group_max": 4, "link_window": 2}}),
        ("find-rate", {"topology": "3-node-circular"}),
        ("sliced-line", {}),
    ],
    ids=["mesh", "slow links", "groups and windows", "one-way ring", "slices"],
)
def test_no_policy_beats_the_bound(example: str, changes: dict[str, Any], offloading: str) -> None:
    rate, bound = measured(example, 6.0, offloading=offloading, **changes)
    assert 0 < rate <= 1.02 * bound  # each worker's own share of hard data differs a little from all data's


def test_where_there_is_no_choice_the_bound_is_what_is_reached() -> None:
    rate, bound = measured("find-rate", 40.0, topology="local")
    assert 0.97 * bound <= rate <= 1.02 * bound


@pytest.mark.parametrize(
    ("worker", "limits"), [({}, "window n1->n2"), ({"group_max": 2, "link_window": 3}, "link n1->n2")]
)
def test_a_slow_link_between_slices_is_used_as_the_bound_says(worker: dict[str, Any], limits: str) -> None:
    changes = {"topology": "2-node", "placement": {"n1": "1", "n2": "2-5"}, "links": SLOW, "worker": worker}
    rate, bound = measured("find-rate", 30.0, thresholds=0.3, **changes)
    assert 0.93 * bound <= rate <= 1.02 * bound
    experiment = load_experiment("find-rate", changes)
    assert optimum(problem_of(experiment, load_card(experiment), trace_of([*range(200)]))).bottlenecks[0].name == limits


def test_what_the_runtime_takes_is_taken_in_virtual_time_too(tmp_path: Path) -> None:
    text = "memory_bytes: 10000000\nsegment_s: {mobilenet_v2@32: [0.01, 0.01, 0.01, 0.01, 0.01]}\n"
    taken = "runtime_s: {datum: 0.004, task: 0.002, hop: 0.02}\n"
    (tmp_path / "free.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "dear.yaml").write_text(text + taken, encoding="utf-8")
    line = {"topology": "2-node", "placement": {"n1": "1", "n2": "2-5"}, "thresholds": 0.3}
    rates = {}
    for name in ("free", "dear"):
        rates[name], bound = measured("find-rate", 30.0, devices=str(tmp_path / f"{name}.yaml"), **line)
        assert 0.93 * bound <= rates[name] <= 1.02 * bound
    assert rates["dear"] < 0.8 * rates["free"]


DEAR = "runtime_s: {datum: 0.004, task: 0.002, hop: 0.02}\n"


def dear_line(folder: Path, middle: str) -> dict[str, Any]:
    """A line a - b - c of devices to which a hand-over is dear; a has segment 1, c the others."""
    text = "memory_bytes: 10000000\nsegment_s: {mobilenet_v2@32: [0.001, 0.001, 0.001, 0.001, 0.001]}\n"
    (folder / "dear.yaml").write_text(text + DEAR, encoding="utf-8")
    graph = "source: a\nworkers: [a, b, c]\nlinks: [{between: [a, b]}, {between: [b, c]}]\n"
    (folder / "line.yaml").write_text(graph, encoding="utf-8")
    placement = {"a": "1", "b": middle, "c": "2-5"}
    return {"topology": str(folder / "line.yaml"), "devices": str(folder / "dear.yaml"), "placement": placement}


@pytest.mark.parametrize("offloading", OFFLOADING)
@pytest.mark.parametrize("middle", ["1", "2-3"], ids=["relaying", "computing"])
def test_who_relays_pays_for_it_too(middle: str, offloading: str, tmp_path: Path) -> None:
    line = dear_line(tmp_path, middle)
    rate, bound = measured("find-rate", 20.0, offloading=offloading, thresholds=0.99, **line)
    assert 0 < rate <= 1.02 * bound
    if (middle, offloading) == ("1", "dual_backpressure"):  # b, which computes nothing to speak of, is what limits
        assert rate >= 0.6 * bound


def test_what_a_step_takes_delays_what_comes_next_and_nothing_later(tmp_path: Path) -> None:
    """Data come seldom: each finds the worker idle, which owes nothing of before, and computing is counted alone."""
    devices = dear_line(tmp_path, "1")["devices"]
    run = recorded.record("find-threshold", until_s=3.0, close=False, topology="local", devices=devices, **SELDOM)
    came_s, took_s = {}, []
    for step in run.steps:
        if isinstance(step.event, ev.TasksArrived):
            came_s.update({task.data_id: step.now for task in step.event.tasks})
        elif isinstance(step.event, ev.SegmentDone):
            assert step.event.duration_s == pytest.approx(0.001)
            took_s.append(step.now - came_s[step.event.tasks[0].data_id] - (step.event.k - 1) * 0.003)
    assert len(took_s) > 20 and took_s == pytest.approx([0.005] * len(took_s))


# ---- what is read from an experiment


def described(example: str = "heterogeneous", trace: ExitTrace | None = None, **changes: Any) -> FluidProblem:
    options = {key: changes.pop(key) for key in ("measured_s", "header_bytes", "result_bytes") if key in changes}
    experiment = load_experiment(example, changes)
    return problem_of(experiment, load_card(experiment), trace or trace_of([*range(50)]), **options)


def test_workers_are_as_fast_as_their_devices_or_as_was_measured() -> None:
    found = described()
    nano = (0.00702, 0.0078, 0.00858, 0.00858, 0.00702)  # cluster/devices/jetson-nano.yaml
    assert found.compute_s[0] == pytest.approx(nano) and found.compute_s[3] == pytest.approx(np.array(nano) * 2)
    assert described(measured_s={"n2": (1, 2, 3, 4, 5)}).compute_s[1] == pytest.approx([1, 2, 3, 4, 5])
    sliced = described("sliced-line")
    assert [np.flatnonzero(np.isfinite(row)).tolist() for row in sliced.compute_s] == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_links_carry_what_leads_somewhere_and_take_a_round_trip() -> None:
    sliced = described("sliced-line", links=SLOW, header_bytes=100)
    way = sliced.links.index(("n1", "n2"))
    assert np.isfinite(sliced.send_s[way]).tolist() == [False, True, True, True, True]  # segment 1 is n1's alone
    assert not np.isfinite(sliced.send_s[sliced.links.index(("n4", "n3")), 4])
    assert sliced.send_s[way, 1] == pytest.approx((24_576 + 100) * 8e-6)
    assert sliced.wait_s is not None and sliced.wait_s[way, 1] == pytest.approx((24_576 + 200) * 8e-6 + 2 * 0.01)
    grouped = described("sliced-line", links=SLOW, header_bytes=100, worker={"group_max": 4, "link_window": 3})
    assert grouped.send_s[way, 1] == pytest.approx((24_576 + 25) * 8e-6)
    assert grouped.wait_s is not None
    assert grouped.wait_s[way, 1] == pytest.approx(((24_576 + 50) * 8e-6 + 2 * 0.01 / 4) / 3)
    lossy = described("sliced-line", links={**SLOW, "loss": 0.5})
    assert lossy.send_s[way, 1] == pytest.approx(2 * 24_576 * 8e-6)
    assert described(topology="3-node-circular", devices="jetson-nano").links == (
        ("n1", "n2"), ("n2", "n3"), ("n3", "n1"),
    )  # fmt: skip


def test_results_travel_free_unless_their_size_is_given() -> None:
    assert described(links=SLOW).result_s is None
    ring: dict[str, Any] = {"topology": "3-node-circular", "devices": "jetson-nano", "links": SLOW}
    found = described(**ring, result_bytes=20_000)
    assert found.result_s is not None and found.result_s == pytest.approx([0.16] * 3)
    assert "link n3->n1" in optimum(found).binding()
    assert optimum(found).rate_per_s < optimum(dataclasses.replace(found, result_s=None)).rate_per_s


def test_one_radio_channel_is_less_than_many_links() -> None:
    on_air = optimum(described(links={**SLOW, "channel": "air"}))
    assert on_air.nu["air"] > 0
    assert on_air.rate_per_s < 0.9 * optimum(described(links=SLOW)).rate_per_s


def test_a_bandwidth_that_changes_counts_with_its_mean(tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text("1 2e6\n1 0 # out\n")
    varying = {"bandwidth_trace": str(tmp_path / "trace.txt"), "latency_s": 0.01}
    assert described(links=varying).send_s == pytest.approx(described(links=SLOW).send_s)


def test_the_exit_policy_is_asked_who_goes_on() -> None:
    trace = trace_of([*range(50)])
    assert described(trace=trace, thresholds=0.7).continuation == continuation(trace, (0.7,) * 4)
    assert described(trace=trace, exit="never").continuation == (1, 1, 1, 1)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="the trace has 4 exits; allowed: 5, as many as the model"):
        described(trace=trace_of([*range(50)], exits=4))
    with pytest.raises(UserError, match="n1: has no device profile; allowed: one for every worker, or measured times"):
        described(devices=None)
    with pytest.raises(UserError, match="n2: 2 measured times; allowed: one per segment, 5"):
        described(measured_s={"n2": (1, 2)})
