"""Who hosts what: slices as they are written, the automatic split, and what could never be finished."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdi_exit.core.types import Limits
from mdi_exit.placement import Capacity, PlacementError, check, place
from mdi_exit.topology import Link, Topology

PAIR = Topology("pair", "a", ("a", "b"), (Link("a", "b"),))
HUB = Topology("hub", "h", ("x", "h", "y", "z"), (Link("h", "x"), Link("h", "y"), Link("y", "z")))


def line(length: int) -> Topology:
    names = tuple(f"n{i}" for i in range(length))
    return Topology("line", "n0", names, tuple(Link(a, b) for a, b in itertools.pairwise(names)))


@pytest.mark.parametrize(
    ("spec", "segments"),
    [("all", (1, 2, 3, 4)), ("2-3", (2, 3)), ("4-4", (4,)), ("2", (2,)), (3, (3,)), ((1, 2), (1, 2)), ((4,), (4,))],
)
def test_a_slice_may_be_written_in_several_ways(spec: object, segments: tuple[int, ...]) -> None:
    assert place(spec, PAIR, 4) == {"a": segments, "b": segments}  # type: ignore[arg-type]
    assert place({"b": spec}, PAIR, 4) == {"a": (1, 2, 3, 4), "b": segments}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ((1, 3), r"^b: \[1, 3\] is not contiguous; allowed: all, first-last within 1-4"),
        ((2, 1), "not contiguous"),
        ((2, 2), "not contiguous"),
        ("2-5", "'2-5' is not within the model's 4 segments"),
        ("0-2", "not within"),
        ((0, 1), "not within"),
        ("1-99999999999", "not within"),
        ("3-2", "'3-2' is no slice"),
        ("", "no slice"),
        ("first", "no slice"),
        ("-1", "no slice"),
        ("auto", "'auto' is no slice"),
        ((), r"\[\] is no slice"),
        (None, "None is no slice"),
        (True, "True is no slice"),
        ((1, True), "no slice"),
        (1.0, "no slice"),
    ],
)
def test_what_is_no_slice_is_refused(spec: object, complaint: str) -> None:
    with pytest.raises(PlacementError, match=complaint) as refusal:
        place({"b": spec}, PAIR, 4)  # type: ignore[dict-item]
    assert refusal.value.worker == "b"


def test_an_unknown_worker_is_refused() -> None:
    with pytest.raises(PlacementError, match="unknown worker 'c'; allowed: a, b"):
        place({"c": "all"}, PAIR, 4)


# ---- what could never be finished


def test_each_segment_must_be_hosted_by_somebody() -> None:
    check({"a": (1, 2), "b": (3,)}, PAIR, 3, Limits())
    with pytest.raises(PlacementError, match="segment 2 of 3 is hosted nowhere; allowed: each segment by somebody"):
        check({"a": (1,), "b": (3,)}, PAIR, 3, Limits())


def test_a_host_must_be_within_the_links_a_task_may_cross() -> None:
    far = line(6)
    hosted = {**dict.fromkeys(far.workers, (1,)), "n0": (1,), "n5": (2,)}
    check(hosted, far, 2, Limits(hops_max=5))
    with pytest.raises(PlacementError, match=r"segment 2 is 5 links away from n0.*allowed: 4 \(limits.hops_max\)"):
        check(hosted, far, 2, Limits(hops_max=4))


def test_a_long_line_of_workers_that_host_everything_is_fine() -> None:
    long = line(30)
    check(place("all", long, 3), long, 3, Limits(hops_max=1))


def test_the_source_needs_not_host_the_first_segment() -> None:
    check({"a": (2,), "b": (1,)}, PAIR, 2, Limits(hops_max=1))
    far = line(3)
    with pytest.raises(PlacementError, match="segment 1 is 2 links away from n0"):
        check({"n0": (2,), "n1": (2,), "n2": (1,)}, far, 2, Limits(hops_max=1))


# ---- auto


def test_auto_shares_the_work_out_by_hops_from_the_source() -> None:
    assert place("auto", HUB, 4) == {"h": (1,), "x": (2,), "y": (3,), "z": (4,)}
    assert place("auto", PAIR, 3) == {"a": (1, 2), "b": (2, 3)}  # the middle one falls to both
    assert place("auto", line(1), 3) == {"n0": (1, 2, 3)}
    assert place("auto", line(4), 2) == {"n0": (1,), "n1": (1,), "n2": (2,), "n3": (2,)}


def test_auto_gives_a_faster_worker_more() -> None:
    slow, fast = Capacity((3.0,) * 4, 10**9), Capacity((1.0,) * 4, 10**9)
    assert place("auto", PAIR, 4, {"a": slow, "b": fast}) == {"a": (1,), "b": (2, 3, 4)}
    assert place("auto", PAIR, 4, {"a": fast, "b": slow}) == {"a": (1, 2, 3), "b": (4,)}


def test_auto_counts_a_segments_work_and_not_its_number() -> None:
    heavy_start = Capacity((6.0, 2.0, 2.0, 2.0), 10**9)
    assert place("auto", PAIR, 4, {"a": heavy_start, "b": heavy_start}) == {"a": (1,), "b": (2, 3, 4)}


def test_auto_keeps_within_memory_and_others_step_in() -> None:
    small, large = Capacity((1.0,) * 4, 25), Capacity((1.0,) * 4, 100)
    assert place("auto", PAIR, 4, {"a": large, "b": small}, (10, 10, 10, 20)) == {"a": (1, 2, 3), "b": (4,)}
    assert place("auto", PAIR, 4, {"a": small, "b": large}, (20, 10, 10, 10)) == {"a": (1,), "b": (2, 3, 4)}


def test_auto_refuses_devices_that_are_too_small() -> None:
    small = Capacity((1.0,) * 4, 15)
    with pytest.raises(PlacementError, match="no segment due there fits into its device's 15 bytes") as refusal:
        place("auto", PAIR, 4, {"a": small, "b": small}, (20, 20, 10, 10))
    assert refusal.value.worker == "a"
    hosted = place("auto", PAIR, 4, {"a": small, "b": small}, (10, 10, 10, 10))
    with pytest.raises(PlacementError, match="segment 2 of 4 is hosted nowhere"):
        check(hosted, PAIR, 4, Limits())


def test_auto_wants_profiles_for_all_or_none() -> None:
    with pytest.raises(PlacementError, match="b: auto wants a device profile for every worker or for none"):
        place("auto", PAIR, 2, {"a": Capacity((1.0, 1.0), 9)})


@given(st.integers(1, 7), st.integers(1, 6), st.data())
def test_auto_hosts_everything_in_contiguous_slices_that_fit(workers: int, exits: int, data: st.DataObject) -> None:
    topology = line(workers)
    times = st.tuples(*[st.floats(1e-3, 10)] * exits)
    sizes = data.draw(st.tuples(*[st.integers(1, 50)] * exits))
    room = st.integers(50, 400)  # any one segment fits
    capacities = {name: Capacity(data.draw(times), data.draw(room)) for name in topology.workers}
    hosted = place("auto", topology, exits, capacities, sizes)
    for worker, segments in hosted.items():
        assert segments == tuple(range(segments[0], segments[-1] + 1))
        assert sum(sizes[k - 1] for k in segments) <= capacities[worker].memory_bytes
    if sum(sizes) <= min(capacity.memory_bytes for capacity in capacities.values()):
        check(hosted, topology, exits, Limits())
        firsts = [hosted[name][0] for name in topology.workers]
        assert firsts == sorted(firsts)  # the stretches follow one another along the line
