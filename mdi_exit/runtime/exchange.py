"""Between a worker's core and its links: effects become messages, messages become events.

Kept here, and nowhere else: which hand-overs wait for their acknowledgement and until when, which ones of others were
already answered, what a shaped link holds back, and how many bytes went to whom. The caller owns the clock and the
timers, and asks `due` when one of ours goes off.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mdi_exit.codec import FP32
from mdi_exit.compute.base import FeatureShapes
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Result, Task
from mdi_exit.runtime.coder import Coder
from mdi_exit.runtime.fit import check_fit
from mdi_exit.runtime.links import Links
from mdi_exit.runtime.receiver import Receiver
from mdi_exit.runtime.timers import Timers
from mdi_exit.shaping import Shape, Shaper
from mdi_exit.wire import FRAMES_MAX, Buffer, LinkMessage, Tensor, WireError, decode, encode

_SLOWEST_BPS = 4e6  # what is expected of a link of which nothing is known
_ANSWERED_MAX = 1_024  # hand-overs answered lately, to answer a repeated one again; windows keep far below
_RESULTS_MAX = 1_024  # results in one message; more go in several
# What is said together arrives together, once all of it is there. So only small things are: a bundle ends when it has
# passed this, and before what is larger. No hand-over of a window waits for all, nor an answer for what is said later.
_BUNDLE_BYTES = 1 << 15

# Names of timers: ("answer", neighbour, transfer_id) and ("release", number, 0).
TimerName = tuple[str, Any, int]


Told = fx.Acknowledge | fx.SendReport | fx.SendThresholds | fx.SendPrices | fx.SendMeasurements


@dataclass(frozen=True, slots=True)
class _Held:
    message: LinkMessage
    frames: list[Buffer]
    size_bytes: int


@dataclass(slots=True)
class _Bundle:
    """What is to be said to one neighbour."""

    messages: list[LinkMessage] = field(default_factory=list)
    frames: list[Buffer] = field(default_factory=list)
    size_bytes: int = 0


class Exchange:
    """One worker's conversations with its neighbours. For the thread that owns the links."""

    def __init__(
        self,
        name: str,
        workers: Collection[str],
        links: Links,
        shapers: Mapping[str, Shaper],
        features: FeatureShapes,
        timers: Timers[TimerName],
        clock: Callable[[], float],
        deliver: Callable[[ev.WorkerEvent], None],
        store: Callable[[tuple[Task, ...], list[Tensor]], None],
        receiver: Receiver,
        coders: Mapping[str, Coder] = MappingProxyType({}),
    ) -> None:
        """`workers` are all that the topology names, living or not.

        `deliver` is given every event; `store` the payloads of tasks, before the event that tells of them. To whom
        there is no coder, features go as fp32.
        """
        self._name, self._workers = name, frozenset(workers)
        self._links, self._shapers, self._features = links, shapers, features
        self._timers, self._clock, self._deliver, self._store = timers, clock, deliver, store
        self._receiver, self._coders = receiver, coders
        self._started: dict[tuple[str, int], tuple[float, int]] = {}  # hand-overs without an answer yet: when, bytes
        self._answered: OrderedDict[tuple[str, int], fx.Acknowledge | None] = OrderedDict()  # None: not answered yet
        self._held: dict[int, _Held] = {}  # on a shaped link, until their release
        self._results: list[Result] = []  # taken in
        self._releases = 0
        self._bundles: dict[str, _Bundle] = {}  # by neighbour
        self.bytes_sent: dict[str, int] = {}
        self.refused: dict[str, tuple[int, str]] = {}  # neighbour: bad messages of its, and what the last one was
        links.on_down = self._neighbour_down

    # ---- effects

    def hand_over(self, effect: fx.SendTasks, tensors: Sequence[Tensor]) -> None:
        """Send tasks with their payloads; ends in TasksDelivered, TasksRefused or TasksUndelivered."""
        now = self._clock()
        coder = self._coders.get(effect.to)
        coded = coder is not None and effect.tasks[0].k > 1  # images are bytes already
        frames = encode(effect, tensors, coder.encoding(effect.tasks[0].payload_bytes) if coder and coded else FP32)
        size_bytes = sum(map(len, frames))
        self._started[effect.to, effect.transfer_id] = (now, size_bytes)
        sent_s = self._put(effect, frames, size_bytes, now)
        deadline_s = sent_s + self._shape(effect.to).answer_within_s(size_bytes, sent_s)
        if (effect.to, effect.transfer_id) in self._started:
            self._timers.set(("answer", effect.to, effect.transfer_id), deadline_s)

    def travels_bytes(self, to: str, task: Task) -> int:
        """What of a task's payload will travel to this neighbour, when it is the next to be handed over."""
        coder = self._coders.get(to)
        return coder.travels_bytes(task) if coder else task.payload_bytes

    def answer(self, effect: fx.Acknowledge) -> None:
        """Acknowledge a neighbour's hand-over, and remember that, should it be repeated."""
        self._answered[effect.to, effect.transfer_id] = effect
        self.tell(effect)

    def tell(self, effect: Told) -> None:
        """Send a message without a payload; nobody waits for an answer."""
        frames = encode(effect)
        self._put(effect, frames, len(frames[0]), self._clock())

    def pass_on(self, effect: fx.SendResults) -> None:
        """Send results; a ResultsUndelivered tells when they are known not to get there."""
        for first in range(0, len(effect.results), _RESULTS_MAX):
            part = fx.SendResults(effect.to, effect.results[first : first + _RESULTS_MAX])
            frames = encode(part)
            self._put(part, frames, len(frames[0]), self._clock())

    def due(self, timer: TimerName) -> None:
        """One of our timers went off."""
        kind, which, number = timer
        if kind == "release":
            held = self._held.pop(which)
            self._send(held.message, held.frames, held.size_bytes)
        elif self._started.pop((which, number), None) is not None:
            self._deliver(ev.TasksUndelivered(which, number, "not acknowledged in time"))

    def _put(self, message: LinkMessage, frames: list[Buffer], size_bytes: int, now: float) -> float:
        """Send now or, on a shaped link, hold back; return when the message is with the neighbour."""
        shaper = self._shapers.get(message.to)
        if shaper is None:
            self._send(message, frames, size_bytes)
            return now
        release_s = shaper.release_s(size_bytes, now)
        if release_s is None:
            return now
        self._releases += 1
        self._held[self._releases] = _Held(message, frames, size_bytes)
        self._timers.set(("release", self._releases, 0), release_s)
        return release_s

    def _send(self, message: LinkMessage, frames: list[Buffer], size_bytes: int) -> None:
        """Send by the next `speak`: small things said together wake both ends, and ZeroMQ's threads, once."""
        to = message.to
        if not self._links.reaches(to):
            self._not_sent(message)
            return
        bundle = self._bundles.setdefault(to, _Bundle())
        full = max(bundle.size_bytes, size_bytes) > _BUNDLE_BYTES or len(bundle.frames) + len(frames) > FRAMES_MAX
        if full and bundle.messages:
            self._speak_to(to)
            bundle = self._bundles[to] = _Bundle()
        bundle.messages.append(message)
        bundle.frames += frames
        bundle.size_bytes += size_bytes

    @property
    def has_to_speak(self) -> bool:
        """There is something to `speak` of, so do not wait."""
        return bool(self._bundles)

    def speak(self) -> bool:
        """Let everybody have what there is for them; False when there was nothing."""
        if not self._bundles:
            return False
        for to in list(self._bundles):
            self._speak_to(to)
        return True

    def _speak_to(self, to: str) -> None:
        bundle = self._bundles.pop(to)
        if self._links.send(to, bundle.frames):
            self.bytes_sent[to] = self.bytes_sent.get(to, 0) + bundle.size_bytes
        else:
            self._take_back(bundle)

    def _take_back(self, bundle: _Bundle) -> None:
        for message in bundle.messages:
            self._not_sent(message)

    def _not_sent(self, message: LinkMessage) -> None:
        if isinstance(message, fx.SendTasks):
            self._give_up(message.to, message.transfer_id)
        elif isinstance(message, fx.SendResults):
            self._deliver(ev.ResultsUndelivered(message.to, message.results))

    def _neighbour_down(self, name: str) -> None:
        self._take_back(self._bundles.pop(name, _Bundle()))  # its next life is not who it was meant for
        for number in [number for number, held in self._held.items() if held.message.to == name]:
            self._timers.cancel(("release", number, 0))
            self._not_sent(self._held.pop(number).message)
        for to, transfer_id in [key for key in self._started if key[0] == name]:
            self._give_up(to, transfer_id)

    def _give_up(self, to: str, transfer_id: int) -> None:
        if self._started.pop((to, transfer_id), None) is not None:
            self._timers.cancel(("answer", to, transfer_id))
            self._deliver(ev.TasksUndelivered(to, transfer_id, "the link is down"))

    def _shape(self, name: str) -> Shape:
        shaper = self._shapers.get(name)
        return shaper.shape if shaper else Shape(_SLOWEST_BPS)

    # ---- messages

    def take_in(self, sender: str, frames: Sequence[Buffer]) -> None:
        """Take in what a neighbour said; a bad message is counted, dropped, and does no harm.

        What came behind it is taken in, unless the bad one cannot be read: nobody knows where it ends.
        """
        try:
            for message, tensors in decode(frames):
                try:
                    check_fit(message, self._features.exits, self._workers)
                    self._check_sender(sender, message)
                    self._take(sender, message, tensors)
                except WireError as error:
                    self._refuse(sender, error)
        except WireError as error:
            self._refuse(sender, error)

    def _refuse(self, sender: str, error: WireError) -> None:
        count, _ = self.refused.get(sender, (0, ""))
        self.refused[sender] = (count + 1, str(error))

    def taken_in(self) -> None:
        """Nothing more is there just now: the results of all messages are one event."""
        if self._results:
            self._deliver(ev.ResultsArrived(tuple(self._results)))
            self._results.clear()

    def _take(self, sender: str, message: LinkMessage, tensors: list[Tensor]) -> None:
        if isinstance(message, fx.SendTasks):
            self._take_tasks(sender, message, tensors)
        elif isinstance(message, fx.Acknowledge):
            self._take_answer(sender, message)
        elif isinstance(message, fx.SendResults):
            self._results += message.results
        elif isinstance(message, fx.SendReport):
            self._deliver(ev.ReportReceived(message.report))
        elif isinstance(message, fx.SendPrices):
            self._deliver(ev.PricesReceived(message.prices, sender))
        elif isinstance(message, fx.SendMeasurements):
            self._deliver(ev.MeasurementsArrived(message.measurements))
        else:
            self._deliver(ev.ThresholdsReceived(message.version, message.thresholds, sender))

    def _take_tasks(self, sender: str, message: fx.SendTasks, tensors: list[Tensor]) -> None:
        key = (sender, message.transfer_id)
        if key in self._answered:
            if (answer := self._answered[key]) is not None:
                self.tell(answer)
            return
        self._check_payloads(message.tasks, tensors)
        self._answered[key] = None
        if len(self._answered) > _ANSWERED_MAX:
            self._answered.popitem(last=False)
        self._store(message.tasks, self._receiver.hear(sender, message.tasks[0].k, tensors))
        self._deliver(ev.TasksArrived(message.tasks, sender, message.transfer_id))

    def _take_answer(self, sender: str, message: fx.Acknowledge) -> None:
        started = self._started.pop((sender, message.transfer_id), None)
        if started is None:  # too late: the core has been told otherwise, but the news in it is news
            self._deliver(ev.ReportReceived(message.report))
            return
        self._timers.cancel(("answer", sender, message.transfer_id))
        duration_s = self._clock() - started[0]
        if coder := self._coders.get(sender):
            coder.answered(started[1], duration_s)
        if message.accepted:
            self._deliver(ev.TasksDelivered(sender, message.transfer_id, duration_s, message.report))
        else:
            self._deliver(ev.TasksRefused(sender, message.transfer_id, message.report))

    def _check_sender(self, sender: str, message: LinkMessage) -> None:
        if message.to != self._name:
            raise WireError(f"a message for {message.to!r}")
        if isinstance(message, fx.Acknowledge | fx.SendReport) and message.report.worker != sender:
            raise WireError(f"a report in the name of {message.report.worker!r}")

    def _check_payloads(self, tasks: tuple[Task, ...], tensors: list[Tensor]) -> None:
        shape, dtype = self._features.shape(tasks[0].k - 1), self._features.dtype(tasks[0].k - 1)
        if len(tensors) != len(tasks):
            raise WireError("tasks without their payloads")
        for task, tensor in zip(tasks, tensors, strict=True):
            if tensor.shape != shape or tensor.dtype != dtype or task.payload_bytes != tensor.nbytes:
                raise WireError(f"a payload of {tensor.dtype} {tensor.shape} for segment {task.k}")
