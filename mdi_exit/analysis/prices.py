"""Prices of a running network: the fluid problem as it stands now, solved for its duals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from mdi_exit.analysis.fluid import UNKNOWN_S, Array, FluidProblem, OptimumError, network_of
from mdi_exit.analysis.optimum import CHANNEL, Optimum, optimum
from mdi_exit.config import Experiment
from mdi_exit.core.effects import SolvePrices
from mdi_exit.core.types import ANY_SHARE, NO_PRICES, Measurement, Prices, Way
from mdi_exit.models.card import Card
from mdi_exit.policies.backpressure import DualBackPressure

# Of its time: a channel that busy, besides gossip and all else that is not counted here, has no air to waste, though
# its price may still be nothing. Told of it only now and then, workers fill it in between with what is worth little.
_LIMITS = 0.5
_EXPECTED = 1e-4  # of the rate; fewer tasks are the solver's noise
_NOISE = 1e-3  # of what is disposed of; a smaller share is the solver's noise, too
_GOES_ON = 0.7  # the share assumed to go on after each exit, before anybody has seen one


def price_solver(experiment: Experiment, card: Card, payload_bytes: Sequence[int]) -> Callable[[SolvePrices], Prices]:
    """What answers the controller's `SolvePrices`. `payload_bytes` are those of a_k, k = 0..K.

    Where nothing was measured, compute times are the device profile's and links are as the topology says; without
    either, a worker counts as slow as the slowest that is known, and a link as free. Headers and acknowledgements are
    left out. No prices are made while no worker's times are known. A worker that is lost has no price: when it is back,
    its queues alone speak for it until the next prices.
    """

    rule = experiment.offloading
    hop_price = rule.hop_price if isinstance(rule, DualBackPressure) else 0.0
    task_s = {worker: device.runtime.task_s if device else 0.0 for worker, device in experiment.devices.items()}

    @functools.lru_cache(maxsize=8)  # who is lost changes seldom, and often back
    def network_without(lost: tuple[str, ...]) -> FluidProblem:
        return network_of(experiment, card, payload_bytes, lost)

    def solve(asked: SolvePrices) -> Prices:
        measured = {one.worker: one for one in asked.measurements}
        try:
            problem = _problem(experiment.exits, network_without(asked.lost), measured, task_s)
            if problem is None:
                return NO_PRICES
            found = optimum(problem, hop_price)
        except OptimumError:  # what is left of the network cannot finish a datum: nothing has a price
            return NO_PRICES
        priced = [(n, worker) for n, worker in enumerate(problem.workers) if worker not in asked.lost]
        pi = tuple(tuple(_short(found.pi[n])) for n, _ in priced)
        return Prices(0, tuple(worker for _, worker in priced), pi, tuple(_ways(problem, found, asked.lost)))

    return solve


def _problem(
    exits: int, network: FluidProblem, measured: Mapping[str, Measurement], task_s: Mapping[str, float]
) -> FluidProblem | None:
    """The problem with what was measured in it; None where nobody's times are known.

    What is measured is computing alone; `task_s`, by worker, is what the runtime takes for each task beside it.
    """
    compute_s = network.compute_s.copy()
    for n, worker in enumerate(network.workers):
        if worker in measured:
            known = np.array(measured[worker].compute_s)
            compute_s[n] = np.where(np.isfinite(compute_s[n]) & (known > 0), known + task_s[worker], compute_s[n])
    stated = compute_s < UNKNOWN_S
    if not stated.any():
        return None
    compute_s[compute_s == UNKNOWN_S] = compute_s[stated].max()  # hosted, but nobody knows
    send_s = network.send_s
    wait_s = send_s.copy() if network.wait_s is None else network.wait_s.copy()
    for i, (a, b) in enumerate(network.links):
        took_s = dict(measured[a].links).get(b) if a in measured else None
        on_air = bool(network.channels) and network.channels[i] is not None
        if took_s is not None and not on_air:  # on a channel it holds the waiting for others
            known = np.array(took_s)
            wait_s[i] = np.where(np.isfinite(send_s[i]) & (known > 0), known, wait_s[i])
    continuation = _continuation(exits, measured)
    return dataclasses.replace(network, compute_s=compute_s, continuation=continuation, wait_s=wait_s)


def _ways(problem: FluidProblem, found: Optimum, lost: Collection[str]) -> Iterator[Way]:
    """What is to be told of links, but of those to who is lost: what comes back is another way."""
    senders = [problem.workers.index(a) for a, _ in problem.links]
    disposed = found.processed_per_s.copy()
    np.add.at(disposed, senders, found.sent_per_s)
    expected = disposed > _EXPECTED * found.rate_per_s
    channels = problem.channels or (None,) * len(problem.links)
    for i, (link, channel, n) in enumerate(zip(problem.links, channels, senders, strict=True)):
        # A channel over which nothing can be sent has no row, and no load.
        limits = channel is not None and found.load.get(f"{CHANNEL}{channel}", 0.0) >= _LIMITS
        none = np.full(problem.exits, ANY_SHARE if limits else 0.0)
        part = np.divide(found.sent_per_s[i], disposed[n], out=none, where=expected[n])
        share = tuple(_short(np.where(part < _NOISE, 0.0, np.where(expected[n], np.minimum(part, 1.0), part))))
        if set(link) & set(lost):
            continue
        if channel is not None and limits:
            crossing_s = np.where(np.isfinite(problem.send_s[i]), problem.send_s[i], 0.0)
            (nu,) = _short(np.array([found.nu[channel]]))
            yield Way(*link, channel, nu, tuple(_short(crossing_s)), share)
        elif any(share):
            yield Way(*link, "", 0.0, (), share)


def _short(numbers: Array) -> list[float]:
    """As they travel: rounded to floats of 4 bytes, so that the source goes by the same prices as everybody."""
    short: list[float] = numbers.astype(np.float32).tolist()
    return short


def _continuation(exits: int, measured: Mapping[str, Measurement]) -> tuple[float, ...]:
    computed, went_on = np.zeros(exits), np.zeros(exits)
    for one in measured.values():
        computed += np.array(one.computed)
        went_on += np.array(one.went_on)
    shares: Array = np.where(computed > 0, went_on / np.maximum(computed, 1e-9), _GOES_ON)
    return tuple(np.clip(shares, 0.0, 1.0).tolist()[: exits - 1])
