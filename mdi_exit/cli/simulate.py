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
    context: typer.Context,
    experiment: Annotated[Optional[str], typer.Argument(help="A YAML file, or a shipped example's name.")] = None,
    settings: Set = None,
    seed: Seed = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the results; default: a new one in runs/.")] = None,
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
    if fuzz:
        _refuse_beside_fuzz(context)
        _fuzz(fuzz, seed or 0)
        return
    if experiment is None:
        raise UserError("simulate: no experiment; allowed: a YAML file, a shipped example's name, or --fuzz N")
    first = load(experiment, settings, seed)
    from mdi_exit.cli import session, virtual  # brings in the figures' library, which a mistake need not wait for

    with session.results_folder(out, f"{first.name}-simulated") as folder:
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
        content = reports[0] if repeat == 1 else {**session.combine(runs), "spread": virtual.spread(reports)}
        finish(content, folder, as_json, virtual.in_words(reports))


def _refuse_beside_fuzz(context: typer.Context) -> None:
    """What --fuzz does not use must not look as if it did; raises UserError."""
    others = [each for each in context.command.params if each.name not in ("fuzz", "seed")]
    given = {
        "/".join(each.opts + each.secondary_opts): context.get_parameter_source(each.name or "") for each in others
    }
    if unused := [name for name, source in given.items() if source and source.name == "COMMANDLINE"]:
        why = "it draws its experiments itself, and writes nothing"
        raise UserError(f"simulate: --fuzz with {', '.join(unused)}; allowed beside it: --seed alone ({why})")


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
