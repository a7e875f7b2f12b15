"""Whether messages fit the network at hand: `wire` knows the types, this knows the ranges and sizes.

The cores rely on these (a k beyond the last segment would be an index error), and a neighbour of another version or
with damaged memory must not bring a worker down.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from mdi_exit.compute.base import FeatureShapes
from mdi_exit.config import Experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import types as ty
from mdi_exit.wire import HEADER_BYTES_MAX, MESSAGE_BYTES_MAX, TENSOR_BYTES_MAX, LinkMessage, WireError
from mdi_exit.yamlfile import Place

_INT_MAX = 2**63 - 1
_SURE = 1 + 1e-6  # a confidence of 1, rounded
_TIMES_S = (1e-7, 1e5)  # that computing or sending one task may take; a solver's numbers must not differ by more
_COUNT_MAX = 1e9  # tasks within a measurement's memory


def check_groups(experiment: Experiment, features: FeatureShapes) -> None:
    """Refuse groups that no neighbour would take, each hand-over failing anew for ever. Raises ConfigError."""
    if not experiment.topology.links:
        return
    largest = max(features.size_bytes(k) for k in range(features.exits))
    most = (MESSAGE_BYTES_MAX - HEADER_BYTES_MAX) // largest
    for worker, options in experiment.worker_options.items():
        if options.group_max > most:
            what = f"is {options.group_max} for {worker}, too many features of {largest} bytes for one message"
            raise Place(experiment.file).at("worker", "group_max").refuse(what, f"at most {most}")


def check_fit(message: LinkMessage, exits: int, workers: Collection[str]) -> None:
    """Refuse what none of `workers` with a network of `exits` exits would say. Raises WireError."""
    if isinstance(message, fx.SendTasks):
        _check_tasks(message.tasks, exits)
        _require(0 <= message.transfer_id <= _INT_MAX, "transfer_id is out of range")
    elif isinstance(message, fx.Acknowledge):
        _require(0 <= message.transfer_id <= _INT_MAX, "transfer_id is out of range")
        _check_report(message.report, exits)
    elif isinstance(message, fx.SendReport):
        _check_report(message.report, exits)
    elif isinstance(message, fx.SendResults):
        _check_results(message.results, exits)
    elif isinstance(message, fx.SendPrices):
        _check_prices(message.prices, exits, workers)
    elif isinstance(message, fx.SendMeasurements):
        for measured in message.measurements:
            _check_measurement(measured, exits, workers)
    else:
        _require(0 <= message.version <= _INT_MAX, "the thresholds' version is out of range")
        _require(len(message.thresholds) == exits - 1, "another number of thresholds than exits")
        _require(all(map(math.isfinite, message.thresholds)), "a threshold is not a number")


def _check_tasks(tasks: tuple[ty.Task, ...], exits: int) -> None:
    _require(len(tasks) > 0, "a hand-over of no tasks")
    k = tasks[0].k
    _require(1 <= k <= exits, "a task's k is out of range")
    for task in tasks:  # a call for each check would take as long as making the task
        if task.k != k:
            raise WireError("tasks of different segments in one hand-over")
        if not (0 <= task.data_id <= _INT_MAX and 0 <= task.attempt <= _INT_MAX):
            raise WireError("a task's number is out of range")
        if not (0 <= task.hops <= _INT_MAX and 0 <= task.arm <= _INT_MAX):
            raise WireError("a task's number is out of range")
        if not 0 <= task.payload_bytes <= TENSOR_BYTES_MAX:
            raise WireError("a task's payload_bytes is out of range")
        if task.seen:
            _check_verdicts(task.seen, exits)


def _check_results(results: tuple[ty.Result, ...], exits: int) -> None:
    for result in results:
        if not 1 <= result.k <= exits:
            raise WireError("a result's k is out of range")
        if not (0 <= result.data_id <= _INT_MAX and 0 <= result.attempt <= _INT_MAX):
            raise WireError("a result's number is out of range")
        if not 0 <= result.confidence <= _SURE:
            raise WireError("a result's confidence is out of range")
        if result.seen:
            _check_verdicts(result.seen, exits)


def _check_verdicts(seen: tuple[ty.Verdict, ...], exits: int) -> None:
    _require(len(seen) <= exits, "more verdicts than exits")
    for verdict in seen:
        _require(1 <= verdict.k <= exits, "a verdict's k is out of range")
        _require(0 <= verdict.prediction <= _INT_MAX, "a verdict's prediction is out of range")
        _require(0 <= verdict.confidence <= _SURE, "a verdict's confidence is out of range")


def _check_report(report: ty.WorkerReport, exits: int) -> None:
    _require(len(report.waiting) == len(report.output) == exits, "a report for another number of segments")
    versions = (report.sequence, report.epoch, report.thresholds_version, report.prices_version)
    numbers = (*report.waiting, *report.output, *versions)
    _require(min(numbers) >= 0 and max(numbers) <= _INT_MAX, "a report's number is out of range")
    _require(0 <= report.compute_delay_s < math.inf, "a report's compute_delay_s is out of range")


def _check_prices(prices: ty.Prices, exits: int, workers: Collection[str]) -> None:
    _require(0 <= prices.version <= _INT_MAX, "the prices' version is out of range")
    _require(len(prices.pi) == len(prices.workers), "prices for another number of workers")
    _require(all(len(row) == exits for row in prices.pi), "prices for another number of segments")
    fits = all(len(way.share) == exits and len(way.air_s) == (exits if way.channel else 0) for way in prices.ways)
    _require(fits, "prices for another number of segments")
    _require(
        all(0 <= part <= 1 or part == ty.ANY_SHARE for way in prices.ways for part in way.share),
        "a share is out of range",
    )
    numbers = [*(pi for row in prices.pi for pi in row), *(x for way in prices.ways for x in (way.nu, *way.air_s))]
    _require(all(0 <= number < math.inf for number in numbers), "a price is out of range")
    ends = [(way.sender, way.receiver) for way in prices.ways]
    names = (*prices.workers, *(name for pair in ends for name in pair))
    _require(all(name in workers for name in names), "prices of a worker that is not there")
    _require(all(sender != receiver for sender, receiver in ends), "a price of a way from a worker to itself")
    twice = len(set(prices.workers)) < len(prices.workers) or len(set(ends)) < len(ends)
    _require(not twice, "a price given twice")


def _check_measurement(measured: ty.Measurement, exits: int, workers: Collection[str]) -> None:
    times = (measured.compute_s, *(seconds for _, seconds in measured.links))
    counts = (measured.computed, measured.went_on)
    _require(all(len(row) == exits for row in (*times, *counts)), "a measurement for another number of segments")
    low_s, high_s = _TIMES_S
    fine = all(value == 0 or low_s <= value <= high_s for row in times for value in row)
    fine &= all(0 <= value <= _COUNT_MAX for row in counts for value in row)
    _require(fine, "a measurement is out of range")
    known = all(name in workers for name in (measured.worker, *(name for name, _ in measured.links)))
    _require(known and len(measured.links) < len(workers), "a measurement of a worker that is not there")
    _require(min(measured.epoch, measured.sequence) >= 0, "a measurement's number is out of range")
    _require(max(measured.epoch, measured.sequence) <= _INT_MAX, "a measurement's number is out of range")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise WireError(otherwise)
