"""What must hold in every world, after each step and at the end; retries cannot hide a bug from these."""

from __future__ import annotations

from collections import Counter, defaultdict

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Outcome, TaskKey
from mdi_exit.core.worker import WorkerCore
from mdi_exit.fuzzing.cases import Mode
from mdi_exit.journal import Fingerprint, Step
from mdi_exit.simulation.world import World

_PATIENCE_STEPS = 2_000_000  # of one case; the longest ones take a tenth of it


class Violation(Exception):
    """Something that must hold did not."""


class Watch:
    """Sees every step of a world, counts, and checks the invariants. Raises Violation."""

    def __init__(self, may_rest: bool) -> None:
        """`may_rest` as the offloading policy says."""
        self.may_rest = may_rest
        self.world: World | None = None  # to be told before the first step
        self.fingerprint = Fingerprint()
        self.steps = 0
        self.last: Step | None = None
        self.outcomes: Counter[int] = Counter()  # by datum
        self.kinds: Counter[Outcome] = Counter()
        self.computed: Counter[TaskKey] = Counter()
        self.events: Counter[str] = Counter()
        # Which tensors a real driver would hold, by life: needing one that was discarded is a bug of the core's.
        self.payloads: defaultdict[tuple[str, int], set[TaskKey]] = defaultdict(set)

    def __call__(self, step: Step) -> None:
        """Take in a step."""
        require(self.last is None or self.last.now <= step.now, f"time went back to {step.now}")
        self.last = step
        self.steps += 1
        require(self.steps < _PATIENCE_STEPS, "it goes on and on")
        self.fingerprint.add(step)
        self.events[type(step.event).__name__] += 1
        for effect in step.effects:
            if isinstance(effect, fx.Complete):
                self.outcomes[effect.data_id] += 1
                self.kinds[effect.outcome] += 1
            elif isinstance(effect, fx.RunSegment):
                self.computed.update(task.key for task in effect.tasks)
            elif isinstance(effect, fx.Admit):
                self.events["resubmitted" if effect.attempt else "admitted"] += 1
            elif isinstance(effect, fx.CountDuplicate):
                self.events["duplicate"] += 1
        assert self.world is not None
        if step.core == "controller":
            answered = self.outcomes.total() - self.kinds[Outcome.SHED]
            open_data = self.events["admitted"] - answered
            require(self.world.controller.in_flight == open_data, "the ledger is not what is in flight")
            return
        self._keep_payloads(step)
        core = self.world.workers[step.node]
        runnable = [k for k in core.hosted if _waits(core, k) and not (self.may_rest and _only_lengthens(core, k))]
        require(core.computing > 0 or not runnable, f"{step.node} idles while holding runnable work")

    def _keep_payloads(self, step: Step) -> None:
        held, event = self.payloads[step.node, step.epoch], step.event
        assert self.world is not None
        if isinstance(event, ev.TasksArrived):
            held.update(task.key for task in event.tasks)
        elif isinstance(event, ev.SegmentDone):
            held.difference_update(task.key for task in event.tasks)
            if event.k < self.world.workers[step.node].exits:
                held.update((task.data_id, task.attempt, task.k + 1) for task in event.tasks)
        for effect in step.effects:
            if isinstance(effect, fx.RunSegment | fx.SendTasks):
                require(all(task.key in held for task in effect.tasks), f"{step.node} discarded what it needs")
            elif isinstance(effect, fx.DiscardPayloads):
                held.difference_update(effect.keys)

    def check_end(self, mode: Mode) -> None:
        """Check what must hold once all is worked off."""
        world = self.world
        assert world is not None
        require(world.finished, f"{world.controller.in_flight} data without an outcome")
        require(set(self.outcomes.values()) <= {1}, "a datum has two outcomes")
        offered = self.events["admitted"] + self.kinds[Outcome.SHED]
        require(len(self.outcomes) == offered, f"{offered} data offered, {len(self.outcomes)} with an outcome")
        busy = [name for name, core in world.workers.items() if not core.idle]
        require(not busy, f"{', '.join(busy)} still hold something")
        kept = [name for name in world.workers if self.payloads[name, world.epochs[name]]]
        require(not kept, f"{', '.join(kept)} keep tensors that nobody needs")
        self._check_outcomes(mode)

    def _check_outcomes(self, mode: Mode) -> None:
        given_up = {outcome.value: self.kinds[outcome] for outcome in (Outcome.FAILED, Outcome.LOST)}
        require(not any(given_up.values()), f"given up though the source lived: {given_up}")
        if mode == "calm":
            again = ("resubmitted", "duplicate", "TasksUndelivered", "TasksRefused", "ResultsUndelivered")
            found = {name: self.events[name] for name in again if self.events[name]}
            require(not found, f"done again though nothing went wrong: {found}")
            require(set(self.computed.values()) <= {1}, "a task was computed twice")


def _waits(core: WorkerCore, k: int) -> bool:
    """A task for segment k waits for the processor, or may be taken back from the output queue."""
    return core.backlogs[k - 1] > (0 if k in core.taken_back else core.output.counts[k - 1])


def _only_lengthens(core: WorkerCore, k: int) -> bool:
    """What segment k makes waits already, and so on up to what cannot be computed here and waits for a link."""
    while k < core.exits and core.backlogs[k] > 0:
        k += 1
        if k not in core.hosted:
            return True
    return False


def require(holds: bool, otherwise: str) -> None:
    """Raise Violation unless it holds."""
    if not holds:
        raise Violation(otherwise)
