"""The fluid bound: how many data per second could be admitted at best, and what stands in the way of more.

`optimum` solves the linear programme of a `FluidProblem` with HiGHS and returns its prices with it; `fixed_rate` asks
it for the thresholds that a given rate allows.

In the long run no policy does better, whatever its delays, as long as it does not choose the way of a datum by what
earlier exits said of it (none of ours does). The bound says nothing of delay, and holds for one setting of thresholds;
with grouping, the compute times must be those at the group size in use.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdi_exit.analysis.fluid import Array, FluidProblem, OptimumError
from mdi_exit.analysis.linear import Matrix, SolverError, solve

PRICE_MAX = 1e6  # stands for no way at all; a dear way keeps its price, or the price of its links would exceed it
_NOISE = 1e-6  # relative; what is below is the solver's tolerance
CHANNEL = "channel "
_NAMED = 6  # bottlenecks in a message

_Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A resource that binds: with 1 % more of it the rate grows by `share` of 1 %."""

    name: str  # worker n1, link n1->n2, window n1->n2, channel wifi
    price_per_s: float  # its dual: data per second gained for one more of this resource
    share: float  # the price as a share of the rate; those of all bottlenecks sum to 1


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """The solution. The prices `pi` and `nu` are in the worth of a fresh datum at the source: pi[source][1] = 1."""

    rate_per_s: float
    processed_per_s: Array  # (N, K), p[n][k]
    sent_per_s: Array  # (L, K), f[l][k]
    pi: Array  # (N, K), what one more task for segment k at n costs, within 0..PRICE_MAX
    nu: Mapping[str, float]  # what a second of each radio channel costs
    segment_cost: Array  # (K,), what bringing and computing segment k costs per datum; 0 where none is computed
    load: Mapping[str, float]  # how busy each resource is, 0..1
    bottlenecks: tuple[Bottleneck, ...]  # largest share first

    def binding(self) -> str:
        """The bottlenecks in words, the largest few of them."""
        named = [f"{found.name} ({found.share:.0%})" for found in self.bottlenecks]
        return ", ".join(named if len(named) <= _NAMED else [*named[:_NAMED], f"{len(named) - _NAMED} more"])


def optimum(problem: FluidProblem, hop_price: float = 0.0) -> Optimum:
    """Maximise the admitted rate, or with `hop_price` (>= 0) its excess over what hand-overs then cost, each so much in
    the worth of a fresh datum. It is in `pi`, and no task takes a way that brings less.

    Raises OptimumError when no datum can be finished at all, and when times differ by more than a solver can bear.
    """
    lp = _programme(problem, hop_price)
    try:
        found = solve(lp.objective, lp.capacity, lp.flow)
    except SolverError as error:
        # Never with sane times: admitting nothing is feasible, and compute times bound the rate.
        raise OptimumError(f"the solver gives up on these times ({error})") from error
    rate, prices = float(found.x[0]), found.prices
    if rate < _NOISE:
        allowed = "allowed: a way from the source to a host of each segment, and back for results"
        raise OptimumError(f"no datum from {problem.source} can be finished; {allowed}")
    workers, exits = problem.compute_s.shape
    processed, sent, cost = np.zeros((workers, exits)), np.zeros((len(problem.links), exits)), np.zeros(exits)
    # by column: what a unit of it takes of each resource, at that one's price
    charged = lp.capacity.transposed(prices) + np.maximum(0.0, lp.objective)
    spent = charged * found.x
    for amounts, pairs, columns in ((processed, lp.processes, lp.p_columns), (sent, lp.sends, lp.f_columns)):
        amounts[pairs] = found.x[columns]
        np.add.at(cost, pairs[1], spent[columns])
    computed = processed.sum(axis=0)
    pi = np.minimum(_cost_to_go(problem, lp, charged), PRICE_MAX)
    price_of = dict(zip(lp.names, (prices / lp.unit_s).tolist(), strict=True))
    shares = prices / prices.sum()
    ranked = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] > _NOISE]
    return Optimum(
        rate / lp.unit_s,
        processed / lp.unit_s,
        sent / lp.unit_s,
        pi,
        {name.removeprefix(CHANNEL): price for name, price in price_of.items() if name.startswith(CHANNEL)},
        np.divide(cost, computed, out=np.zeros(exits), where=computed > _NOISE * rate),
        dict(zip(lp.names, (lp.capacity @ found.x).tolist(), strict=True)),
        tuple(Bottleneck(lp.names[i], price_of[lp.names[i]], float(shares[i])) for i in ranked),
    )


