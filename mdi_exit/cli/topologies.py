"""`topologies`: which graphs there are, and what one looks like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:  # at run time within the functions, so that no other command waits for these
    from rich.table import Table

    from mdi_exit.topology import Topology

_Name = Annotated[
    Optional[str],  # noqa: UP045 - typer reads this at run time on Python 3.10
    typer.Argument(metavar="[NAME|FILE]", help="A shipped topology or a YAML file; all shipped ones when left out."),
]
_Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="A folder for NAME.png and NAME.json; made if missing."),
]


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("topologies")(topologies)


def topologies(name: _Name = None, out: _Out = None) -> None:
    """List and draw topologies: who hears whom, where data enter, how far away each worker is."""
    from rich.console import Console

    from mdi_exit import drawing, outputs
    from mdi_exit.device_file import load_device
    from mdi_exit.topology_file import built_in, load
    from mdi_exit.yamlfile import Place

    console = Console(highlight=False)
    shown = [load(name)] if name is not None else [load(known) for known in built_in()]
    for topology in shown:
        for worker, settings in topology.settings.items():
            if settings.device is not None:
                load_device(settings.device, Path(topology.file).parent, Place(topology.file).at("workers", worker))
    if out is not None:
        outputs.check_folder(out)
    if name is None:
        console.print(_overview(shown))
    else:
        console.print(f"{shown[0].name}: {shown[0].description}" if shown[0].description else shown[0].name)
        console.print("\n" + drawing.as_text(shown[0]) + "\n", markup=False, soft_wrap=True)
        console.print(_workers(shown[0]))
        console.print(_links(shown[0]))
    if out is None:
        return
    with outputs.writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for topology in shown:
            drawing.as_picture(topology, out / f"{topology.name}.png")
            plain = json.dumps(topology.plain(), indent=2) + "\n"
            (out / f"{topology.name}.json").write_text(plain, encoding="utf-8")
    console.print(f"{len(shown)} drawn in {out}", markup=False, soft_wrap=True)


def _overview(shown: list[Topology]) -> Table:
    table = _table("topology", "workers", "links", "hops", "what it is")
    for topology in shown:
        hops = max(topology.hops_from_source().values())
        counts = (len(topology.workers), len(topology.links), hops)
        table.add_row(topology.name, *map(str, counts), topology.description)
    return table


def _workers(topology: Topology) -> Table:
    from mdi_exit.topology import routes

    table = _table("worker", "hops", "hands tasks to", "device", "slice")
    hops = topology.hops_from_source()
    every = routes(topology, dict.fromkeys(topology.workers, (1,)), 1, topology.workers, version=0)
    for worker in topology.workers:
        stated = topology.settings_of(worker)
        device = f"{stated.device} x{stated.speed:g}" if stated.device and stated.speed != 1 else stated.device or "-"
        name = f"{worker} (source)" if worker == topology.source else worker
        heard = ", ".join(every[worker].toward_segment[0]) or "-"
        table.add_row(name, str(hops[worker]), heard, device, str(stated.slice or "all"))
    return table


def _links(topology: Topology) -> Table | str:
    from mdi_exit.drawing import shaping_text

    if not topology.links:
        return "no links"
    table = _table("link", "direction", "shaping")
    for link in topology.links:
        shape = shaping_text(link.shape)
        table.add_row(link.label, "one way" if link.one_way else "both ways", shape or "as fast as it can")
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    return table
