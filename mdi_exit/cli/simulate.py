"""`simulate`: an experiment in virtual time, beside the best that any policy could do."""

# typer reads annotations at run time, on Python 3.10 too
# ruff: noqa: UP045

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mdi_exit.cli.run import Json, Seed, Set, finish, load

if TYPE_CHECKING:
    from mdi_exit.config import Experiment
    from mdi_exit.report import Report


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("simulate")(simulate)


def simulate(
    experiment: Annotated[str, typer.Argument(help="A YAML file, or a shipped example's name.")],
    settings: Set = None,
    seed: Seed = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the results; default: runs/ and its name.")] = None,
    trace: Annotated[
        Optional[Path], typer.Option(help="What every exit says, FILE.trace.npz; default: beside the model.")
    ] = None,
    journal: Annotated[bool, typer.Option("--journal", help="Keep every step, and print their digest.")] = False,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="Runs, with this seed and the next ones.")] = 1,
    optimum: Annotated[bool, typer.Option(help="Compute the bound; on huge graphs it takes long.")] = True,
    as_json: Json = False,
) -> None:
    """Run an experiment in virtual time on recorded exits, beside the best that any policy could do."""
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