def _cost_to_go(problem: FluidProblem, lp: _Programme, charged: Array) -> Array:
    """(N, K): the least that a task for segment k at n has yet to pay, by any way of computing or sending it.

    Where tasks come these are the duals of the flow constraints. Elsewhere the solver's duals may be anything below,
    which would make dead ends look cheap to a policy that follows prices.
    """
    index = {name: n for n, name in enumerate(problem.workers)}
    ends = np.array([(index[a], index[b]) for a, b in problem.links], dtype=np.intp).reshape(-1, 2)
    compute, send = np.full(problem.compute_s.shape, np.inf), np.full(problem.send_s.shape, np.inf)
    compute[lp.processes], send[lp.sends] = charged[lp.p_columns], charged[lp.f_columns]
    pi: Array = np.full(compute.shape, np.inf)
    going_on = np.zeros(len(problem.workers))
    for k in reversed(range(problem.exits)):
        cost = compute[:, k] + going_on
        for _ in problem.workers:  # as many links as a way can have
            before = cost.copy()
            np.minimum.at(cost, ends[:, 0], send[:, k] + before[ends[:, 1]])
            if np.array_equal(before, cost):
                break
        pi[:, k] = cost
        if k:
            share = problem.continuation[k - 1]
            going_on = share * cost if share else np.zeros_like(cost)
    return pi


# ---- the linear programme


@dataclass(frozen=True, slots=True, eq=False)
class _Programme:
    """Columns: the rate, p of each hosted (n, k), f of each carried (l, k), results on each l.

    Rows of `flow`, (k, n): what comes minus what goes, with results as a commodity K+1 of which the source takes all.
    Times are in units of `unit_s`, so that a solver's absolute tolerances mean the same for every device.
    """

    objective: Array
    flow: Matrix
    capacity: Matrix
    names: list[str]  # of the rows of `capacity`
    processes: _Pairs  # (n, k) of each p
    sends: _Pairs  # (l, k) of each f
    p_columns: slice
    f_columns: slice
    unit_s: float


def _programme(problem: FluidProblem, hop_price: float) -> _Programme:
    processes, sends = _pairs(problem.compute_s), _pairs(problem.send_s)
    p_columns = slice(1, 1 + len(processes[0]))
    f_columns = slice(p_columns.stop, p_columns.stop + len(sends[0]))
    columns = f_columns.stop + (0 if problem.result_s is None else len(problem.links))
    objective = np.zeros(columns)
    objective[0], objective[f_columns] = -1.0, hop_price
    unit_s = float(np.min(problem.compute_s))
    flow = _flow(problem, processes, sends, columns)
    capacity, names = _capacity(problem, processes, sends, columns, unit_s)
    return _Programme(objective, flow, capacity, names, processes, sends, p_columns, f_columns, unit_s)


def _pairs(times_s: Array) -> _Pairs:
    """Where a time is finite: row and column, both from 0."""
    rows, columns = np.nonzero(np.isfinite(times_s))
    return rows, columns


