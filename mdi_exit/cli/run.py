"""`run`, `demo`, `report`: an experiment in real time, the tour of both modes, and what came of them."""

# typer reads annotations at run time, on Python 3.10 too
# ruff: noqa: UP045

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from mdi_exit.config import Experiment

Set = Annotated[
    Optional[list[str]],
    typer.Option(
        "--set", help="KEY=VALUE of the experiment, such as thresholds=0.9 or admission.alpha=0.3; repeatable."
    ),
]
Seed = Annotated[Optional[int], typer.Option(min=0, help="Decides the order of the images and every draw.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report instead of tables.")]


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    for command in (demo, run, report):
        app.command(command.__name__)(command)


def run(
    experiment: Annotated[str, typer.Argument(help="A YAML file, or a shipped example's name.")],
    settings: Set = None,
    seed: Seed = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the results; default: a new one in runs/.")] = None,
    address: Annotated[
        Optional[str], typer.Option(help="Of a running Ray cluster, or auto; default: one of our own, here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run an experiment on Ray, and report what became of every image."""
    loaded = load(experiment, settings, seed)
    from mdi_exit.cli import session  # brings in the figures' library, which a mistake need not wait for

    with session.results_folder(out, loaded.name) as folder:
        session.check_files(loaded)
        with session.cluster(address) as cluster:
            content = session.carry_out(cluster, loaded, loaded.name, folder)
        finish(content, folder, as_json, [])


def load(experiment: str, settings: list[str] | None, seed: int | None) -> Experiment:
    """The experiment with its settings; raises ConfigError."""
    from mdi_exit.config.load import load_experiment
    from mdi_exit.config.settings import parse_setting

    overrides = dict(parse_setting(setting) for setting in settings or ())
    if seed is not None:
        overrides["seed"] = seed
    return load_experiment(experiment, overrides)


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Decides the order of the images and every draw.")] = 0,
    seconds: Annotated[float, typer.Option(min=2.0, help="How long each of four runs admits images.")] = 15.0,
    as_json: Json = False,
) -> None:
    """Run both modes of MDI-Exit on three emulated Jetson Nanos, with the default rules and with the paper's."""
    from mdi_exit.cli import session, tour

    experiment = tour.first_experiment(seed, seconds)
    session.prepare_folder(out)
    session.check_files(experiment)
    with session.cluster() as cluster:
        content = tour.run_demo(cluster, experiment, out)
    finish(content, out, as_json, tour.in_words(content))


def report(
    folder: Annotated[Path, typer.Argument(help="Folder that a run wrote, or its report.json.")],
    as_json: Json = False,
) -> None:
    """Print the tables of a finished run again and draw its figures anew."""
    from mdi_exit.report import read_report

    content = read_report(folder)
    from mdi_exit.cli import session, tour

    folder = folder if folder.is_dir() else folder.parent
    session.show(content, as_json, tour.in_words(content))
    session.draw(content, folder)
    session.show_files(folder, as_json)


def finish(content: dict[str, Any], folder: Path, as_json: bool, words: list[str]) -> None:
    """Print what came of it, then write it down, in this order: a full disk must not take the figures with it.

    An interrupted run ends as Ctrl-C does.
    """
    from mdi_exit.cli import session

    session.show(content, as_json, words)
    session.conclude(content, folder)
    session.show_files(folder, as_json)
    if content["interrupted"]:
        raise typer.Exit(session.INTERRUPTED)
