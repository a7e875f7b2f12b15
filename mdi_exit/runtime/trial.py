"""What the runtime itself takes of a device's time, by a trial: the network runs for a while, with the rules of a plan.

What counts is the processor time of each worker's whole process, less that of computing, times how long a second of
processor time takes there: one second where nobody else wants the processor, ten where a control group gives a tenth
of it. How it is divided among data, tasks and hand-overs is not measured: they come together. Segments take in a trial
what they do between messages, with the processor's caches as these leave them; where enough were computed, all times
are taken in that proportion. Design: ours.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mdi_exit.config import Experiment
from mdi_exit.devices import Overhead, slice_name
from mdi_exit.errors import UserError
from mdi_exit.report import build_report, settled
from mdi_exit.report_nodes import WorkerFacts
from mdi_exit.runtime import launch
from mdi_exit.runtime.probe import SliceTimes
from mdi_exit.runtime.profiling import Profiled
from mdi_exit.runtime.record import INTERRUPTED, Progress
from mdi_exit.tally import NodeTally

# What a datum, a task and one end of a hand-over take of one another: a judgement, after what one worker alone and one
# with a neighbour were seen to take beside computing.
_DATUM, _TASK, _HOP = 1.5, 1.0, 4.0
_ENOUGH = 50  # tasks, or data, to say what one takes
_SHORTEST_S = 2.0  # in less, queues have hardly filled
_DOING = {"start": "starting the workers", "link": "linking the workers", "run": "running them all together"}


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker did in a trial, and the processor time that it took for it."""

    data: int  # admitted there
    tasks: tuple[int, ...]  # computed, of segments 1..K
    hand_overs: int  # of tasks, that it sent or took
    computing_s: tuple[float, ...]  # processor time of segments 1..K
    processor_s: float  # all of it

    @property
    def weight(self) -> float:
        """How much there was to do beside computing, in tasks."""
        return _DATUM * self.data + _TASK * sum(self.tasks) + _HOP * self.hand_overs

    @property
    def beside_s(self) -> float:
        return max(0.0, self.processor_s - sum(self.computing_s))


def measure(
    measured: Profiled,
    experiment: Experiment,
    setting: launch.Setting,
    seconds: float,
    tell: Callable[[str], None],
) -> Profiled:
    """Run `experiment` for so long, and say what it showed beside what was `measured` alone.

    Where it cannot be run (a data set that is not here, a source that dies, Ctrl-C) `trial_failed` says why, and what
    the runtime takes is not known.
    """
    short = dataclasses.replace(
        experiment,
        duration_s=max(_SHORTEST_S, seconds),
        data_max=None,
        churn=(),
        runtime=dataclasses.replace(experiment.runtime, journal=False),
    )
    said = dict[str, None]()

    def observe(progress: Progress) -> None:
        if (doing := _DOING.get(progress.phase)) and progress.phase not in said:
            said[progress.phase] = None
            tell(f"{doing}, {short.duration_s:.0f} s" if progress.phase == "run" else doing)

    try:
        record = launch.run(short, dataclasses.replace(setting, observer=observe))
    except UserError as error:
        return dataclasses.replace(measured, trial_failed=str(error))
    except KeyboardInterrupt:
        return dataclasses.replace(measured, trial_failed=INTERRUPTED)
    if record.interrupted:
        return dataclasses.replace(measured, trial_failed=INTERRUPTED)
    report = build_report(short, record.card, record.tallies, record.facts, "", "ray")
    paced = {w for w, device in experiment.devices.items() if device and experiment.runtime.emulate == "all"}
    done = what_was_done(record.tallies, record.facts)
    times, runtimes = corrected(measured.devices, done, paced, experiment.hosted)
    return dataclasses.replace(
        measured,
        devices=times,
        runtimes=runtimes,
        trial_per_s=settled(report)["throughput_per_s"],
        trial_notes=record.notes,
    )


def what_was_done(tallies: tuple[NodeTally, ...], facts: Mapping[str, WorkerFacts]) -> dict[str, Done]:
    """By worker, of those that lived through all of it."""
    found = {}
    for tally in tallies:
        known, worker = facts[tally.node], tally.worker
        if known.restarts or known.processor_s is None or known.computing_s is None:
            continue
        data = tally.source.admitted if tally.source else 0
        moved = worker.offloaded + worker.received
        found[tally.node] = Done(data, tuple(worker.segments), moved, known.computing_s, known.processor_s)
    return found


def corrected(
    measured: Mapping[str, SliceTimes],
    done: Mapping[str, Done],
    paced: set[str],
    hosted: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, SliceTimes], dict[str, Overhead]]:
    """Times of slices, and of the runtime of whom it is known, by what was done in a trial with these slices `hosted`.

    Times of `paced` workers are another device's and stay, as do those of a GPU or of several threads, whose work the
    processor time of the calling thread does not tell. A worker that did little takes what the others do: as much
    longer as it computes slower, unless it is paced, when it is this machine that does the runtime's work.
    """
    telling = {w: did for w, did in done.items() if measured[w].one_thread}
    times = {
        w: each if w in paced or w not in telling else _as_in_trial(each, telling[w], hosted[w])
        for w, each in measured.items()
    }
    unit_s = {
        w: measured[w].stretch * did.beside_s / did.weight for w, did in telling.items() if did.weight >= _HOP * _ENOUGH
    }
    slowness = {w: 1.0 if w in paced else sum(each.segment_s.values()) for w, each in measured.items()}
    runtimes = {}
    for worker in measured:
        alike = [unit / slowness[w] for w, unit in unit_s.items() if (w in paced) == (worker in paced)]
        if worker in unit_s or alike:
            one_s = unit_s.get(worker) or statistics.median(alike) * slowness[worker]
            runtimes[worker] = Overhead(_DATUM * one_s, _TASK * one_s, _HOP * one_s)
    return times, runtimes


def _as_in_trial(alone: SliceTimes, done: Done, hosted: tuple[int, ...]) -> SliceTimes:
    """All times, as much longer or shorter as those of what was computed often, in the slice that it was part of."""
    seen = [k for k in hosted if done.tasks[k - 1] >= _ENOUGH]
    together_s = sum(alone.segment_s[k] for k in hosted)
    of_slice = alone.slice_s.get(slice_name(hosted), together_s) / together_s if hosted else 1.0
    expected_s = of_slice * sum(done.tasks[k - 1] * alone.segment_s[k] for k in seen)
    if not seen:
        return alone
    ratio = alone.stretch * sum(done.computing_s[k - 1] for k in seen) / expected_s
    return dataclasses.replace(
        alone,
        segment_s={k: ratio * s for k, s in alone.segment_s.items()},
        slice_s={name: ratio * s for name, s in alone.slice_s.items()},
    )
