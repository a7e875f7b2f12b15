"""Which slices to put where: the placement that lets most data through, within the devices' memory.

How good a placement is says the fluid bound (`optimum`) of the network with it: compute times of whole slices, links,
windows and radio channels, and the share of the data that goes on after each exit. The search is ours.

Where every worker can hold the whole network, and takes as long for a segment whatever else it holds, there is nothing
to search: then every task may be computed everywhere and go over every link, and no placement allows more. Slices that
were timed as a whole (`slice_s` of a device profile) end that: one worker may be faster with less. Otherwise, with up
to EXHAUSTIVE_MAX placements all are tried, and the plan is the best there is. Beyond, it is a bounded local search: of
the slices that no other fitting one contains, all combinations if they are few, else the best start of several, where
slices were timed also of shorter ones; from there one worker's slice after another is exchanged for whichever fits
best, until none helps or LOCAL_MAX placements were tried. Without timed slices it is known how far that may be from
the best: `unlimited_per_s` is what the same network could do if memory did not matter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mdi_exit import placement
from mdi_exit.analysis.fluid import FluidProblem, OptimumError, placed
from mdi_exit.analysis.optimum import Optimum, optimum
from mdi_exit.config import Experiment
from mdi_exit.errors import UserError
from mdi_exit.models.card import Card
from mdi_exit.topology import Topology

EXHAUSTIVE_MAX = 1_000  # placements, each about 5 ms of a programme with five workers
LOCAL_MAX = 600  # of a local search: enough for three rounds of 15 slices on a dozen workers
LEAN_LOSS = 0.01  # of the rate that a lean plan may cost
_SAME = 1e-6  # relative; rates nearer than that are the solver's noise

Slice = tuple[int, ...]
Hosted = Mapping[str, Slice]


class PlanError(UserError):
    """What no placement can be found for; one line with the remedy."""


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """What every placement of an experiment is judged by; what `placed` must know beside who hosts what."""

    experiment: Experiment
    card: Card
    payload_bytes: tuple[int, ...]  # of a_k, k = 0..K
    continuation: tuple[float, ...]
    segment_bytes: tuple[int, ...]  # the weights of segments 1..K
    memory_bytes: Mapping[str, int]  # what each worker has for them
    header_bytes: int = 0
    result_bytes: int | None = None

    def problem(self, hosted: Hosted, lost: Sequence[str] = ()) -> FluidProblem:
        """The fluid problem of this placement. Raises OptimumError for a worker without a profile, and when nobody
        hosts anything."""
        model, times_s = self.card.model, {}
        for worker, profile in self.experiment.devices.items():
            if profile is None:
                raise OptimumError(
                    f"{self.experiment.file}: devices.{worker}: has no profile; allowed: one for every worker, "
                    "such as --set devices=jetson-nano, or those that mdi-exit profile measures"
                )
            times_s[worker] = profile.seconds(model.architecture, model.image_size, hosted[worker])
        changed = dataclasses.replace(self.experiment, hosted=hosted)
        given = (self.payload_bytes, self.continuation, self.header_bytes, self.result_bytes, lost)
        return placed(changed, times_s, *given)

    def optimum(self, hosted: Hosted, lost: Sequence[str] = ()) -> Optimum | None:
        """What this placement allows; None when no datum could be finished. Raises OptimumError as `problem` does."""
        if all(worker in lost or not segments for worker, segments in hosted.items()):
            return None
        problem = self.problem(hosted, lost)
        try:
            return optimum(problem)
        except OptimumError:
            return None

    def rate_per_s(self, hosted: Hosted, lost: Sequence[str] = ()) -> float:
        """The rate that it allows; 0 when no datum could be finished."""
        found = self.optimum(hosted, lost)
        return found.rate_per_s if found else 0.0

    def fits(self, worker: str, segments: Slice) -> bool:
        return self.size_bytes(segments) <= self.memory_bytes[worker]

    def size_bytes(self, segments: Slice) -> int:
        return sum(self.segment_bytes[k - 1] for k in segments)

    def slices_timed(self) -> bool:
        """Whether the time of a segment depends on what else its worker hosts."""
        key = f"{self.card.model.architecture}@{self.card.model.image_size}"
        return any(profile is not None and profile.slice_s.get(key) for profile in self.experiment.devices.values())

    def whole(self) -> dict[str, Slice]:
        """Everybody hosts everything, whatever the memory."""
        return dict.fromkeys(self.experiment.topology.workers, tuple(range(1, self.experiment.exits + 1)))


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A placement, and how it was found."""

    hosted: Hosted
    optimum: Optimum
    searched: int  # placements whose bound was computed
    exhaustive: bool  # none is better; else a local search found it
    unlimited_per_s: float  # the rate if every worker could host everything, and did
    by_hand: tuple[str, ...] = ()


