"""What one worker measures of itself and of its links, in its own process, with what a run uses: its slices through the
same runner (paced, if it stands for another device) and its links through the same sockets, keys and shaping.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import psutil

from mdi_exit import compute
from mdi_exit.compute import SegmentRunner
from mdi_exit.compute.pacing import PacedRunner
from mdi_exit.devices import slice_name
from mdi_exit.errors import UserError
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.links import Address, Links
from mdi_exit.survey import available_bytes

_ROUNDS = 3  # through all slices: what else goes on in a machine for some seconds must not fall on one of them alone
_WARM_UP, _PASSES_MIN, _PASSES_MAX = 1, 2, 150  # of a slice in a round
# A slice is unlike the sum of its segments by more standard errors, and in every round by a larger share.
_ERRORS, _ALIKE = 3.0, 0.1
_PINGS, _PING_BYTES = 15, 64
_CHUNK_BYTES = 8_192  # first burst; each next one is four times as long, until one takes long enough
_BURST_S, _BURST_MAX_BYTES, _MESSAGE_BYTES = 0.4, 32 << 20, 64 << 10
_ANSWER_S = 60.0  # at the slowest: a first burst of 8 kB at 1.1 kbit/s
_STEP_S = 0.02
_PING, _PONG, _DATA, _LAST, _END = b"p", b"o", b"d", b"l", b"e"

Passes = Sequence[Sequence[float]]  # through a slice: of each, the seconds of the slice's segments


@dataclass(frozen=True, slots=True)
class SliceTimes:
    """How long a device takes for a datum, as one of a group of `group_max`.

    Means, not medians: what now and then takes long costs throughput too. Where one thread does the work they are of
    its time, times how long a second of that took meanwhile: a control group stops a process every few milliseconds,
    and which segment that hits is chance, or worse, where passes keep step with it, always the same.
    """

    slice_s: dict[str, float]  # "2-4": through segments 2 to 4, exits read; of slices that are not the sum of segments
    segment_s: dict[int, float]
    spread: float  # coefficient of variation of a segment's time, the mean over segments
    available_bytes: int  # memory that was free before
    stretch: float = 1.0  # how long a second of processor time took
    one_thread: bool = True  # the calling thread does all the work, whose processor time then tells it


@dataclass(frozen=True, slots=True)
class WayTimes:
    """One direction of a link."""

    round_trip_s: float
    bandwidth_bps: float


class Prober:
    """A process that measures; Ray makes an actor of it. One call at a time."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._links: Links | None = None
        self._life: Life | None = None

    def address(self) -> str:
        """The address by which the cluster knows this machine."""
        import ray.util

        utilities: Any = ray.util  # without annotations
        return str(utilities.get_node_ip_address())

    def free_bytes(self) -> int:
        """Memory that is free here, also within a container."""
        return available_bytes() or psutil.virtual_memory().available

    def time_slices(self, life: Life, slices: Sequence[tuple[int, ...]], seconds: float) -> SliceTimes:
        """Run each slice on its own, over and over, for its share of `seconds`; in each round the longest slices first.

        Raises UserError, and no subclass: it has to travel.
        """
        available = self.free_bytes()
        rng = np.random.default_rng(life.experiment.seed)
        group = life.experiment.worker_options[life.name].group_max
        found: dict[tuple[int, ...], list[Passes]] = {hosted: [] for hosted in slices}
        passed_s = used_s = 0.0
        one_thread = not _helped(life)
        for hosted in sorted(slices, key=len, reverse=True) * _ROUNDS:
            placed = {**life.experiment.hosted, life.name: hosted}
            within = dataclasses.replace(life, experiment=dataclasses.replace(life.experiment, hosted=placed))
            try:
                runner = within.runner()
                clock = time.perf_counter if _waits(life, runner) else time.thread_time
                passed_s, used_s = passed_s - time.perf_counter(), used_s - clock()
                within_s = seconds / len(slices) / _ROUNDS
                found[hosted].append(_passes(runner, hosted, group, within_s, rng, clock))
                passed_s, used_s = passed_s + time.perf_counter(), used_s + clock()
            except UserError as error:
                raise UserError(f"{life.name}: slice {slice_name(hosted)}: {error}") from None
        stretch = max(1.0, passed_s / used_s)
        taken = {
            h: [[[stretch * s for s in row] for row in passes] for passes in rounds] for h, rounds in found.items()
        }
        return dataclasses.replace(summary(taken, available), stretch=stretch, one_thread=one_thread)

    # ---- links

    def open_links(self, life: Life, host: str) -> Address:
        """Listen as a worker of a run does. Raises UserError."""
        self._life = life
        bell, rope = socket.socketpair()
        for end in (bell, rope):
            self._opened.callback(end.close)
        self._links = Links(life.name, host, life.port, life.experiment.runtime.encrypt, bell.fileno())
        self._opened.callback(self._links.close)
        self._shapers = life.shapers(self._opened, time.monotonic())
        return self._links.address

    def know(self, addresses: dict[str, Address]) -> None:
        """Connect to these neighbours."""
        assert self._links is not None
        self._links.set_neighbours(addresses)

    def answer(self, peer: str) -> bool:
        """Answer a neighbour's pings and bursts until it says it is done; False when it never came."""
        line = _Line(self, peer)
        while (frame := line.receive()) is not None:
            if frame[:1] == _PING or frame[:1] == _LAST:
                line.send(_PONG * _PING_BYTES)
            elif frame[:1] == _END:
                return True
        return False

    def measure(self, peer: str) -> WayTimes | None:
        """Measure the way to a neighbour that `answer`s meanwhile; None when it cannot be reached."""
        line = _Line(self, peer)
        if not line.up():
            return None
        trips: list[float] = []
        for _ in range(_PINGS):
            began_s = time.monotonic()
            line.send(_PING * _PING_BYTES)
            if line.receive() is None:
                return None
            trips.append(time.monotonic() - began_s)
        round_trip_s, size_bytes = statistics.median(trips), _CHUNK_BYTES
        while True:
            took_s = line.burst(size_bytes)
            if took_s is None:
                return None
            if took_s >= _BURST_S + round_trip_s or size_bytes >= _BURST_MAX_BYTES:
                line.send(_END)
                line.flush()
                return WayTimes(round_trip_s, 8 * size_bytes / max(took_s - round_trip_s, 1e-6))
            size_bytes *= 4

    def close(self) -> int:
        """Give ports and channels back; return which process this was."""
        self._opened.close()
        return os.getpid()


