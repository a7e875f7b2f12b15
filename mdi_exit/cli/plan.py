"""`profile`, `plan`: what devices and links can do; which slices to put where, and what rate to expect."""

# typer reads annotations at run time, on Python 3.10 too
# ruff: noqa: UP045

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from mdi_exit.cli.run import Set


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    for command in (profile, plan):
        app.command(command.__name__)(command)


def profile(
    experiment: Annotated[str, typer.Argument(help="A YAML file, or a shipped example's name: its workers and links.")],
    settings: Set = None,
    address: Annotated[
        Optional[str], typer.Option(help="Of a running Ray cluster, or auto; default: one of our own, here.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="For each worker's slices, and, 2 at least, for all together.")
    ] = 10.0,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the profile; default: runs/ and its name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Measure each worker's slices and each direction of each link, with what a run uses, then all of them together.

    It writes device profiles, a topology and an experiment that names them, for plan and simulate. Emulated devices and
    links are measured as they are emulated. Let nothing else run meanwhile.
    """
    from mdi_exit.cli.run import load
    from mdi_exit.config.load import load_experiment
    from mdi_exit.config.settings import parse_setting

    loaded = load(experiment, settings, None)
    from mdi_exit.cli import planned, profiled, session
    from mdi_exit.runtime.record import INTERRUPTED

    overrides = dict(parse_setting(setting) for setting in settings or ())
    together = load_experiment(
        experiment, {**overrides, "arrivals": None, **planned.rules_for(loaded, all_it_can=True)}
    )

    def tell(words: str) -> None:
        print(f"{words} ...", file=sys.stderr, flush=True)

    with session.results_folder(out, f"{loaded.name}-profile") as folder:
        with session.cluster(address) as cluster:
            measured = cluster.profile(loaded, seconds, tell)
            profiled.write(experiment, overrides, loaded, measured, folder)  # whatever becomes of the trial
            measured = cluster.trial(measured, together, seconds, tell)
        profiled.write(experiment, overrides, loaded, measured, folder)
    if as_json:
        said = {
            "devices": profiled.devices(loaded, measured),
            "topology": profiled.topology(loaded, measured),
            "trial": profiled.trial(measured),
        }
        print(json.dumps(said, indent=1, sort_keys=True, allow_nan=False))
        for line in profiled.warnings(loaded, measured, address is None):
            print(line, file=sys.stderr)
    else:
        session.say(profiled.shown(loaded, measured, address is None))
        names = ", ".join((profiled.EXPERIMENT, profiled.TOPOLOGY, f"{profiled.DEVICES}/*.yaml"))
        session.say([f"Written to {folder}: {names}. Next: mdi-exit plan {folder / profiled.EXPERIMENT}"])
    if measured.trial_failed == INTERRUPTED:  # so that what was to come next does not
        raise typer.Exit(session.INTERRUPTED)


def plan(
    experiment: Annotated[str, typer.Argument(help="A YAML file, or a shipped example's name.")],
    settings: Set = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for the plan; default: runs/ and its name.")] = None,
    trace: Annotated[
        Optional[Path], typer.Option(help="What every exit says, FILE.trace.npz; default: beside the model.")
    ] = None,
    memory_max: Annotated[
        Optional[str], typer.Option(help="Weights that no worker may exceed, whatever its memory: '7 MB', or bytes.")
    ] = None,
    lean: Annotated[bool, typer.Option("--lean", help="Host no more than the rate needs, to within 1 %.")] = False,
    keep_rules: Annotated[
        bool, typer.Option("--keep-rules", help="Keep offloading and admission as the experiment has them.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Simulate the plan, to see what it comes to.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the preview as JSON instead of tables.")] = False,
) -> None:
    """Plan which worker hosts which slice: the highest rate within memory, what binds, what each worker is worth.

    Slices given by name in the experiment or its topology stay as they are. It writes plan.yaml, an experiment that run
    and simulate take, plan.json and plan.png. No cluster is needed.
    """
    from mdi_exit.cli.run import load
    from mdi_exit.config.settings import parse_setting

    loaded = load(experiment, settings, None)
    from mdi_exit.cli import planned, session, virtual  # bring in a solver, which a mistake need not wait for

    with session.results_folder(out, f"{loaded.name}-plan") as folder:
        network = virtual.Network.of(loaded, trace)
        wish = planned.Wish(None if memory_max is None else planned.size_bytes(memory_max), lean, keep_rules, check)
        found, content = planned.make(loaded, network.card, network.trace, wish)
        overrides = dict(parse_setting(setting) for setting in settings or ())
        written = planned.write(experiment, overrides, found, content, wish, folder)
        if check:
            content["simulated"] = planned.simulated(written, network.card, network.trace)
        planned.write_preview(written, found, content, folder)
    if as_json:
        from mdi_exit.jsonfile import rounded

        print(json.dumps(rounded(content), indent=1, sort_keys=True, allow_nan=False))
        return
    session.say(planned.shown(content, written, network.card, keep_rules))
    names = ", ".join((planned.EXPERIMENT, planned.CONTENT, planned.PICTURE))
    session.say([f"Written to {folder}: {names}. Next: mdi-exit run {folder / planned.EXPERIMENT}"])