def find_plan(basis: Basis, lean: bool = False, progress: Callable[[int], None] = lambda searched: None) -> Plan:
    """The best placement within memory that leaves hand-made slices (`Experiment.by_hand`) as they are.

    A `lean` one then gives up, segment by segment, what costs at most LEAN_LOSS of the rate in all. Raises PlanError
    when no placement fits, OptimumError for a worker whose times are not known.
    """
    choices = slices_that_fit(basis)
    search = _Search(basis, choices, progress)
    unlimited_per_s = basis.rate_per_s(basis.whole())
    exhaustive = True
    everything_fits = all(basis.whole()[worker] in slices for worker, slices in choices.items())
    if everything_fits and not basis.slices_timed():
        search.consider(basis.whole())
    elif math.prod(map(len, choices.values())) <= EXHAUSTIVE_MAX:
        search.all_of(choices)
    else:
        exhaustive = False
        search.locally()
    if search.best is None:
        raise PlanError(_why_not(basis, choices))
    hosted = _lean(search, search.best, search.best_per_s) if lean else search.best
    found = basis.optimum(hosted)
    assert found is not None
    return Plan(hosted, found, search.searched, exhaustive, unlimited_per_s, basis.experiment.by_hand)


def slices_that_fit(basis: Basis) -> dict[str, list[Slice]]:
    """For each worker the contiguous slices that its memory takes, the longest first; its own when made by hand.

    Raises PlanError for a worker that takes none of them.
    """
    exits, choices = basis.experiment.exits, {}
    every = [tuple(range(a, b + 1)) for a in range(1, exits + 1) for b in range(a, exits + 1)]
    for worker in basis.experiment.topology.workers:
        own, memory_bytes = basis.experiment.hosted[worker], basis.memory_bytes[worker]
        by_hand = worker in basis.experiment.by_hand
        fitting = [s for s in ([own] if by_hand else every) if basis.fits(worker, s)]
        if not fitting:
            least_bytes = basis.size_bytes(own) if by_hand else min(basis.segment_bytes)
            what = f"its slice of {len(own)} segments takes" if by_hand else "the smallest segment takes"
            raise PlanError(
                f"{worker}: {what} {least_bytes} bytes of weights and its memory is {memory_bytes}; allowed: a "
                "smaller slice, more memory (memory_bytes of its device profile, --memory-max), or no such worker"
            )
        choices[worker] = sorted(fitting, key=len, reverse=True)
    return choices


