"""What a placement promises before anything runs: rate, bottleneck, loads, and what would be without each worker.

preview(...) gives plain data, the content of plan.json:

rate_per_s           the fluid bound of the placement: no policy does better, good ones come close
binding, bottlenecks what stands in the way of more; with 1 % more of it the rate grows by `share` of 1 %
communication_share  of the time in which a datum is computed or on a link (waiting left out), the share on links
compared             the rates of the experiment as given, an even split, everything everywhere; None: not possible
alone                the rate with one worker computing everything and the others only handing on; None: it does not fit
workers              device, slice, bytes of weights, memory, load 0..1, tasks per second, the rate without it
links                per direction: load 0..1, tasks and bytes of features per second
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mdi_exit.analysis.optimum import Optimum
from mdi_exit.analysis.planning import Basis, Plan, even_split
from mdi_exit.devices import slice_name

ENOUGH_ALONE = 0.9  # of the planned rate: a single device that reaches it makes the others hardly worth their trouble
_IDLE = 0.01  # load below which a worker does nothing worth speaking of


def preview(basis: Basis, plan: Plan) -> dict[str, Any]:
    """What the module's head lists, of a plan."""
    experiment, found = basis.experiment, plan.optimum
    even = even_split(experiment.topology, experiment.exits)
    alone = _alone(basis)
    best_alone = max(((rate, w) for w, rate in alone.items() if rate), default=(0.0, None))
    return {
        "rate_per_s": found.rate_per_s,
        "binding": found.binding(),
        "bottlenecks": [{"name": each.name, "share": each.share} for each in found.bottlenecks],
        "communication_share": _communication_share(basis, plan),
        "compared": {
            "as_given": basis.rate_per_s(experiment.hosted) or None,
            "even_split": basis.rate_per_s(even) or None,
            "everything_everywhere": plan.unlimited_per_s or None,
        },
        "even_split": {worker: slice_name(segments) for worker, segments in even.items()},
        "alone": alone,
        "best_alone": best_alone[1],
        "one_is_enough": best_alone[0] >= ENOUGH_ALONE * found.rate_per_s and len(alone) > 1,
        "workers": _workers(basis, plan),
        "links": _links(basis, plan),
        "continuation": list(basis.continuation),
        "searched": plan.searched,
        "exhaustive": plan.exhaustive,
        "by_hand": list(plan.by_hand),
    }


def in_words(content: Mapping[str, Any]) -> list[str]:
    """What a person must know of it, in lines."""
    rate_per_s, compared = content["rate_per_s"], content["compared"]
    names = {
        "as_given": "as the experiment is",
        "even_split": "an even split",
        "everything_everywhere": "with memory for everything everywhere",
    }
    beside = [f"{names[key]} {rate:.0f}/s" for key, rate in compared.items() if rate is not None]
    lines = [f"Predicted: {rate_per_s:.0f} data per second; {', '.join(beside)}."]
    lines.append(f"What binds: {content['binding']}.")
    share = content["communication_share"]
    lines.append(f"A datum spends {share:.0%} of its time on links, the rest being computed (waiting left out).")
    best = content["best_alone"]
    if content["one_is_enough"]:
        lines.append(
            f"One device is enough: {best} alone does {content['alone'][best]:.0f}/s, "
            f"{content['alone'][best] / rate_per_s:.0%} of that."
        )
    elif best is not None and len(content["alone"]) > 1:
        lines.append(f"The best device alone, {best}, would do {content['alone'][best]:.0f}/s.")
    idle = [name for name, worker in content["workers"].items() if worker["load"] < _IDLE]
    if idle:
        lines.append(f"Of no use to the rate: {', '.join(idle)}.")
    how = "all that there are; none is better" if content["exhaustive"] else "a local search; there may be a better one"
    if content["by_hand"]:
        lines.append(f"Kept as given by hand: {', '.join(content['by_hand'])} (free them with --set placement=all).")
    return [*lines, f"Placements tried: {content['searched']}, {how}."]


def _alone(basis: Basis) -> dict[str, float | None]:
    """What each worker could do alone, the others handing on; None where the network does not fit."""
    everything = tuple(range(1, basis.experiment.exits + 1))
    rates: dict[str, float | None] = {}
    for worker in basis.experiment.topology.workers:
        hosted = {other: everything if other == worker else () for other in basis.experiment.topology.workers}
        rates[worker] = (basis.rate_per_s(hosted) or None) if basis.fits(worker, everything) else None
    return rates


def _workers(basis: Basis, plan: Plan) -> dict[str, dict[str, Any]]:
    experiment, found = basis.experiment, plan.optimum
    workers = {}
    for n, worker in enumerate(experiment.topology.workers):
        profile, segments = experiment.devices[worker], plan.hosted[worker]
        is_source = worker == experiment.topology.source
        workers[worker] = {
            "device": profile.name if profile else None,
            "slice": list(segments),
            "bytes": basis.size_bytes(segments),
            "memory_bytes": basis.memory_bytes[worker],
            "load": found.load[f"worker {worker}"],
            "computed_per_s": found.processed_per_s[n].tolist(),
            # without the source nothing comes in
            "without_per_s": None if is_source else basis.rate_per_s(plan.hosted, [worker]),
        }
    return workers


def _links(basis: Basis, plan: Plan) -> dict[str, dict[str, Any]]:
    problem, found = basis.problem(plan.hosted), plan.optimum
    payload = np.array(basis.payload_bytes[:-1], dtype=np.float64)
    links = {}
    for i, (a, b) in enumerate(problem.links):
        way = f"{a}->{b}"
        channel = problem.channels[i] if problem.channels else None
        sent = found.sent_per_s[i]
        # Of tasks alone: results take next to nothing, and where they do the solver may send them in circles.
        taken_s = [problem.send_s[i]] if problem.wait_s is None else [problem.send_s[i], problem.wait_s[i]]
        loads = [float((sent * np.where(np.isfinite(each), each, 0.0)).sum()) for each in taken_s]
        if channel is not None:
            loads.append(found.load.get(f"channel {channel}", 0.0))
        links[way] = {
            "load": max(loads),
            "tasks_per_s": float(sent.sum()),
            "bytes_per_s": float((sent * payload).sum()),
        }
    return links


def _communication_share(basis: Basis, plan: Plan) -> float:
    """Seconds on links over seconds on links and processors, per second; latencies count, waiting does not."""
    found: Optimum = plan.optimum
    problem, topology = basis.problem(plan.hosted), basis.experiment.topology
    computing = float((found.processed_per_s * np.where(np.isfinite(problem.compute_s), problem.compute_s, 0.0)).sum())
    sending = float((found.sent_per_s * np.where(np.isfinite(problem.send_s), problem.send_s, 0.0)).sum())
    for i, (a, b) in enumerate(problem.links):
        link = topology.carrier(a, b)
        assert link is not None
        sending += float(found.sent_per_s[i].sum()) * link.shape.latency_s
    return sending / (sending + computing)
