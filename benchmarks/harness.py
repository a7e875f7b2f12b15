"""What every benchmark shares: its options, its table, and results.json, the file that other programs read.

results.json holds {benchmark, command, seed, machine, quick, summary{NAME: number}, rows[...]}; the names in `summary`
are never changed, only added to. A measurement is repeated with the cases taking turns, because a machine's mood
changes over minutes: all cases once, then all again, every other time backwards. A figure is the median over the
repetitions, with the lowest and the highest beside it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mdi_exit.analysis import plots
from mdi_exit.cli.tables import plain_console
from mdi_exit.errors import UserError
from mdi_exit.jsonfile import write_json
from mdi_exit.machine import command_line, machine

Case = TypeVar("Case")
Result = TypeVar("Result")
FILE = "results.json"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    benchmark: str
    quick: bool
    out: Path
    seed: int
    repetitions: int
    graph: Path | None = None


def options(
    benchmark: str,
    question: str,
    repetitions: int,
    graph: bool = False,
    quick: str = "a smaller run of the same thing, within a minute",
) -> Options:
    """Read the command line; `repetitions` is how many a full measurement takes, a quick one takes one."""
    parser = argparse.ArgumentParser(prog=f"benchmarks/{benchmark}.py", description=question)
    if graph:
        parser.add_argument("--graph", type=Path, help="measure this topology file or experiment in the graphs' stead")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--out", type=Path, default=Path("runs") / f"benchmark-{benchmark}", help="folder of the results"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repetitions", type=int, help=f"default: {repetitions}, or 1 with --quick")
    given = parser.parse_args()
    times = given.repetitions if given.repetitions is not None else 1 if given.quick else repetitions
    if times < 1 or given.seed < 0:
        parser.error("--repetitions wants 1 or more, --seed 0 or more")
    return Options(benchmark, given.quick, given.out, given.seed, times, given.graph if graph else None)


def turns(cases: Sequence[Case], chosen: Options) -> Iterator[tuple[int, Case]]:
    """Every case, `repetitions` times, taking turns; says on standard error what is next and how long it all takes."""
    order = [(r, case) for r in range(chosen.repetitions) for case in (cases if r % 2 == 0 else list(cases)[::-1])]
    started_s = time.monotonic()
    for number, (repetition, case) in enumerate(order):
        passed_s = time.monotonic() - started_s
        left = f", {passed_s / number * (len(order) - number):.0f} s left" if number else ""
        print(f"[{number + 1}/{len(order)}] {case}{left}", file=sys.stderr, flush=True)
        yield repetition, case


def side_by_side(
    function: Callable[[Case], Result], cases: Sequence[Case], doing: str, processes: int | None = None
) -> list[Result]:
    """`function` of every case, several at once; for simulations, whose results do not depend on the machine.

    Shows progress with the time left on standard error. `function` and the cases must be picklable.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    context = multiprocessing.get_context("spawn")
    with Progress(*columns, console=Console(stderr=True)) as progress, context.Pool(processes) as pool:
        return list(progress.track(pool.imap(function, cases), total=len(cases), description=doing))


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over repetitions."""

    median: float
    low: float
    high: float
    repetitions: int

    def __str__(self) -> str:
        beside = f" ({self.low:.1f} to {self.high:.1f})" if self.repetitions > 1 else ""
        return f"{self.median:.1f}{beside}"


def spread(values: Sequence[float]) -> Spread:
    """The median of some values, with the lowest and the highest."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output."""
    shown = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        shown.add_column(heading, justify="right" if number else "left")
    for row in rows:
        shown.add_row(*row)
    plain_console().print(shown)


def conclude(chosen: Options, summary: dict[str, float], rows: list[dict[str, Any]], figures: Sequence[Any]) -> None:
    """Write results.json and the figures (each a figure and its name), and say where."""
    content = {
        "benchmark": chosen.benchmark,
        "command": command_line(f"python benchmarks/{chosen.benchmark}.py"),
        "seed": chosen.seed,
        "machine": machine(),
        "quick": chosen.quick,
        "summary": summary,
        "rows": rows,
    }
    write_json(chosen.out / FILE, content)
    names = [path.name for figure, name in figures for path in plots.save(figure, chosen.out, name)]
    print(f"Results in {chosen.out}: {', '.join([FILE, *names])}")


def main(benchmark: Any) -> None:
    """Run a benchmark's function; a user's mistake is one line and exit status 2, Ctrl-C is 130."""
    try:
        benchmark()
    except UserError as error:
        sys.exit(_fail(f"{Path(sys.argv[0]).name}: {error}", 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted: nothing was written", 130))


def _fail(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    return status
