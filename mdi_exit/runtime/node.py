"""One worker in real time: a loop that feeds the cores what happened and does what they say.

The loop's thread owns the cores, the links, the payloads and the tally; nothing else touches them. It sleeps until a
message comes, a timer is due, the compute thread is done, or the control plane calls (`call`). The source's node also
holds the controller and the data set.

Whatever goes wrong in here ends the loop: `failure` is the exception, and `ended` is set, so that a supervisor hears
of it at once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from mdi_exit import assembly
from mdi_exit.compute import SegmentRunner
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Task, TaskKey
from mdi_exit.dataset import UnreadableImage
from mdi_exit.journal import CoreName, Header, JournalError, JournalWriter, Step
from mdi_exit.runtime.bell import Bell
from mdi_exit.runtime.computer import Computed, Computer
from mdi_exit.runtime.exchange import Exchange
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.links import Links
from mdi_exit.runtime.solver import Solver
from mdi_exit.runtime.timers import Timers
from mdi_exit.tally import NodeTally
from mdi_exit.wire import Tensor

_MESSAGES_MAX = 64  # taken in before timers and the compute thread are looked at again
_SLEEP_S = 1.0  # at most; whatever happens wakes the loop
_OWN = (ev.SourceObserved, ev.DatumUnreadable)  # what comes of looking at the source is no reason to look again
_STOP_S = 2.0  # how long a stopping node waits for the segment being computed

Answer = TypeVar("Answer")


class LifeOver(Exception):
    """A call came too late: the loop has ended, or hangs."""


class Node:
    """One life of one worker. `start` it, `call` into it, `stop` it; everything else happens on its own thread."""

    def __init__(self, life: Life, runner: SegmentRunner, host: str) -> None:
        """Listen on `host` and build the cores; raises UserError for a port in use or data that cannot be read."""
        experiment, card = life.experiment, life.prepared.card
        self.life, self.ended = life, threading.Event()
        self.failure: BaseException | None = None
        self._zero_s = time.monotonic() - (time.time() - life.started_unix_s)
        self._features = life.prepared.features
        self._images = life.images() if life.is_source else None
        label_of = self._images.label if self._images else None
        self.tally = NodeTally(life.name, experiment.exits, label_of, life.epoch)
        self._worker = assembly.worker_core(experiment, card, life.name, life.epoch)
        self._controller = assembly.controller_core(experiment, card) if life.is_source else None
        self._timers: Timers[tuple[str, Any, int]] = Timers()
        self._events: deque[tuple[CoreName, Any]] = deque()
        self._calls: deque[tuple[Callable[[], None], Future[Any]]] = deque()
        self._payloads: dict[TaskKey, Tensor] = {}
        self._admitted: list[Task] = []  # in this step of the controller
        self._stopping = self._closed = False
        self._journal: JournalWriter | None = None
        with contextlib.ExitStack() as opened:
            if self._images is not None:
                opened.callback(self._images.close)
            self._bell = Bell()
            opened.callback(self._bell.close)
            if life.journals:
                header = Header(life.name, life.epoch, experiment.plain())
                self._journal = opened.enter_context(JournalWriter(life.journals, header))
            self.links = Links(life.name, host, life.port, experiment.runtime.encrypt, self._bell.fileno())
            opened.callback(self.links.close)
            shapers = life.shapers(opened, self._zero_s)
            self._opened = opened.pop_all()
        self.exchange = Exchange(
            life.name, experiment.topology.workers, self.links, shapers, self._features, self._timers, self.now,
            self._arrived, self._keep, life.receiver(), life.coders(),
        )  # fmt: skip
        self.tally.travels_bytes = self.exchange.travels_bytes
        self.computer = Computer(runner, self._bell.ring, alone=len(experiment.topology.workers) == 1)
        self._solver = Solver(life, self._bell.ring) if life.is_source and experiment.offloading.uses_prices else None
        self._do = self._doing()
        self._thread = threading.Thread(target=self._run, name="node", daemon=True)

    # ---- for other threads

    def start(self) -> None:
        """Begin to work. Nothing happens before the first RoutesChanged."""
        self._thread.start()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._zero_s

    def call(self, function: Callable[[], Answer]) -> Future[Answer]:
        """Have the loop call `function` between two events, and give its answer."""
        future: Future[Answer] = Future()

        def answer() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # the caller's to handle: it is waiting for this future
                future.set_exception(error)

        self._calls.append((answer, future))
        self._bell.ring()
        if self._closed:
            self._refuse_calls()
        return future

    def feed(self, core: CoreName, event: ev.Event) -> None:
        """Let something have happened; to be called by way of `call`."""
        self._events.append((core, event))

    def stop(self) -> None:
        """End the loop and close everything; a second call does nothing."""
        self._stopping = True
        self._bell.ring()
        if self._thread.ident is None:
            self._close()
        else:
            self._thread.join()

    # ---- the loop

    def turn(self, longest_s: float) -> bool:
        """Once round the loop, waiting no longer for something to happen; return whether the next turn computes."""
        for timer in self._timers.due(self.now()):
            self._timer_due(timer)
            self._handle_events()
        busy = self.computer.busy_here or self.exchange.has_to_speak
        rung = self.links.wait(0.0 if busy else self._timers.wait_s(self.now(), longest_s))
        self._take_in_messages()
        if rung:
            self._answer_bell()
        self.computer.collect(self._computed)
        while self.exchange.speak():  # before computing, so that neighbours need not wait for it
            self._handle_events()  # what cannot be sent
        self.computer.compute_here(self._computed)
        return self.computer.busy_here

    def _run(self) -> None:
        try:
            while not self._stopping:
                self.turn(_SLEEP_S)
        except BaseException as error:  # whatever it is, the supervisor is told and ends the run
            self.failure = error
        finally:
            self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self.computer.stop(_STOP_S)
        if self._solver:
            self._solver.stop()
        self.tally.close(self.now())
        try:
            self._opened.close()
        except JournalError as error:
            self.failure = self.failure or error
        self._closed = True
        self.ended.set()  # first: whoever is refused must find why
        self._refuse_calls()

    def _refuse_calls(self) -> None:
        with contextlib.suppress(IndexError):  # a caller that is just too late may be doing the same
            while True:
                self._calls.popleft()[1].set_exception(LifeOver(f"{self.life.name} has ended"))

    def _take_in_messages(self) -> None:
        for _ in range(_MESSAGES_MAX):
            if (message := self.links.receive()) is None:
                break
            self.exchange.take_in(*message)
        self.exchange.taken_in()
        self._handle_events()

    def _answer_bell(self) -> None:
        self._bell.heard()
        while self._calls:
            self._calls.popleft()[0]()
            self._handle_events()
        if self._solver and (prices := self._solver.collect()) is not None:
            self._tell(ev.PricesSolved(prices))
            self._handle_events()

    def _timer_due(self, timer: tuple[str, Any, int]) -> None:
        kind, name, _ = timer
        if kind == "worker":
            self._events.append(("worker", ev.TimerFired(name)))
        elif kind == "controller":
            self._events.append(("controller", self._worker.observe()))
            self._events.append(("controller", ev.TimerFired(name)))
        else:
            self.exchange.due(timer)

    def _handle_events(self) -> None:
        """Feed the cores, and do what they say, until nothing is left that happened here and now."""
        while self._events:
            (core, event), now = self._events.popleft(), self.now()
            if core == "worker":
                effects: list[Any] = self._worker.handle(event, now)
                queues = self._worker
                self.tally.observe(now, queues.input.length + queues.either.length, queues.output.length)
            else:
                assert self._controller is not None
                effects = self._controller.handle(event, now)
            self.tally.take(now, core, event, effects)
            if self._journal:
                self._journal.write(Step(now, self.life.name, self.life.epoch, core, event, tuple(effects)))
            for effect in effects:
                if isinstance(effect, fx.SetTimer):
                    self._timers.set((core, effect.name, 0), now + effect.delay_s)
                elif (do := self._do.get(type(effect))) is not None:
                    do(effect)
            if self._admitted:  # together: one step of the worker's core for all of them
                self._arrived(ev.TasksArrived(tuple(self._admitted), None, 0))
                self._admitted.clear()
            source = None if self._events or type(event) in _OWN else self._controller  # once for all that happened
            if source and source.watches(self._worker):
                self._tell(self._worker.observe())

    # ---- what happened

    def _arrived(self, event: ev.WorkerEvent) -> None:
        self._events.append(("worker", event))

    def _tell(self, event: ev.ControllerEvent) -> None:
        self._events.append(("controller", event))

    def _keep(self, tasks: tuple[Task, ...], tensors: list[Tensor]) -> None:
        if any(task.key in self._payloads for task in tasks):
            self._handle_events()  # what the sender said before may let go of the very same payloads
        self._payloads.update(zip([task.key for task in tasks], tensors, strict=True))

    def _computed(self, done: Computed, beside_s: float) -> None:
        if done.reason:
            self._arrived(ev.SegmentFailed(done.k, done.tasks, done.reason))
            self._handle_events()
            return
        feature_bytes = self._features.size_bytes(done.k)
        for task in done.tasks:
            self._payloads.pop(task.key, None)
        if done.features is not None:
            for task, feature in zip(done.tasks, done.features, strict=True):
                self._payloads[task.data_id, task.attempt, done.k + 1] = feature
        self._arrived(ev.SegmentDone(done.k, done.tasks, done.readings, feature_bytes, done.duration_s, beside_s))
        self._handle_events()

    # ---- what to do

    def _doing(self) -> dict[type, Callable[[Any], object]]:
        """What is done about an effect; SetTimer depends on the core, some are for the tally and the journal alone."""
        exchange = self.exchange
        return {
            fx.RunSegment: self._compute,
            fx.SendTasks: self._hand_over,
            fx.Acknowledge: exchange.answer,
            fx.SendReport: exchange.tell,
            fx.SendThresholds: exchange.tell,
            fx.SendPrices: exchange.tell,
            fx.SendMeasurements: exchange.tell,
            fx.SendResults: exchange.pass_on,
            fx.DiscardPayloads: lambda effect: [self._payloads.pop(key, None) for key in effect.keys],
            fx.Admit: self._admit,
            fx.DeliverResults: lambda effect: self._tell(ev.ResultsArrived(effect.results)),
            fx.SetThresholds: lambda e: self._arrived(ev.ThresholdsReceived(e.version, e.thresholds, None)),
            fx.SetPrices: lambda effect: self._arrived(ev.PricesReceived(effect.prices, None)),
            fx.DeliverMeasurements: lambda effect: self._tell(ev.MeasurementsArrived(effect.measurements)),
            **({fx.SolvePrices: self._solver.ask} if self._solver else {}),
            fx.Finish: lambda effect: self.ended.set(),
        }

    def _compute(self, effect: fx.RunSegment) -> None:
        self.computer.submit(effect.k, effect.tasks, [self._payloads[task.key] for task in effect.tasks])

    def _hand_over(self, effect: fx.SendTasks) -> None:
        self.exchange.hand_over(effect, [self._payloads[task.key] for task in effect.tasks])

    def _admit(self, effect: fx.Admit) -> None:
        assert self._images is not None
        try:
            image = self._images.image(effect.data_id)
        except UnreadableImage as error:
            self._tell(ev.DatumUnreadable(effect.data_id, str(error)))
            return
        task = Task(effect.data_id, effect.attempt, 1, image.nbytes, 0, effect.arm)
        self._payloads[task.key] = image
        self._admitted.append(task)