def _flow(problem: FluidProblem, processes: _Pairs, sends: _Pairs, columns: int) -> Matrix:
    count, exits = len(problem.workers), problem.exits
    index = {name: n for n, name in enumerate(problem.workers)}
    source = index[problem.source]
    ends = np.array([(index[a], index[b]) for a, b in problem.links], dtype=np.intp).reshape(-1, 2)
    (n, k), (link, j) = processes, sends
    p, f = 1 + np.arange(len(n)), 1 + len(n) + np.arange(len(link))
    going_on = np.array([*problem.continuation, 0.0])[k]
    on = k + 1 < exits
    entries = [
        (np.array([source]), np.array([0]), np.array([1.0])),
        (k * count + n, p, np.full(len(n), -1.0)),
        ((k[on] + 1) * count + n[on], p[on], going_on[on]),
        (j * count + ends[link, 0], f, np.full(len(link), -1.0)),
        (j * count + ends[link, 1], f, np.ones(len(link))),
    ]
    if problem.result_s is not None:
        r = 1 + len(n) + len(link) + np.arange(len(ends))
        away, home = n != source, exits * count
        out = np.isfinite(problem.result_s) & (ends[:, 0] != source)
        into = out & (ends[:, 1] != source)
        entries += [
            (home + n[away], p[away], 1.0 - going_on[away]),
            (home + ends[out, 0], r[out], np.full(int(out.sum()), -1.0)),
            (home + ends[into, 1], r[into], np.ones(int(into.sum()))),
        ]
    return Matrix(entries, count * (exits + (problem.result_s is not None)), columns)


def _capacity(
    problem: FluidProblem, processes: _Pairs, sends: _Pairs, columns: int, unit_s: float
) -> tuple[Matrix, list[str]]:
    """Units of each resource that each column takes. Rows that another one of the same link implies are left out."""
    (n, _), (link, _) = processes, sends
    carried = np.isfinite(problem.send_s)
    send = np.where(carried, problem.send_s, 0.0)
    wait = np.zeros_like(send) if problem.wait_s is None else np.where(carried, problem.wait_s, 0.0)
    result = np.zeros(len(send)) if problem.result_s is None else problem.result_s
    result = np.where(np.isfinite(result), result, 0.0)
    slow: NDArray[np.bool_] = np.any(wait > send, axis=1)
    busy: NDArray[np.bool_] = np.any(send > 0, axis=1) | (result > 0)
    names = [f"worker {name}" for name in problem.workers]
    labels = [f"{a}->{b}" for a, b in problem.links]
    channels = problem.channels or (None,) * len(labels)
    alone = np.array([channel is None for channel in channels], dtype=np.bool_)
    busy &= ~alone | np.any(send > wait, axis=1) | (result > 0) | ~slow
    media = [(label and f"{CHANNEL}{label}") or f"link {way}" for label, way in zip(channels, labels, strict=True)]
    row_of = {name: len(names) + i for i, name in enumerate(dict.fromkeys(itertools.compress(media, busy)))}
    medium_row = np.array([row_of.get(name, -1) for name in media], dtype=np.intp)
    names += row_of
    window_row = len(names) + np.cumsum(slow) - 1
    names += [f"window {label}" for label, row in zip(labels, slow, strict=True) if row]
    p, f = 1 + np.arange(len(n)), 1 + len(n) + np.arange(len(link))
    r = np.arange(1 + len(n) + len(link), columns)  # none when results are free
    through, held, home = busy[link], slow[link], busy[: len(r)]
    hop_s = np.array(problem.hop_s or (0.0,) * len(problem.workers))
    index = {name: i for i, name in enumerate(problem.workers)}
    ends = np.array([(index[a], index[b]) for a, b in problem.links], dtype=np.intp).reshape(-1, 2)[link]
    entries = [
        (np.array([index[problem.source]]), np.array([0]), np.array([problem.datum_s])),
        (ends[:, 0], f, hop_s[ends[:, 0]]),
        (ends[:, 1], f, hop_s[ends[:, 1]]),
        (n, p, problem.compute_s[processes]),
        (medium_row[link][through], f[through], send[sends][through]),
        (window_row[link][held], f[held], wait[sends][held]),
        (medium_row[: len(r)][home], r[home], result[: len(r)][home]),
    ]
    in_units = [(rows, cols, times_s / unit_s) for rows, cols, times_s in entries]
    return Matrix(in_units, len(names), columns), names
