"""One run from its experiment to its folder of results, as every command that runs something needs it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console, RenderableType

from mdi_exit import compute, journal, outputs
from mdi_exit.analysis import over_time, plots
from mdi_exit.cli import tables
from mdi_exit.cli.live import LiveDisplay
from mdi_exit.cli.tables import plain_console
from mdi_exit.config import Experiment, check_real
from mdi_exit.jsonfile import rounded
from mdi_exit.machine import command_line
from mdi_exit.policies import OWN_THRESHOLDS
from mdi_exit.report import FILE, Report, build_report, write_report
from mdi_exit.runtime.images import Images

if TYPE_CHECKING:
    from mdi_exit.runtime import Cluster

INTERRUPTED = 130  # the exit status of a program that Ctrl-C stopped
JOURNALS = "journals"  # the runtime's folder for them within a run's
_FIGURES = ("throughput-accuracy", "time-series")
_SPREAD = "spread"  # the key of a report of one experiment over several seeds that says how they differ
_PARTS = "parts"  # of a report of several runs: which of its keys hold them, and what they are called


def prepare_folder(folder: Path) -> None:
    """Make sure that results can be left in the folder. Raises UserError when it cannot be used.

    An older run's results stay until there are new ones: a run that fails or is broken off must not cost them.
    """
    outputs.check_folder(folder)


@contextlib.contextmanager
def results_folder(out: Path | None, name: str) -> Iterator[Path]:
    """The folder of `--out`, or else a new one in runs/, which stays only if something is left in it.

    Raises UserError when it cannot be used.
    """
    with contextlib.nullcontext(out) if out else outputs.claimed(Path("runs") / name) as folder:
        prepare_folder(folder)
        yield folder


def check_files(experiment: Experiment) -> None:
    """Open what the experiment refers to, so that whatever is wrong with it is said before a cluster is started.

    Raises UserError. What takes time in it, the export of a network never run before, is kept on disk.
    """
    check_real(experiment)
    print("reading the network and the images ...", file=sys.stderr, flush=True)
    Images(experiment, compute.prepare(experiment.model, experiment.runtime.backend).card)


@contextlib.contextmanager
def cluster(address: str | None = None) -> Iterator[Cluster]:
    """A Ray cluster: our own on this machine, or the one at `address`. Ctrl-C before there is anything to report
    ends the program with a line and its exit status."""
    from mdi_exit.runtime import joined_cluster, local_cluster  # brings in Ray, which `report` does not need

    doing = f"joining the Ray cluster at {address}" if address else "starting a Ray cluster on this machine"
    try:
        print(f"{doing} ...", file=sys.stderr, flush=True)
        with joined_cluster(address) if address else local_cluster() as found:
            yield found
    except KeyboardInterrupt:
        print("mdi-exit: interrupted before there was anything to report", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def carry_out(cluster: Cluster, experiment: Experiment, title: str, folder: Path, is_first: bool = True) -> Report:
    """Run it with live progress, with its journals (if it keeps any) in the folder, and return its report.

    Ctrl-C ends it early: then the report is of the part that was done. Before there is such a part, KeyboardInterrupt.
    """
    if experiment.runtime.journal:  # those of an older run, perhaps of other workers, would pass for this one's
        journal.clear(folder / JOURNALS)
    by_threshold = experiment.policy_names()["exit"] not in OWN_THRESHOLDS
    with LiveDisplay(title, experiment.duration_s, None, is_first, by_threshold) as display:
        record = cluster.run(experiment, display, folder)
    kept = record.journals.name if record.journals is not None else None
    report = build_report(experiment, record.card, record.tallies, record.facts, command_line(), "ray", kept)
    report["interrupted"] = report["interrupted"] or record.interrupted
    report["notes"] = list(record.notes)
    report["phases_s"] = dict(record.phases_s)
    report["first_result_s"] = display.first_result_s
    return report


def conclude(report: Report, folder: Path) -> None:
    """Write the report and draw its figures; raises UserError where the disk does not take them."""
    with outputs.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, report)
    draw(report, folder)


def draw(report: Report, folder: Path) -> None:
    """Draw the figures of a report as it is in its file, rounded; raises UserError as `conclude` does."""
    reports, repeated = parts(rounded(report)), _SPREAD in report
    with outputs.writing(folder):
        plots.throughput_accuracy(reports, folder, repeated)
        over_time.time_series(reports, folder, repeated)


def parts(report: Report) -> dict[str, Report]:
    """The runs that a report is of, by what they are called."""
    if _PARTS in report:
        return {name: report[key] for key, name in report[_PARTS].items()}
    return {report["name"]: report}


def combine(reports: dict[str, tuple[str, Report]]) -> Report:
    """One report of several runs, key: (what it is called, its report). On top are the keys of the first."""
    runs = {key: report for key, (_, report) in reports.items()}
    called = {key: name for key, (name, _) in reports.items()}
    interrupted = any(report["interrupted"] for report in runs.values())
    return {**next(iter(runs.values())), **runs, _PARTS: called, "interrupted": interrupted}


def show(report: Report, as_json: bool, words: list[str]) -> None:
    """Print a report's tables and some closing words, or the report itself, on standard output."""
    if as_json:
        print(json.dumps(rounded(report), indent=1, sort_keys=True, allow_nan=False))
        return
    report = rounded(report)
    repeated = _SPREAD in report
    say([*(tables.repeated(parts(report), report[_SPREAD]) if repeated else tables.tables(parts(report))), *words])


def say(shown: Sequence[RenderableType]) -> None:
    """Print tables and lines on standard output."""
    console = _console()
    for each in shown:
        console.print(each, soft_wrap=isinstance(each, str))


def show_files(folder: Path, as_json: bool) -> None:
    """Say where everything is; beside JSON, which has standard output to itself, on standard error."""
    line = f"Results in {folder}: {', '.join([FILE, *(f'{name}.png' for name in _FIGURES)])}"
    if as_json:
        print(line, file=sys.stderr)
    else:
        _console().print(line, soft_wrap=True)


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else plain_console()
