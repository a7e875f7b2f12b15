"""`simulate`: an experiment in virtual time, beside the best that any policy could do."""

# typer reads annotations at run time, on Python 3.10 too
# ruff: noqa: UP045

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mdi_exit.cli.run import Json, Seed, Set, finish, load
from mdi_exit.errors import UserError

if TYPE_CHECKING:
    from mdi_exit.config import Experiment
    from mdi_exit.report import Report


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("simulate")(simulate)


def simulate(
    experiment: Annotated[Optional[str], typer.Argument(help="A YAML file, or a shipped example's name.")] = None,
    settings: Set = None,
    seed: Seed = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the results; default: runs/ and its name.")] = None,
    trace: Annotated[
        Optional[Path], typer.Option(help="What every exit says, FILE.trace.npz; default: beside the model.")
    ] = None,
    journal: Annotated[bool, typer.Option("--journal", help="Keep every step, and print their digest.")] = False,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="Runs, with this seed and the next ones.")] = 1,
    optimum: Annotated[bool, typer.Option(help="Compute the bound; on huge graphs it takes long.")] = True,
    fuzz: Annotated[
        int, typer.Option(min=0, help="Instead of an experiment: so many drawn ones, from --seed on, to find bugs.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Run an experiment in virtual time on recorded exits, beside the best that any policy could do."""
    if fuzz and experiment:
        raise UserError(f"simulate: {experiment} with --fuzz; allowed: one of them, since --fuzz draws its experiments")
    if fuzz:
        _fuzz(fuzz, seed or 0)
        return
    if experiment is None:
        raise UserError("simulate: no experiment; allowed: a YAML file, a shipped example's name, or --fuzz N")
    first = load(experiment, settings, seed)
    folder = out or Path("runs") / f"{first.name}-simulated"
    from mdi_exit.cli import session, virtual  # brings in the figures' library, which a mistake need not wait for

    session.prepare_folder(folder)
    network = virtual.Network.of(first, trace)
    runs: dict[str, tuple[str, Report]] = {}
    for number in range(repeat):
        chosen: Experiment = first if not number else load(experiment, settings, first.seed + number)
        part = folder / f"seed_{chosen.seed}" if repeat > 1 else folder
        runs[f"seed_{chosen.seed}"] = (
            f"seed {chosen.seed}",
            virtual.carry_out(chosen, network, part, journal or chosen.runtime.journal, optimum),
        )
    reports = [report for _, report in runs.values()]
    words = virtual.in_words(reports)
    if repeat == 1:
        finish(reports[0], folder, as_json, words)
        return
    content = {**session.combine(runs), "spread": virtual.spread(reports)}
    if as_json:
        session.show(content, as_json, [])
    else:
        session.say([virtual.spread_table(reports), *words])
    session.conclude(content, folder)
    if not as_json:
        session.show_files(folder)


def _fuzz(count: int, first: int) -> None:
    """Look for bugs; what is found is told of last with the command that shows it again, and exit status 1."""
    from mdi_exit.cli import virtual
    from mdi_exit.fuzzing.hunt import hunt

    with virtual.Bar("drawn experiments", count, "cases") as bar:
        found = hunt(first, count, bar.show)
    if found is None:
        print(f"{count} drawn experiments, seeds {first} to {first + count - 1}: nothing went wrong")
        return
    print(f"{found.traceback}\nlast step: {found.step}\n{found.case}\n{found.error}\n")
    print(f"mdi-exit simulate --fuzz 1 --seed {found.case.seed}")
    raise typer.Exit(1)
