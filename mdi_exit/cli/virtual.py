"""One simulation from its experiment to its report: trace, progress, journals, the bound, and what is said of it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mdi_exit.analysis.beside import beside_optimum
from mdi_exit.assembly import load_card
from mdi_exit.channel import identity_over
from mdi_exit.cli.session import JOURNALS
from mdi_exit.config import Experiment
from mdi_exit.config.exits import noises, noisy_way
from mdi_exit.dataset import SAMPLE
from mdi_exit.journal import JournalFolder
from mdi_exit.machine import command_line
from mdi_exit.models.card import Card
from mdi_exit.report import Report, build_report, settled
from mdi_exit.simulation.run import simulate
from mdi_exit.trace import SAMPLE_TRACE, ExitTrace, TraceError, trace_of
from mdi_exit.yamlfile import Place

_LINE_S = 2.0  # how often a line is printed where nothing can be redrawn


@dataclass(frozen=True, slots=True)
class Network:
    """What the simulated workers run."""

    card: Card
    trace: ExitTrace
    file: Path  # where the trace is

    @classmethod
    def of(cls, experiment: Experiment, file: Path | None) -> Network:
        """The experiment's model with its trace. Raises CardError, TraceError, ConfigError."""
        card = load_card(experiment)
        if len(found := noises(experiment.topology)) > 1:
            raise TraceError(f"links of {len(found)} SNRs, and a trace is of one; allowed: the same for all links")
        if found and card.model.analog and (way := noisy_way(experiment, card.model.analog.cut)):
            what = f"what is transmitted may cross two noisy links ({', '.join(way)}), and a trace is of one"
            raise TraceError(f"{what}; allowed: slices, offloading or links with which it crosses one, or mdi-exit run")
        heard = card.identity + identity_over(found[0] if found else None)
        path, trace = trace_of(experiment.model, heard, experiment.exits, file)
        weights = Path(experiment.model)
        if file is None and path.name == f"{weights.stem}{SAMPLE_TRACE}" and experiment.dataset != SAMPLE:
            what = f"is {experiment.dataset}, and {path.name} is of the sample images"
            anew = f"mdi-exit trace {weights} --data {experiment.dataset} --out FILE"
            anew += "".join(f" --snr-db {noise.snr_db:g} --fading {noise.fading}" for noise in found)
            raise Place(experiment.file).at("dataset").refuse(what, f"--trace FILE with its own, recorded by {anew}")
        return cls(card, trace, path)


def carry_out(experiment: Experiment, network: Network, folder: Path, journal: bool, bound: bool) -> Report:
    """Simulate with live progress, with its journals (if they are wanted) in the folder; return the report.

    Raises SimulationError, JournalError, OptimumError. Ctrl-C ends it without one: it can be had again.
    """
    began_s, title = time.perf_counter(), f"{experiment.name}, seed {experiment.seed}"
    writing = JournalFolder(folder / JOURNALS, experiment) if journal else nullcontext()
    with Bar(title, experiment.duration_s, "virtual seconds") as bar, writing as written:
        record = simulate(experiment, network.card, network.trace, observe=written, progress=bar.show)
    took_s = time.perf_counter() - began_s
    kept = JOURNALS if journal else None
    command = command_line()
    report = build_report(experiment, network.card, record.tallies, record.facts, command, "simulation", kept)
    report["notes"] = list(record.notes)
    report["optimum"] = beside_optimum(experiment, network.card, network.trace, report) if bound else None
    report["simulation"] = {
        "trace": network.file.name,
        "virtual_s": record.virtual_s,
        "took_s": took_s,
        "events": record.events,
        "digest": str(written.fingerprint) if written is not None else None,
    }
    return report


def in_words(reports: Sequence[Report]) -> list[str]:
    """How fast it went, and the digests of journals."""
    of = [report["simulation"] for report in reports]
    virtual_s, took_s, events = (sum(each[key] for each in of) for key in ("virtual_s", "took_s", "events"))
    speed = f"{virtual_s / took_s:.1f} times as fast as real time, {events} events, {events / took_s:.0f} per second"
    lines = [f"{virtual_s:.1f} virtual seconds in {took_s:.1f} s: {speed}"]
    return lines + [f"journal digest {each['digest']}" for each in of if each["digest"]]


def spread(reports: Sequence[Report]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation, lowest and highest of the main figures over several runs."""
    figures: dict[str, list[float | None]] = {
        "throughput_per_s": [settled(report)["throughput_per_s"] for report in reports],
        "accuracy": [report["accuracy"] for report in reports],
        "accuracy_offered": [report["accuracy_offered"] for report in reports],
        "latency_mean_s": [report["latency_s"]["mean"] for report in reports],
        "latency_p50_s": [report["latency_s"]["p50"] for report in reports],
        "latency_p99_s": [report["latency_s"]["p99"] for report in reports],
        "ratio": [(report["optimum"] or {}).get("ratio") for report in reports],
        **{name: [report[name] for report in reports] for name in ("offered", "shed", "failed", "lost")},
    }
    found = {}
    for name, values in figures.items():
        known = [value for value in values if value is not None]
        if len(known) > 1:
            ends = {"low": min(known), "high": max(known)}
            found[name] = {"mean": statistics.fmean(known), "deviation": statistics.stdev(known), **ends}
    return found


class Bar:
    """How much of something is done, and how long the rest takes; on standard error."""

    def __init__(self, title: str, total: float, unit: str) -> None:
        console = Console(stderr=True, highlight=False, markup=False)
        self._title, self._total, self._unit = title, total, unit
        self._began_s = self._said_s = time.monotonic()
        self._is_terminal = console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not self._is_terminal)
        self._task = self._bar.add_task(title, total=total)

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, done: float) -> None:
        """So much is done now."""
        done = min(done, self._total)
        words = f"{self._title}: {done:.4g} of {self._total:.4g} {self._unit}"
        self._bar.update(self._task, completed=done, description=words)
        now_s = time.monotonic()
        if not self._is_terminal and now_s - self._said_s >= _LINE_S and done:
            self._said_s = now_s
            left_s = (now_s - self._began_s) * (self._total / done - 1)
            print(f"{words}, {left_s:.0f} s left", file=sys.stderr, flush=True)