class _Line:
    """Frames to and from one neighbour, held back as its link's shaping says."""

    def __init__(self, prober: Prober, peer: str) -> None:
        assert prober._links is not None
        self._links, self._peer, self._shaper = prober._links, peer, prober._shapers.get(peer)
        self._held: list[tuple[float, int, bytes]] = []
        self._count = 0

    def up(self) -> bool:
        until_s = time.monotonic() + _ANSWER_S
        while self._peer in self._links.missing and time.monotonic() < until_s:
            self._links.wait(_STEP_S)
        return self._peer not in self._links.missing

    def send(self, frame: bytes) -> None:
        now, self._count = time.monotonic(), self._count + 1
        release_s = now if self._shaper is None else self._shaper.release_s(len(frame), now)
        if release_s is not None:  # one that a shaped link drops never comes; whoever waits for it gives up
            heapq.heappush(self._held, (release_s, self._count, frame))
        self._pump(now)

    def receive(self) -> bytes | None:
        """The next frame of the neighbour; None when none came for long."""
        until_s = time.monotonic() + _ANSWER_S
        while (now := time.monotonic()) < until_s:
            self._pump(now)
            message = self._links.receive()
            if message is None:
                due_s = self._held[0][0] - time.monotonic() if self._held else _STEP_S
                self._rest(min(max(due_s, 0.0), _STEP_S))
            elif message[0] == self._peer and message[1]:
                return bytes(message[1][0])
        return None

    def _rest(self, within_s: float) -> None:
        """Sockets are waited for in whole milliseconds; a frame that is due sooner is waited for more finely."""
        if self._held and within_s < 0.002:
            time.sleep(within_s)
            self._links.wait(0)
        else:
            self._links.wait(within_s)

    def burst(self, size_bytes: int) -> float | None:
        """Seconds until the neighbour said that it has all of so many bytes; None when it does not."""
        began_s, left = time.monotonic(), size_bytes
        noise = Random(size_bytes).randbytes(min(left, _MESSAGE_BYTES) - 1)  # nothing on the way can make it smaller
        while left > 0:
            kind = _LAST if left <= _MESSAGE_BYTES else _DATA
            self.send(kind + noise[: min(left, _MESSAGE_BYTES) - 1])
            left -= _MESSAGE_BYTES
        return None if self.receive() is None else time.monotonic() - began_s

    def flush(self) -> None:
        while self._held:
            time.sleep(max(0.0, self._held[0][0] - time.monotonic()))
            self._pump(time.monotonic())

    def _pump(self, now: float) -> None:
        while self._held and self._held[0][0] <= now:
            self._links.send(self._peer, [heapq.heappop(self._held)[2]])


