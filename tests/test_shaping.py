"""What a link does to frames: one after the other, later, again after a loss, in turns on a radio channel."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdi_exit.runtime.radio import RadioChannel
from mdi_exit.shaping import BACKLOG_MAX, BandwidthTrace, OwnMedium, Shape, Shaper


def test_frames_leave_one_after_the_other_and_arrive_the_latency_later() -> None:
    shaper = Shaper(Shape(bandwidth_bps=8_000, latency_s=0.5), random.Random(1))
    assert [shaper.release_s(1000, 0.0), shaper.release_s(500, 0.0)] == [1.5, 2.0]
    assert shaper.release_s(1000, 10.0) == 11.5  # the link was idle in between


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 3)), min_size=1, max_size=30),
    bandwidth_bps=st.floats(1e3, 1e6),
    latency_s=st.floats(0, 1),
)
def test_no_frame_is_faster_than_the_link_and_none_overtakes(
    sizes: list[tuple[int, float]], bandwidth_bps: float, latency_s: float
) -> None:
    shaper, now, last_s, sent_bits = Shaper(Shape(bandwidth_bps, latency_s), random.Random(1)), 0.0, 0.0, 0
    for size, gap_s in sizes:
        now += gap_s
        sent_bits += size * 8
        release_s = shaper.release_s(size, now)
        assert release_s is not None and release_s >= max(last_s, now + latency_s + size * 8 / bandwidth_bps - 1e-9)
        assert release_s >= sent_bits / bandwidth_bps + latency_s - 1e-6
        last_s = release_s


def test_losses_are_drawn_from_the_seed_and_make_a_frame_and_those_behind_it_late() -> None:
    lossy = [Shaper(Shape(loss=0.25), random.Random(7)) for _ in range(2)]
    fates = [[shaper.release_s(10, 10.0 * n) for n in range(4000)] for shaper in lossy]
    late = [release_s is not None and release_s > 10.0 * n for n, release_s in enumerate(fates[0])]
    assert fates[0] == fates[1] and 900 < sum(late) < 1100
    behind = Shaper(Shape(loss=0.999999, latency_s=1.0), random.Random(7))
    first_s, second_s = behind.release_s(10, 0.0), behind.release_s(10, 0.0)
    assert first_s == second_s == 1.0 + 15 * 2.0
    busy, rng = Shaper(Shape(loss=0.5), random.Random(7)), random.Random(8)
    waits = [(busy.release_s(10, sent_s := n / 100 + rng.random() / 100) or 1e9) - sent_s for n in range(4000)]
    assert max(waits) <= 15 * 0.2 + 1e-6, "a link was blocked by the losses before"


def test_the_backlog_of_a_link_is_bounded() -> None:
    slow = Shaper(Shape(bandwidth_bps=1.0), random.Random(1))
    assert sum(slow.release_s(10, 0.0) is None for _ in range(BACKLOG_MAX + 50)) == 50 == slow.dropped


# ---- a bandwidth that changes

STEPS = st.lists(st.tuples(st.floats(0.1, 2.0), st.sampled_from([0.0, 10.0, 100.0, 350.0])), min_size=1, max_size=5)


def test_a_frame_waits_for_the_end_of_an_outage() -> None:
    trace = BandwidthTrace(((1.0, 80.0), (2.0, 0.0)))
    assert [trace.finish_s(start_s, 40) for start_s in (0.0, 0.75, 1.0, 2.9, 3.0)] == [0.5, 3.25, 3.5, 3.5, 3.5]
    assert trace.finish_s(0.0, 80) == 1.0 and trace.finish_s(0.0, 81) == pytest.approx(3 + 1 / 80)
    assert trace.finish_s(0.0, 8_000) == pytest.approx(99 * 3 + 1) and trace.finish_s(1.5, 0) == 1.5
    assert trace.mean_bps == pytest.approx(80 / 3)


@given(STEPS.filter(lambda steps: any(bps for _, bps in steps)), st.floats(0, 20), st.floats(0, 2_000))
def test_what_leaves_until_a_frame_has_left_is_the_frame(
    steps: list[tuple[float, float]], start_s: float, bits: float
) -> None:
    trace = BandwidthTrace(tuple(steps))

    def carried(until_s: float) -> float:
        """Bits since second 0, added up step by step."""
        total = clock_s = 0.0
        while True:
            for lasts_s, bps in steps:
                total += bps * max(0.0, min(until_s - clock_s, lasts_s))
                clock_s += lasts_s
                if clock_s >= until_s:
                    return total

    finish_s = trace.finish_s(start_s, bits)
    assert finish_s >= start_s
    assert carried(finish_s) - carried(start_s) == pytest.approx(bits, abs=1e-5 * (1 + carried(finish_s)))


@pytest.mark.parametrize("steps", [(), ((1.0, 0.0),), ((0.0, 5.0),), ((1.0, -1.0),), ((float("inf"), 1.0),)])
def test_a_trace_that_carries_nothing_or_never_ends_is_refused(steps: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="a bandwidth trace wants lines of a duration above 0 s"):
        BandwidthTrace(steps)


TWO_BANDWIDTHS = {"bandwidth_bps": 1.0, "bandwidth_trace": BandwidthTrace(((1.0, 1.0),))}


@pytest.mark.parametrize(
    "wrong",
    [{"bandwidth_bps": 0.0}, {"loss": 1.0}, {"latency_s": -1.0}, {"channel": ".."}, {"channel": ""}, TWO_BANDWIDTHS],
)
def test_a_shape_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="want"):
        Shape(**wrong)  # type: ignore[arg-type]


# ---- one channel for several links


def test_links_on_one_channel_take_turns_and_their_latencies_do_not_count() -> None:
    air, shape = OwnMedium(), Shape(8_000, latency_s=5.0, channel="air")
    one, other = Shaper(shape, random.Random(1), air), Shaper(shape, random.Random(2), air)
    assert [one.release_s(1000, 0.0), other.release_s(1000, 0.0), one.release_s(1000, 0.5)] == [6.0, 7.0, 8.0]
    assert Shaper(shape, random.Random(3)).release_s(1000, 0.0) == 6.0, "a link elsewhere has to wait"


AIR = Shape(8_000.0, channel="air")  # a second for 1,000 bytes


# Books so many frames, says so, and keeps them until the other end has gone. A program, not multiprocessing's: that
# counts on a helper process of its own, which no test may be made to depend on.
_BOOK = """
import sys
from pathlib import Path
from mdi_exit.runtime.radio import RadioChannel
from mdi_exit.shaping import Shape
channel = RadioChannel(Path(sys.argv[1]), "air")
for _ in range(int(sys.argv[2])):
    channel.occupy(0.0, Shape(8_000.0, channel="air"), 1000)
