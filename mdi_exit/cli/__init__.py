"""The command line: `mdi-exit VERB ...`. One file per family of verbs; this one only assembles them."""

from __future__ import annotations

import sys

import typer

from mdi_exit.errors import UserError

app = typer.Typer(
    name="mdi-exit",
    help="Run one early-exit neural network across many small devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    from mdi_exit.cli import learn, run, topologies

    for family in (run, topologies, learn):
        family.register(app)
    try:
        app()
    except UserError as error:
        print(f"mdi-exit: {' '.join(str(error).split())}", file=sys.stderr)  # one line, whatever it quotes
        sys.exit(2)