def even_split(topology: Topology, exits: int) -> dict[str, Slice]:
    """Slices of as equal numbers of segments as can be, in order of the hops from the source, none twice.

    Where there are more workers than segments, several in a row share one.
    """
    hops = topology.hops_from_source()
    order = sorted(topology.workers, key=hops.__getitem__)  # stable: the file's order among equals
    shared = len(order) > exits
    ends = [round(exits * i / len(order)) for i in range(len(order) + 1)]
    return {
        worker: (i * exits // len(order) + 1,) if shared else tuple(range(ends[i] + 1, ends[i + 1] + 1))
        for i, worker in enumerate(order)
    }


@dataclass(slots=True)
class _Search:
    """The best placement so far."""

    basis: Basis
    choices: Mapping[str, Sequence[Slice]]
    progress: Callable[[int], None]
    best: dict[str, Slice] | None = None
    best_per_s: float = 0.0
    searched: int = 0
    _known: dict[tuple[Slice, ...], float] = field(default_factory=dict)  # at most as many as are searched

    def consider(self, hosted: Hosted) -> float:
        """The rate of a placement, 0 for one with which a datum could not be finished; it may become the best."""
        key = tuple(hosted[worker] for worker in self.choices)
        if key not in self._known:
            self._known[key] = self._rate_per_s(hosted)
        rate_per_s = self._known[key]
        if rate_per_s > self.best_per_s * (1 + _SAME):
            self.best, self.best_per_s = dict(hosted), rate_per_s
        return rate_per_s

    def _rate_per_s(self, hosted: Hosted) -> float:
        experiment = self.basis.experiment
        try:
            placement.check(hosted, experiment.topology, experiment.exits, experiment.limits)
        except placement.PlacementError:
            return 0.0
        self.searched += 1
        self.progress(self.searched)
        return self.basis.rate_per_s(hosted)

    def all_of(self, choices: Mapping[str, Sequence[Slice]]) -> None:
        """Every combination of these."""
        for combination in itertools.product(*choices.values()):
            self.consider(dict(zip(choices, combination, strict=True)))

    def locally(self) -> None:
        """The local search that the module's head describes."""
        longest = {worker: _not_within_another(slices) for worker, slices in self.choices.items()}
        if math.prod(map(len, longest.values())) <= EXHAUSTIVE_MAX:
            self.all_of(longest)
        else:
            self._each_of(self._starts(longest))
        if self.basis.slices_timed():
            self._each_of(self._starts(self.choices))
        if self.best is None:
            return
        tried, improved = self.searched, True
        while improved:
            improved = False
            for worker, slices in self.choices.items():
                before_per_s, current = self.best_per_s, self.best
                for other in slices:
                    if self.searched - tried >= LOCAL_MAX:
                        return
                    self.consider({**current, worker: other})
                improved = improved or self.best_per_s > before_per_s

    def _each_of(self, placements: Iterable[Hosted]) -> None:
        for hosted in placements:
            self.consider(hosted)

    def _starts(self, offered: Mapping[str, Sequence[Slice]]) -> Iterable[dict[str, Slice]]:
        """Placements to begin with: as the even split, as `auto`, and slices dealt out in turns."""
        experiment, model = self.basis.experiment, self.basis.card.model
        wanted: list[Hosted] = [even_split(experiment.topology, experiment.exits)]
        capacities = {
            worker: placement.Capacity(
                profile.occupied_s(model.architecture, model.image_size), self.basis.memory_bytes[worker]
            )
            for worker, profile in experiment.devices.items()
            if profile is not None
        }
        with contextlib.suppress(placement.PlacementError):  # one start less
            wanted.append(
                placement.place("auto", experiment.topology, experiment.exits, capacities, self.basis.segment_bytes)
            )
        for near in wanted:
            yield {w: max(slices, key=lambda s: (len(set(s) & set(near[w])), -len(s))) for w, slices in offered.items()}
        for turn in range(experiment.exits):
            yield {w: slices[(turn + i) % len(slices)] for i, (w, slices) in enumerate(offered.items())}


def _not_within_another(slices: Sequence[Slice]) -> list[Slice]:
    """Those that no other one contains, in the order of their first segments."""
    return sorted(s for s in slices if not any(set(s) < set(other) for other in slices))


def _lean(search: _Search, hosted: Hosted, rate_per_s: float) -> dict[str, Slice]:
    """Give up first or last segments, whichever costs least, the largest of those first, while the rate allows it."""
    basis, current = search.basis, dict(hosted)
    while True:
        options = []
        for worker, segments in current.items():
            if worker in basis.experiment.by_hand or len(segments) == 1:
                continue
            for k, rest in ((segments[0], segments[1:]), (segments[-1], segments[:-1])):
                left_per_s = search.consider({**current, worker: rest})
                if left_per_s >= (1 - LEAN_LOSS) * rate_per_s:
                    options.append((round(left_per_s / rate_per_s, 6), basis.segment_bytes[k - 1], worker, rest))
        if not options:
            return current
        _, _, worker, rest = max(options, key=lambda option: option[:2])
        current[worker] = rest


def _why_not(basis: Basis, choices: Mapping[str, Sequence[Slice]]) -> str:
    exits = basis.experiment.exits
    missing = [k for k in range(1, exits + 1) if not any(k in s for slices in choices.values() for s in slices)]
    if missing:
        k = missing[0]
        return (
            f"segment {k} of {exits}, {basis.segment_bytes[k - 1]} bytes of weights, fits nowhere; allowed: more "
            "memory (memory_bytes of a device profile, --memory-max), or other slices by hand"
        )
    return (
        "no placement was found with which every datum could be finished; allowed: more memory (memory_bytes of a "
        "device profile, --memory-max), or other slices by hand"
    )
