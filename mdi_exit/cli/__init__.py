"""The command line: `mdi-exit VERB ...`. One file per family of verbs; this one only assembles them."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer

from mdi_exit import __version__
from mdi_exit.compiled import is_compiled
from mdi_exit.errors import UserError

app = typer.Typer(
    name="mdi-exit",
    help="Run one early-exit neural network across many small devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mdi-exit {__version__}{' (compiled)' if is_compiled() else ''}")
        raise typer.Exit


_VERSION = typer.Option("--version", callback=_version, is_eager=True, help="All machines of a run need the same.")


@app.callback()
def _before(version: Annotated[bool, _VERSION] = False) -> None:
    pass


# Of click, or of the copy of click that newer versions of typer bring: this is the name that both have for it.
_UsageError: Any = typer.BadParameter.__bases__[0]


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    from mdi_exit.cli import doctor, lab, learn, plan, run, simulate, topologies

    for family in (run, simulate, plan, doctor, lab, topologies, learn):
        family.register(app)
    try:
        status = app(prog_name="mdi-exit", standalone_mode=False)  # else typer prints a mistake in a box of its own
    except UserError as error:
        _refuse(str(error))
    except _UsageError as error:
        if words := error.format_message():  # empty when no command was given: then the help has been printed
            _refuse(f"{words.rstrip('.')}; see {error.ctx.command_path if error.ctx else 'mdi-exit'} --help")
        status = 2
    except typer.Abort:  # typer before 0.28 makes this of Ctrl-C, later ones return the status
        status = 130
    sys.exit(status)


def _refuse(words: str) -> NoReturn:
    print(f"mdi-exit: {' '.join(words.split())}", file=sys.stderr)  # one line, whatever it quotes
    sys.exit(2)
