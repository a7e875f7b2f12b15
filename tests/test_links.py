"""Links between neighbours: who is let in, what is delivered, what is told when it is not, and emulated slowness.

Real sockets on the loopback interface throughout; time is the test's own wherever a duration decides.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import zmq

from mdi_exit import codec, wire
from mdi_exit.compute.base import FeatureShapes
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Result, Task, WorkerReport
from mdi_exit.errors import UserError
from mdi_exit.runtime import links
from mdi_exit.runtime.coder import Coder
from mdi_exit.runtime.exchange import Exchange, TimerName
from mdi_exit.runtime.links import Address, Links
from mdi_exit.runtime.receiver import Receiver, no_noise
from mdi_exit.runtime.timers import Timers
from mdi_exit.shaping import Shape, Shaper

FEATURES = FeatureShapes(((3, 4, 4), (2, 4, 4), (2, 2, 2)))  # K = 3
FEATURE = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
TASK = Task(7, 0, 2, FEATURE.nbytes, 1)
NEWS = (1, 0, (0, 0, 0), (0, 0, 0), 0.0, 0, 0)  # a report without its worker
ROUNDS_MAX = 500  # of 20 ms at most: a test that waits for what never comes fails, and does not hang


class Peer:
    """One worker's links and exchange, with a clock to set and lists of what it was told."""

    def __init__(
        self, name: str, encrypt: bool = True, shape: Shape | None = None, receiver: Receiver | None = None
    ) -> None:
        self.name, self.now = name, 0.0
        self.bell, self.rope = socket.socketpair()
        self.links = Links(name, "127.0.0.1", None, encrypt, self.bell.fileno())
        self.timers: Timers[TimerName] = Timers()
        self.events: list[ev.WorkerEvent] = []
        self.stored: dict[tuple[int, int, int], wire.Tensor] = {}
        shapers = {} if shape is None else {other: Shaper(shape, random.Random(1)) for other in "ab"}
        self.exchange = Exchange(
            name,
            ("a", "b"),
            self.links,
            shapers,
            FEATURES,
            self.timers,
            lambda: self.now,
            self.events.append,
            self.store,
            no_noise() if receiver is None else receiver,
        )

    def store(self, tasks: tuple[Task, ...], tensors: list[wire.Tensor]) -> None:
        self.stored.update({task.key: tensor for task, tensor in zip(tasks, tensors, strict=True)})

    def report(self) -> WorkerReport:
        return WorkerReport(self.name, 1, 0, (0, 0, 0), (0, 0, 0), 0.001, 0, 0)

    def work(self) -> None:
        """Say what there is to say, take in what is there, and wait a little when nothing is."""
        self.exchange.speak()
        self.links.wait(0.02)
        while (message := self.links.receive()) is not None:
            self.exchange.take_in(*message)
        self.exchange.taken_in()

    def pass_time(self, seconds: float) -> None:
        """Set the clock ahead, and let happen what is due by then."""
        self.now += seconds
        for name in self.timers.due(self.now):
            self.exchange.due(name)
        self.exchange.speak()

    def close(self) -> None:
        self.links.close()
        self.bell.close()
        self.rope.close()


class Pair:
    """Neighbours a and b, connected. Whoever was made is closed at the end."""

    def __init__(self, encrypt: bool = True, shape: Shape | None = None) -> None:
        self.encrypt, self.shape = encrypt, shape
        self.made: list[Peer] = []
        self.a, self.b = self.make("a"), self.make("b")
        self.introduce()

    def make(self, name: str) -> Peer:
        self.made.append(Peer(name, self.encrypt, self.shape))
        return self.made[-1]

    def close(self) -> None:
        for peer in self.made:
            peer.close()

    def introduce(self) -> None:
        self.a.links.set_neighbours({"b": self.b.links.address})
        self.b.links.set_neighbours({"a": self.a.links.address})
        self.until(lambda: not (self.a.links.missing or self.b.links.missing))

    def until(self, holds: Callable[[], object]) -> None:
        for _ in range(ROUNDS_MAX):
            if holds():
                return
            self.a.work()
            self.b.work()
        pytest.fail("it never came")

    def settle(self) -> None:
        """Let everything that is under way arrive: what a says last has overtaken nothing."""
        marker = fx.SendThresholds("b", 10**6 + len(self.b.events), (0.5, 0.5))
        self.a.exchange.tell(marker)
        self.until(lambda: ev.ThresholdsReceived(marker.version, marker.thresholds, "a") in self.b.events)
        del self.b.events[-1]


