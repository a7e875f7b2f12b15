"""Algorithms 3 and 4 of MDI-Exit at the source: admission, threshold adaptation, and one outcome for each datum.

The controller admits a datum every `interarrival_s` (Algorithm 3) or when an arrival process says so (Algorithm 4,
always admit), keeps a ledger of what is in flight, and closes each entry exactly once. A datum whose answer does not
come by its deadline is submitted again with the next attempt number; whichever attempt answers first counts.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.prices import PriceDesk
from mdi_exit.core.standing import Standing
from mdi_exit.core.types import Limits, Outcome, Result
from mdi_exit.core.views import AdmissionPolicy, ArrivalProcess, SplitLearner

_CATCH_UP_S = 0.5  # how far behind its schedule a late driver may admit in a hurry


@dataclass(slots=True)
class _InFlight:
    admitted_s: float  # or, when data come from outside, when it arrived
    arm: int  # of all its attempts
    attempt: int = -1  # before the first submission
    failures: int = 0  # missed deadlines and errors; a copy asked for because a worker died is nobody's failure
    deadline_s: float = 0.0
    worker_lost: bool = False  # the deadline was brought forward because a worker died


class ControllerCore:
    """The decisions of the source. Also the `SourceView` that its admission policy reads."""

    def __init__(
        self,
        exits: int,
        thresholds: tuple[float, ...],
        admission: AdmissionPolicy,
        arrivals: ArrivalProcess | None,
        limits: Limits,
        rng: random.Random,
        data_max: int | None = None,
        uses_prices: bool = False,
        learner: SplitLearner | None = None,
    ) -> None:
        assert len(thresholds) == exits - 1
        assert (arrivals is not None) == admission.wants_arrivals
        self.input_queue = self.output_queue = self.first_segment = 0
        self.thresholds = thresholds
        self.interarrival_s = arrivals.mean_interarrival_s if arrivals else admission.first_interarrival_s
        self.memory: tuple[float, ...] = ()
        self._admission, self._limits, self._data_max = admission, limits, data_max
        self._price_desk = PriceDesk() if uses_prices else None
        self._learner, self._learned = learner, learner.begin(exits) if learner else None
        self._admitted = 0  # since the last adaptation
        self._submitted = 0  # ever, again and again those that are submitted again
        self._gaps: Iterator[float] | None = arrivals.gaps(rng) if arrivals else None
        self._in_flight: dict[int, _InFlight] = {}
        self._deadlines: list[tuple[float, int]] = []  # a heap; entries of closed or resubmitted data are stale
        self._armed_s = math.inf  # when the deadline timer is due
        self._offered = self._version = 0
        self._next_arrival_s = 0.0
        self._started = self._open = self._finished = False
        self._now = 0.0
        self._effects: list[fx.ControllerEffect] = []

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def watches(self, source: Standing) -> bool:
        """Say whether to be given a SourceObserved now: there is room for a datum, and what was admitted has come."""
        return self._open and source.backlogs[0] < self._admission.fill_to and source.admitted == self._submitted

    def handle(self, event: ev.ControllerEvent, now: float) -> list[fx.ControllerEffect]:
        """Take in what happened at `now` (seconds since the run began) and return what to do about it."""
        self._now, self._effects = now, []
        if isinstance(event, ev.SourceObserved):
            self.input_queue, self.output_queue = event.input_queue, event.output_queue
            self.first_segment = event.first_segment
        elif isinstance(event, ev.TimerFired):
            self._timer_fired(event.name)
        elif isinstance(event, ev.ResultsArrived):
            for result in event.results:
                self._answered(result)
        elif isinstance(event, ev.DatumUnreadable):
            self.first_segment -= 1  # it will not come to wait there
            self._submitted -= 1
            self._close(event.data_id, Outcome.FAILED, event.reason)
        elif isinstance(event, ev.WorkerLost):
            self._bring_deadlines_forward()
        elif isinstance(event, ev.AdmissionOpened):
            self._open_admission()
        elif isinstance(event, ev.AdmissionClosed):
            self._open = False
        elif isinstance(event, ev.DrainExpired):
            self._open = False
            for data_id in list(self._in_flight):
                self._close(data_id, Outcome.LOST, "no answer by the end of the run")
        if self._price_desk:
            self._effects += self._price_desk.handle(event)
        # Not after an unreadable datum: where all are, the source would do nothing else. The next event fills up.
        if self._open and self._admission.fill_to and not isinstance(event, ev.DatumUnreadable):
            self._fill()
        if self._started and not (self._open or self._in_flight or self._finished):
            self._finished = True
            self._effects.append(fx.Finish())
        return self._effects

    # ---- admission

    def _open_admission(self) -> None:
        self._open = self._started = True
        self._next_arrival_s = self._now
        if not self._admission.fill_to:
            self._schedule_arrival()
        self._effects.append(fx.SetTimer("adapt", self._admission.period_s))
        if self._price_desk:
            self._effects += self._price_desk.open()

    def _timer_fired(self, name: str) -> None:
        if name == "deadline":
            self._check_deadlines()
        elif name == "arrival" and self._open:
            self._arrive()
        elif name == "adapt" and self._open:
            self._adapt()
        elif name == "prices" and self._price_desk and not self._finished:
            self._effects += self._price_desk.tick()

    def _fill(self) -> None:
        """Admit until enough wait for segment 1 at the source."""
        while self.first_segment < self._admission.fill_to and len(self._in_flight) < self._limits.in_flight_max:
            self._admit_next(self._now)
            if not self._open:
                return

    def _admit_next(self, admitted_s: float) -> None:
        arm = self._learner.choose(self._learned) if self._learner else 0
        self._submit(self._offered, _InFlight(admitted_s, arm))
        self.first_segment += 1  # until the next observation
        self._admitted += 1
        self._count_offered()

    def _count_offered(self) -> None:
        self._offered += 1
        if self._data_max is not None and self._offered >= self._data_max:
            self._open = False

    def _arrive(self) -> None:
        full = len(self._in_flight) >= self._limits.in_flight_max
        if self._gaps is None:  # a source that holds its data just waits
            if not full:
                self._admit_next(self._now)
        else:  # what arrives from outside cannot wait at the door: it is shed
            late = self._now - self._next_arrival_s > _CATCH_UP_S
            if full or late or self.first_segment >= self._admission.queue_max:
                reason = "the source was late" if late else "the source was full"
                self._effects.append(fx.Complete(self._offered, Outcome.SHED, 0, -1, 0.0, 0.0, 0, reason))
                self._count_offered()
            else:
                self._admit_next(self._next_arrival_s)
        if self._open:
            self._schedule_arrival()

    def _schedule_arrival(self) -> None:
        gap_s = self.interarrival_s if self._gaps is None else next(self._gaps, None)
        if gap_s is None:  # a recorded trace has ended
            self._open = False
            return
        self._next_arrival_s += gap_s
        if self._gaps is None:  # after a pause it does not flood itself
            self._next_arrival_s = max(self._next_arrival_s, self._now - _CATCH_UP_S)
        self._effects.append(fx.SetTimer("arrival", max(0.0, self._next_arrival_s - self._now)))

    def _adapt(self) -> None:
        decision = self._admission.adapt(self)
        self.memory = decision.memory
        if decision.thresholds != self.thresholds:
            self._version += 1
            self.thresholds = decision.thresholds
            self._effects.append(fx.SetThresholds(self._version, self.thresholds))
        if decision.interarrival_s != self.interarrival_s:
            self.interarrival_s = decision.interarrival_s
            if self._gaps is None and self._next_arrival_s > self._now + self.interarrival_s:
                self._next_arrival_s = self._now
                self._schedule_arrival()
        if self._admission.fill_to and self._admitted:
            self.interarrival_s = self._admission.period_s / self._admitted
        self._admitted = 0
        threshold = sum(self.thresholds) / len(self.thresholds) if self.thresholds else 1.0
        held = (self.input_queue, self.output_queue, len(self._in_flight))
        record = fx.RecordControl(self.interarrival_s, threshold, *held)
        self._effects += [record, fx.SetTimer("adapt", self._admission.period_s)]

    # ---- the ledger

    def _submit(self, data_id: int, entry: _InFlight) -> None:
        entry.attempt += 1
        entry.deadline_s = self._now + self._limits.deadline_s * 2**entry.failures
        entry.worker_lost = False
        self._in_flight[data_id] = entry
        self._submitted += 1
        self._effects.append(fx.Admit(data_id, entry.attempt, entry.arm))
        heapq.heappush(self._deadlines, (entry.deadline_s, data_id))
        self._arm_deadline()

    def _answered(self, result: Result) -> None:
        entry = self._in_flight.get(result.data_id)
        if entry is None:
            if result.error is None:
                self._effects.append(fx.CountDuplicate(result.data_id))
        elif result.error is None:
            del self._in_flight[result.data_id]
            latency_s, attempts = self._now - entry.admitted_s, entry.attempt + 1
            done = (Outcome.COMPLETED, result.k, result.prediction, result.confidence, latency_s, attempts)
            cost, reward = self._learner.learn(self._learned, entry.arm, result) if self._learner else (0.0, 0.0)
            self._effects.append(fx.Complete(result.data_id, *done, "", entry.arm, cost, reward))
        elif result.attempt == entry.attempt:
            self._failed(result.data_id, entry, Outcome.FAILED, result.error)

    def _failed(self, data_id: int, entry: _InFlight, otherwise: Outcome, reason: str) -> None:
        entry.failures += 1
        if entry.failures < self._limits.attempts_max:
            self._submit(data_id, entry)
        else:
            self._close(data_id, otherwise, reason)

    def _close(self, data_id: int, outcome: Outcome, reason: str) -> None:
        if (entry := self._in_flight.pop(data_id, None)) is not None:
            latency_s = self._now - entry.admitted_s
            self._effects.append(fx.Complete(data_id, outcome, 0, -1, 0.0, latency_s, entry.attempt + 1, reason))

    def _arm_deadline(self) -> None:
        """Set the timer for the next deadline, unless an earlier one is set.

        Heads of data that have their outcome are dropped, so that the heap stays about as small as what is in flight.
        """
        while self._deadlines and self._deadlines[0][1] not in self._in_flight:
            heapq.heappop(self._deadlines)
        if self._deadlines and self._deadlines[0][0] < self._armed_s:
            self._armed_s = self._deadlines[0][0]
            self._effects.append(fx.SetTimer("deadline", max(0.0, self._armed_s - self._now)))

    def _check_deadlines(self) -> None:
        self._armed_s = -math.inf  # what is pushed meanwhile is armed at the end
        while self._deadlines and self._deadlines[0][0] <= self._now:
            deadline_s, data_id = heapq.heappop(self._deadlines)
            entry = self._in_flight.get(data_id)
            if entry is None or entry.deadline_s != deadline_s:
                continue
            if entry.worker_lost:
                self._submit(data_id, entry)
            else:
                self._failed(data_id, entry, Outcome.LOST, "no answer within any deadline")
        self._armed_s = math.inf
        self._arm_deadline()

    def _bring_deadlines_forward(self) -> None:
        """A worker died, perhaps with tasks: ask again soon for whatever stays unanswered.

        Which tasks it held nobody knows; what the others answer in the meantime is not asked for twice.
        """
        soon_s = self._now + self._limits.loss_grace_s
        for entry in self._in_flight.values():
            if entry.deadline_s > soon_s:
                entry.deadline_s, entry.worker_lost = soon_s, True
        self._deadlines = sorted((entry.deadline_s, data_id) for data_id, entry in self._in_flight.items())
        self._armed_s = math.inf
        self._arm_deadline()