def summary(found: Mapping[tuple[int, ...], Sequence[Passes]], available: int) -> SliceTimes:
    """What passes through slices amount to; `found` holds for each slice, round by round, its passes.

    A segment's mean is over the passes of all slices that hold it. A slice is told of where it takes another time than
    its segments together, by more than chance makes it: a plan that chooses among slices would choose the luckiest.
    """
    rounds = len(next(iter(found.values())))
    each = [_by_segment({hosted: passes[r] for hosted, passes in found.items()}) for r in range(rounds)]
    parts = {k: [s for known in each for s in known[k]] for k in sorted(each[0])}
    means = {k: statistics.fmean(times) for k, times in parts.items()}
    in_round = [{k: statistics.fmean(times) for k, times in known.items()} for known in each]
    spreads = [statistics.pstdev(times) / means[k] for k, times in parts.items()]
    whole: dict[str, float] = {}
    for hosted, passes in found.items():
        beside = [sum(known[k] for k in hosted) for known in in_round]
        ratios = [[sum(row) / together_s for row in one] for one, together_s in zip(passes, beside, strict=True)]
        by_round, flat = [statistics.fmean(one) for one in ratios], [ratio for one in ratios for ratio in one]
        ratio, chance = statistics.fmean(flat), _ERRORS * statistics.pstdev(flat) / len(flat) ** 0.5
        always = min(by_round) > 1 + _ALIKE or max(by_round) < 1 - _ALIKE
        if always and abs(ratio - 1) > chance:
            whole[slice_name(hosted)] = ratio * sum(means[k] for k in hosted)
    return SliceTimes(whole, means, min(2.0, statistics.fmean(spreads)), available)


def _by_segment(found: Mapping[tuple[int, ...], Passes]) -> dict[int, list[float]]:
    parts: dict[int, list[float]] = {}
    for hosted, passes in found.items():
        for k, times in zip(hosted, zip(*passes, strict=True), strict=True):
            parts.setdefault(k, []).extend(times)
    return parts


def _waits(life: Life, runner: SegmentRunner) -> bool:
    """Whether it is not the calling thread that does the work: then its processor time says nothing."""
    return isinstance(runner, PacedRunner) or _helped(life)


def _helped(life: Life) -> bool:
    runtime = life.experiment.runtime
    return runtime.threads_per_worker > 1 or not compute.on_processor(runtime.device)


def _passes(
    runner: SegmentRunner, hosted: Sequence[int], group: int, seconds: float, rng: Any, clock: Callable[[], float]
) -> list[list[float]]:
    """Seconds of `clock` per datum of each segment in each pass of `group` data through a slice."""
    shape = (group, *runner.feature_shape(hosted[0] - 1))
    image = rng.integers(0, 256, shape).astype(np.uint8)
    first = image if hosted[0] == 1 else rng.standard_normal(shape).astype(np.float32)
    passes: list[list[float]] = []
    until_s = time.perf_counter() + seconds
    for number in range(_WARM_UP + _PASSES_MAX):
        batch, row = first, []
        for k in hosted:
            began_s = clock()
            _, feature = runner.run(k, batch)
            row.append((clock() - began_s) / group)
            batch = feature if feature is not None else batch
        if number >= _WARM_UP:
            passes.append(row)
        if time.perf_counter() > until_s and len(passes) >= _PASSES_MIN:
            break
    return passes