@pytest.fixture(params=[True, False], ids=["encrypted", "plain"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with contextlib.closing(Pair(request.param)) as made:
        yield made


@pytest.fixture
def shaped_pair() -> Iterator[Callable[[Shape], Pair]]:
    with contextlib.ExitStack() as stack:
        yield lambda shape: stack.enter_context(contextlib.closing(Pair(shape=shape)))


# ---- what is said arrives


def test_a_hand_over_arrives_with_its_payload_and_is_acknowledged_with_its_duration(pair: Pair) -> None:
    a, b = pair.a, pair.b
    a.exchange.hand_over(fx.SendTasks("b", 5, (TASK,)), [FEATURE])
    pair.until(lambda: b.events)
    assert b.events == [ev.TasksArrived((TASK,), "a", 5)]
    np.testing.assert_array_equal(b.stored[TASK.key], FEATURE)
    a.now = 0.25
    b.exchange.answer(fx.Acknowledge("a", 5, True, b.report()))
    pair.until(lambda: a.events)
    assert a.events == [ev.TasksDelivered("b", 5, 0.25, b.report())]
    a.pass_time(1000)
    assert len(a.events) == 1, "an acknowledged hand-over timed out as well"
    assert a.exchange.bytes_sent["b"] > FEATURE.nbytes > b.exchange.bytes_sent["a"] > 0


def test_a_group_arrives_in_order(pair: Pair) -> None:
    tasks = tuple(Task(n, 0, 2, FEATURE.nbytes) for n in range(5))
    pair.a.exchange.hand_over(fx.SendTasks("b", 1, tasks), [FEATURE + n for n in range(5)])
    pair.until(lambda: pair.b.events)
    assert pair.b.events == [ev.TasksArrived(tasks, "a", 1)]
    assert [float(pair.b.stored[task.key][0, 0, 0]) for task in tasks] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_refusal_says_so(pair: Pair) -> None:
    pair.a.exchange.hand_over(fx.SendTasks("b", 5, (TASK,)), [FEATURE])
    pair.until(lambda: pair.b.events)  # what comes after its answer is taken for a repetition, and answered again
    pair.b.exchange.answer(fx.Acknowledge("a", 5, False, pair.b.report()))
    pair.until(lambda: pair.a.events)
    assert pair.a.events == [ev.TasksRefused("b", 5, pair.b.report())]


def test_results_reports_and_thresholds_arrive_both_ways(pair: Pair) -> None:
    many = tuple(Result(n, 0, 3, 1, 0.5) for n in range(2500))
    for here, there in ((pair.a, pair.b), (pair.b, pair.a)):
        here.exchange.pass_on(fx.SendResults(there.name, many))
        here.exchange.tell(fx.SendReport(there.name, here.report()))
        here.exchange.tell(fx.SendThresholds(there.name, 2, (0.4, 0.6)))
        pair.until(partial(lambda there: sum((event.results for event in came(there)), ()) == many, there))
        assert [event for event in there.events if event not in came(there)] == [
            ev.ReportReceived(here.report()),
            ev.ThresholdsReceived(2, (0.4, 0.6), here.name),
        ]


def came(peer: Peer) -> list[ev.ResultsArrived]:
    """Results that messages brought; those of many messages may come as one event."""
    return [event for event in peer.events if isinstance(event, ev.ResultsArrived)]


def test_a_repeated_hand_over_is_answered_again_and_delivered_once(pair: Pair) -> None:
    a, b = pair.a, pair.b
    again = wire.encode(fx.SendTasks("b", 5, (TASK,)), [FEATURE])
    assert a.links.send("b", again) and a.links.send("b", again)
    pair.settle()
    b.exchange.answer(fx.Acknowledge("a", 5, True, b.report()))
    assert a.links.send("b", again)
    pair.settle()
    assert b.events == [ev.TasksArrived((TASK,), "a", 5)]
    b.exchange.tell(fx.SendThresholds("a", 1, (0.5, 0.5)))  # it overtakes no answer
    pair.until(lambda: ev.ThresholdsReceived(1, (0.5, 0.5), "b") in a.events)
    assert len(a.events) == 3, "one answer of the core's, one from memory; none before there was any"


def test_what_is_said_before_waiting_goes_together_and_in_order(pair: Pair) -> None:
    a, b = pair.a, pair.b
    many = range(wire.FRAMES_MAX)  # with a payload's frame more than belong together
    for number in many:
        a.exchange.tell(fx.SendThresholds("b", number, (0.5, 0.5)))
        if number == 1:
            a.exchange.hand_over(fx.SendTasks("b", 5, (TASK,)), [FEATURE])
    assert a.exchange.has_to_speak and a.exchange.speak() and not a.exchange.speak()
    pair.until(lambda: len(b.events) > len(many))
    assert b.events.pop(2) == ev.TasksArrived((TASK,), "a", 5) and not b.exchange.refused
    assert b.events == [ev.ThresholdsReceived(number, (0.5, 0.5), "a") for number in many]
    np.testing.assert_array_equal(b.stored[TASK.key], FEATURE)


def test_small_things_are_said_together_and_large_ones_alone(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said together, a window of hand-overs would be one message, taken in and answered when the last byte is there."""
    a, b = pair.a, pair.b
    said: list[list[str]] = []
    send = a.links.send

    def note(name: str, frames: list[wire.Buffer]) -> bool:
        said.append([type(message).__name__ for message, _ in wire.decode(frames)])
        return send(name, frames)

    monkeypatch.setattr(a.links, "send", note)

    def hand_over(number: int, count: int) -> ev.TasksArrived:
        tasks = tuple(Task(1000 * number + n, 0, 2, FEATURE.nbytes) for n in range(count))
        a.exchange.hand_over(fx.SendTasks("b", number, tasks), [FEATURE] * count)
        return ev.TasksArrived(tasks, "a", number)

    a.exchange.answer(fx.Acknowledge("b", 9, True, a.report()))
    arrive = [hand_over(number, 400) for number in (1, 2)]  # 50 KB of features each
    a.exchange.tell(fx.SendReport("b", a.report()))
    arrive += [hand_over(number, 70) for number in range(3, 11)]  # 9 KB each
    assert a.exchange.speak() and not a.exchange.has_to_speak
    large, few = ["SendTasks"], ["SendTasks"] * 4
    assert said == [["Acknowledge"], large, large, ["SendReport", *few], few]
    pair.until(lambda: len(b.events) == 12)
    assert [event for event in b.events if isinstance(event, ev.TasksArrived)] == arrive


# ---- what is told when it does not


def test_no_acknowledgement_in_time_is_told_once(pair: Pair) -> None:
    a, b = pair.a, pair.b
    a.exchange.hand_over(fx.SendTasks("b", 5, (TASK,)), [FEATURE])
    pair.until(lambda: b.events)
    a.pass_time(1000)
    assert a.events == [ev.TasksUndelivered("b", 5, "not acknowledged in time")]
    b.exchange.answer(fx.Acknowledge("a", 5, True, b.report()))
    pair.until(lambda: len(a.events) == 2)
    assert a.events[1] == ev.ReportReceived(b.report()), "the late answer is news of b, and no delivery"


def test_a_neighbour_that_dies_is_noticed_and_comes_back_under_a_new_key(pair: Pair) -> None:
    a = pair.a
    a.exchange.hand_over(fx.SendTasks("b", 5, (TASK,)), [FEATURE])
    pair.b.close()
    for _ in range(ROUNDS_MAX):
        if a.events:
            break
        a.work()
    assert a.events == [ev.TasksUndelivered("b", 5, "the link is down")]
    a.exchange.hand_over(fx.SendTasks("b", 6, (TASK,)), [FEATURE])
    a.exchange.pass_on(fx.SendResults("b", (Result(1, 0, 1, 1, 0.5),)))
    assert a.events[1:] == [
        ev.TasksUndelivered("b", 6, "the link is down"),
        ev.ResultsUndelivered("b", (Result(1, 0, 1, 1, 0.5),)),
    ]
    a.events.clear()
    pair.b = pair.make("b")
    pair.introduce()
    a.exchange.hand_over(fx.SendTasks("b", 7, (TASK,)), [FEATURE])
    pair.until(lambda: pair.b.events)
    assert pair.b.events == [ev.TasksArrived((TASK,), "a", 7)] and not a.events


def test_what_was_not_said_yet_to_a_neighbour_that_went_is_told(pair: Pair) -> None:
    a, results = pair.a, (Result(1, 0, 1, 1, 0.5),)
    a.exchange.hand_over(fx.SendTasks("b", 6, (TASK,)), [FEATURE])
    a.exchange.pass_on(fx.SendResults("b", results))
    a.links.set_neighbours({})
    told = [ev.TasksUndelivered("b", 6, "the link is down"), ev.ResultsUndelivered("b", results)]
    assert a.events == told and not a.exchange.speak()


def test_what_a_shaped_link_holds_for_a_neighbour_that_went_is_told_and_never_reaches_its_next_life(
    shaped_pair: Callable[[Shape], Pair],
) -> None:
    pair, results = shaped_pair(Shape(latency_s=1.0)), (Result(1, 0, 1, 1, 0.5),)
    a = pair.a
    a.exchange.hand_over(fx.SendTasks("b", 6, (TASK,)), [FEATURE])
    a.exchange.pass_on(fx.SendResults("b", results))
    a.exchange.tell(fx.SendThresholds("b", 1, (0.5, 0.5)))
    a.links.set_neighbours({})
    assert a.events == [ev.TasksUndelivered("b", 6, "the link is down"), ev.ResultsUndelivered("b", results)]
    assert a.timers.wait_s(a.now, 60.0) == 60.0, "nothing is to be sent any more"
    pair.b = pair.make("b")
    pair.introduce()
    a.exchange.tell(fx.SendThresholds("b", 2, (0.5, 0.5)))
    a.pass_time(1.5)
    pair.until(lambda: pair.b.events)
    assert pair.b.events == [ev.ThresholdsReceived(2, (0.5, 0.5), "a")]


def test_what_is_sent_before_the_neighbour_knows_us_waits_for_it(pair: Pair) -> None:
    a, b = pair.make("a"), pair.make("b")
    a.links.set_neighbours({"b": b.links.address})
    a.exchange.hand_over(fx.SendTasks("b", 1, (TASK,)), [FEATURE])
    for _ in range(5):
        a.work()
        b.work()
    assert a.links.missing == ["b"] and not b.events
    b.links.set_neighbours({"a": a.links.address})
    for _ in range(ROUNDS_MAX):
        if b.events:
            break
        a.work()
        b.work()
    assert b.events == [ev.TasksArrived((TASK,), "a", 1)] and not a.events


# ---- who is let in


def intruder(context: zmq.Context[zmq.Socket[bytes]], address: Address, means: str) -> zmq.Socket[bytes]:
    """A stranger's connection to a worker whose address it has found out."""
    stranger = context.socket(zmq.DEALER)
    stranger.linger = 0
    if means == "a key of its own":
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey = address.key
    elif means == "a token of its own":
        stranger.plain_username, stranger.plain_password = b"a", b"guessed"
    else:
        assert means == "nothing"
    stranger.connect(address.endpoint)
    return stranger


@pytest.mark.parametrize("means", ["nothing", "a key of its own", "a token of its own"])
def test_a_stranger_cannot_say_anything(pair: Pair, means: str) -> None:
    b = pair.b
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context:
        if means == "a key of its own" and not pair.encrypt:
            address = Address(b.links.address.endpoint, zmq.curve_keypair()[0])
        else:
            address = b.links.address
        with intruder(context, address, means) as stranger:
            for frames in (wire.encode(fx.SendTasks("b", 9, (TASK,)), [FEATURE]), [b"garbage"]):
                with contextlib.suppress(zmq.Again):  # it may have been shown the door before it could speak
                    stranger.send_multipart(frames, zmq.NOBLOCK)
            for _ in range(10):
                b.work()
            pair.settle()
            assert not b.events and not b.stored and not b.exchange.refused and b.links.strangers == 0


def test_an_earlier_life_of_a_neighbour_is_a_stranger(pair: Pair) -> None:
    """Its connection is still open, but its key is nobody's any more."""
    former, b = pair.a, pair.b
    pair.a = pair.make("a")
    pair.introduce()
    assert former.links.send("b", wire.encode(fx.SendReport("b", former.report())))
    pair.until(lambda: b.links.strangers == 1)
    pair.settle()
    assert not b.events


def test_it_listens_on_its_own_address_alone(pair: Pair) -> None:
    ports = {int(peer.links.address.endpoint.rpartition(":")[2]) for peer in (pair.a, pair.b)}
    listening = [c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    found = {address.port: address.ip for address in listening if address.port in ports}
    assert found == dict.fromkeys(ports, "127.0.0.1")


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        bell, rope = socket.socketpair()
        with bell, rope, pytest.raises(UserError, match=rf"^n7: .*127\.0\.0\.1:{port}: the port is in use; [^\n]+$"):
            Links("n7", "127.0.0.1", port, True, bell.fileno())


def test_an_address_of_another_machine_is_one_clear_line() -> None:
    bell, rope = socket.socketpair()
    with bell, rope, pytest.raises(UserError, match=r"^n7: cannot listen on 192\.0\.2\.77:.*runtime\.workers[^\n]+$"):
        Links("n7", "192.0.2.77", 4000, True, bell.fileno())


# ---- what a neighbour gets wrong


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([b"garbage"], "not a message"),
        ([b""], "not a message"),
        (wire.encode(fx.SendReport("c", WorkerReport("a", *NEWS))), "for 'c'"),
        (
            wire.encode(fx.SendReport("b", WorkerReport("b", 1, 0, (0, 0, 0), (0, 0, 0), 0.0, 0, 0))),
            "in the name of 'b'",
        ),
        (
            wire.encode(fx.Acknowledge("b", 1, True, WorkerReport("c", *NEWS))),
            "in the name of 'c'",
        ),
        (
            wire.encode(fx.SendReport("b", WorkerReport("a", 1, 0, (0,) * 9, *NEWS[3:]))),
            "another number of segments",
        ),
        (wire.encode(fx.SendTasks("b", 1, (Task(1, 0, 9, 128),)), [FEATURE]), "k is out of range"),
        (wire.encode(fx.SendTasks("b", 1, (TASK,))), "without their payloads"),
        (wire.encode(fx.SendTasks("b", 1, (TASK,)), [FEATURE[:1]]), "payload of float32"),
        (wire.encode(fx.SendTasks("b", 1, (TASK,)), [FEATURE.astype(np.float16)]), "payload of float16"),
        (wire.encode(fx.SendTasks("b", 1, (Task(7, 0, 2, 5),)), [FEATURE]), "payload of float32"),
    ],
)
def test_a_bad_message_is_counted_and_does_no_harm(pair: Pair, frames: list[wire.Buffer], complaint: str) -> None:
    assert pair.a.links.send("b", frames)
    pair.a.links.send("b", wire.encode(fx.SendReport("b", pair.a.report())))
    pair.until(lambda: pair.b.events)
    assert pair.b.events == [ev.ReportReceived(pair.a.report())] and not pair.b.stored
    count, last = pair.b.exchange.refused["a"]
    assert count == 1 and complaint in last


def test_a_message_that_does_not_fit_takes_none_of_those_behind_it_along(pair: Pair) -> None:
    a, b = pair.a, pair.b
    wrong = [
        wire.encode(fx.SendReport("c", a.report())),
        wire.encode(fx.SendThresholds("b", 1, (0.5,))),
        wire.encode(fx.SendTasks("b", 1, (TASK,)), [FEATURE[:1]]),
    ]
    for number, frames in enumerate(wrong, 2):
        good = wire.encode(fx.SendTasks("b", number, (TASK,)), [FEATURE])
        assert a.links.send("b", [*frames, *good])
    unread = wire.encode(fx.SendThresholds("b", 2, (0.5, 0.5)))
    assert a.links.send("b", [*wire.encode(fx.SendReport("b", a.report())), b"garbage", *unread])
    pair.settle()
    arrived = [ev.TasksArrived((TASK,), "a", number) for number in (2, 3, 4)]
    assert b.events == [*arrived, ev.ReportReceived(a.report())]
    assert b.exchange.refused["a"][0] == 4


# ---- emulated slowness


def test_a_shaped_link_holds_back_tasks_answers_and_all_else(shaped_pair: Callable[[Shape], Pair]) -> None:
    pair = shaped_pair(Shape(bandwidth_bps=8_000, latency_s=1.0))
    a, b = pair.a, pair.b
    tasks = fx.SendTasks("b", 1, (TASK,))
    arrives_s = 1.0 + sum(map(len, wire.encode(tasks, [FEATURE]))) * 8 / 8_000
    a.exchange.hand_over(tasks, [FEATURE])
    a.exchange.tell(fx.SendReport("b", a.report()))
    a.pass_time(arrives_s - 0.001)
    b.work()
    assert not b.events and not a.exchange.bytes_sent
    a.pass_time(0.002)
    pair.until(lambda: b.events)
    assert b.events == [ev.TasksArrived((TASK,), "a", 1)]
    a.pass_time(1.499 - arrives_s)
    pair.until(lambda: len(b.events) == 2)
    b.exchange.answer(fx.Acknowledge("a", 1, True, b.report()))
    for _ in range(3):
        a.work()
    assert not a.events
    b.pass_time(2.0)
    pair.until(lambda: a.events)
    assert isinstance(a.events[0], ev.TasksDelivered) and a.events[0].duration_s == pytest.approx(1.5)


def test_a_slow_link_is_given_the_time_it_needs(shaped_pair: Callable[[Shape], Pair]) -> None:
    """1 kbit/s: 128 bytes take over a second, the answer more; patience counts from when the tasks are there."""
    pair = shaped_pair(Shape(bandwidth_bps=1_000, latency_s=3.0))
    a, b = pair.a, pair.b
    a.exchange.hand_over(fx.SendTasks("b", 1, (TASK,)), [FEATURE])
    a.pass_time(5.0)
    pair.until(lambda: b.events)
    a.pass_time(6.0)
    assert not a.events, "given up although the answer may be under way"
    a.pass_time(1000.0)
    assert a.events == [ev.TasksUndelivered("b", 1, "not acknowledged in time")]


def test_a_task_lost_on_a_lossy_link_arrives_late(shaped_pair: Callable[[Shape], Pair]) -> None:
    pair = shaped_pair(Shape(loss=0.999999))
    pair.a.exchange.hand_over(fx.SendTasks("b", 1, (TASK,)), [FEATURE])
    pair.b.work()
    assert not pair.b.events, "lost once and again"
    pair.a.pass_time(1000.0)
    pair.b.work()
    assert [type(event) for event in pair.b.events] == [ev.TasksArrived]


# ---- timers


def test_a_wait_ends_between_two_milliseconds(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polling alone would round up, and every frame that a shaped link holds back would be late."""
    while pair.a.links.receive() is not None:
        pass
    waited: list[float] = []

    def select(*args: Any) -> tuple[list[int], list[int], list[int]]:
        waited.append(args[-1])
        return [], [], []

    monkeypatch.setattr(links, "select", SimpleNamespace(select=select))
    assert not pair.a.links.wait(0.0015)
    assert waited == [0.0015], "and not twice, which would wake us twice"


def test_a_timer_set_again_replaces_the_older_and_order_is_by_time() -> None:
    timers: Timers[str] = Timers()
    for name, at_s in (("b", 2.0), ("a", 1.0), ("c", 3.0), ("b", 5.0), ("d", 1.5)):
        timers.set(name, at_s)
    timers.cancel("d")
    assert timers.wait_s(0.0, 60.0) == 1.0
    assert list(timers.due(4.0)) == ["a", "c"]
    assert timers.wait_s(4.0, 60.0) == 1.0 and timers.wait_s(4.0, 0.5) == 0.5
    assert list(timers.due(9.0)) == ["b"] and list(timers.due(9.0)) == []
    assert timers.wait_s(9.0, 60.0) == 60.0


# ---- coded features


def test_features_are_coded_as_the_link_says_and_counted_as_they_travel() -> None:
    pair = Pair(encrypt=False)
    try:
        coded = Exchange(
            "a",
            ("a", "b"),
            pair.a.links,
            {},
            FEATURES,
            pair.a.timers,
            lambda: 0.0,
            pair.a.events.append,
            pair.a.store,
            no_noise(),
            {"b": Coder(Shape(encoding="int8"))},
        )
        image = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
        tasks = (TASK, Task(8, 0, 1, image.nbytes, 1))
        payloads: tuple[wire.Tensor, ...] = (FEATURE, image)
        sizes = 0
        for number, (task, payload) in enumerate(zip(tasks, payloads, strict=True)):
            coded.hand_over(fx.SendTasks("b", number, (task,)), [payload])
            coded.speak()
            sizes += sum(map(len, wire.encode(fx.SendTasks("b", number, (task,)), [payload], "int8")))
        pair.until(lambda: len(pair.b.events) == 2)
        assert (pair.b.stored[tasks[1].key] == image).all()
        error = np.abs(pair.b.stored[TASK.key] - FEATURE).max()
        assert 0 < error <= codec.error_max("int8", FEATURE)
        assert [coded.travels_bytes("b", task) for task in tasks] == [32 + 8, 48]
        assert coded.travels_bytes("c", TASK) == FEATURE.nbytes
        assert coded.bytes_sent == {"b": sizes}
    finally:
        pair.close()