print(sys.argv[2], flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def booking(folder: Path, frames: Sequence[int]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have each booked so many frames."""
    words = [[sys.executable, "-c", _BOOK, str(folder), str(number)] for number in frames]
    started = [subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for each in words]
    try:
        assert [process.stdout.readline() for process in started if process.stdout] == [
            f"{number}\n" for number in frames
        ]
        yield started
    finally:
        for process in started:
            process.communicate(timeout=60)


def test_processes_share_a_channel_without_ever_booking_the_same_time(tmp_path: Path) -> None:
    with contextlib.closing(RadioChannel(tmp_path, "air")) as channel, booking(tmp_path, [500] * 3):
        assert channel.occupy(0.0, AIR, 1000) == 3 * 500 + 1
        assert channel.occupy(9_999.0, AIR, 1000) == 10_000


def test_what_a_killed_process_booked_is_free_again(tmp_path: Path) -> None:
    """But not what the living booked, behind it or before."""
    with contextlib.closing(RadioChannel(tmp_path, "air")) as channel, booking(tmp_path, [300]) as (first,):
        with booking(tmp_path, [500]) as (second,):
            second.kill()
            second.wait(60)
            assert channel.occupy(0.0, AIR, 1000) == 301
        with booking(tmp_path, [7]):
            first.kill()
            first.wait(60)
            assert channel.occupy(0.0, AIR, 1000) == 301 + 7 + 1
        assert channel.occupy(0.0, AIR, 1000) == 301 + 7 + 2
    assert (tmp_path / "air.channel").stat().st_size == 3 * 8  # the place of the dead was taken anew


def test_nodes_that_disagree_about_second_0_share_a_channel(tmp_path: Path) -> None:
    """One process may have asked the wall clock before somebody set it: a booking is the same moment to both."""
    with contextlib.closing(RadioChannel(tmp_path, "air", zero_s=100.0)) as one, booking(tmp_path, [150]):
        assert one.occupy(5.0, AIR, 1000) == 51.0  # the other's 150 is 50 here
