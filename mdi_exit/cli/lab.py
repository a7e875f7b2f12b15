"""`lab`: emulated devices on one Linux machine, for `ray up` and everything after it."""

# typer reads annotations at run time, on Python 3.10 too
# ruff: noqa: UP045

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from mdi_exit.errors import UserError
from mdi_exit.lab import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable

    from mdi_exit.shaping import Shape

Name = Annotated[str, typer.Option(help="Which lab; several can be up.")]
Device = Annotated[str, typer.Argument(help="A device's name, such as n2.")]
Neighbour = Annotated[Optional[str], typer.Argument(help="Another one: then it is about the link between both.")]
_REST = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
_FOR_MAX_S = 86_400  # a day
_PLACE = "mdi-exit lab shape"


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    lab = typer.Typer(help="Emulate devices on this machine (Linux, root): ray up works on them.", no_args_is_help=True)
    for command in (up, down, status, shape, kill):
        lab.command(command.__name__)(command)
    lab.command("ssh", context_settings=_REST)(ssh)
    app.add_typer(lab, name="lab")


def up(
    what: Annotated[str, typer.Argument(help="How many devices, a lab file, or a shipped lab's name.")] = "3",
    name: Name = DEFAULT,
    out: Annotated[
        Optional[Path], typer.Option(help="Folder for what you need of it; default: the lab's name.")
    ] = None,
) -> None:
    """Start a lab and write a ray_cluster.yaml, a topology and an experiment for it."""
    from mdi_exit.lab import files, laboratory, shell, spec

    shell.check_machine()
    loaded, folder = spec.load(what), out or Path(name)
    for line in loaded.warnings:
        print(f"warning: {line}", file=sys.stderr)
    began_s = time.monotonic()
    try:
        lab = laboratory.up(loaded, name, folder, lambda line: print(line, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("mdi-exit: interrupted; nothing of the lab is left", file=sys.stderr)
        raise typer.Exit(130) from None
    kernel = "bandwidth, latency and loss" if lab.netem else "bandwidth; it has no netem, mdi-exit delays and loses"
    took_s, first, option = (
        time.monotonic() - began_s,
        next(iter(lab.devices)),
        "" if name == DEFAULT else f" --name {name}",
    )
    head = f"{lab.device(first).address}:6379"
    count, version = len(lab.devices), lab.version
    print(f"lab {name}: {count} devices up in {took_s:.1f} s; cgroups v{version}; the kernel does {kernel}")
    print(f"in {folder}: {', '.join(files.NAMES)}")
    print("next:")
    print(f"  mdi-exit lab ssh{option} desk ray up --yes {folder}/{files.CLUSTER}")
    print(f"  mdi-exit lab ssh{option} {first} mdi-exit run {folder}/{files.EXPERIMENT} --address {head}")
    print(f"  mdi-exit lab down{option}")


def down(name: Name = DEFAULT) -> None:
    """End a lab with everything on it, and say what is left: nothing."""
    from mdi_exit.lab import laboratory

    left = laboratory.down(name)
    if left.processes or left.folders:
        raise UserError(f"lab {name}: left are {left.processes} processes and {', '.join(left.folders) or 'no files'}")
    print(f"lab {name}: down; left of it: no process, namespace, mount, control group or file", end="")
    print(f" but, as they were changed since: {', '.join(left.changed)}" if left.changed else "")


def status(name: Name = DEFAULT) -> None:
    """Show a lab's devices and links as they are now."""
    from mdi_exit.cli import session
    from mdi_exit.lab import shell, state, tables

    shell.check_machine()
    session.say(tables.status(state.load(name)))


def ssh(
    context: typer.Context,
    where: Annotated[
        str, typer.Argument(metavar="DEVICE|desk", help="A device, or desk: the lab's network, without being one.")
    ],
    name: Name = DEFAULT,
) -> None:
    """Open a shell, or run the command that follows, on a device or at the desk: mdi-exit lab ssh n1 hostname."""
    from mdi_exit.lab import laboratory, shell, state

    shell.check_machine()
    words = laboratory.ssh_words(state.load(name), where, context.args)
    os.execvp(words[0], words)


def shape(
    device: Device,
    neighbour: Neighbour = None,
    cpus: Annotated[Optional[float], typer.Option(help="Cores' worth of time of the device.")] = None,
    memory: Annotated[Optional[str], typer.Option(help="Of the device, such as '1.5 GB'.")] = None,
    bandwidth: Annotated[
        Optional[str], typer.Option(help="Of the link, or of all its links: '20 Mbit/s', or none.")
    ] = None,
    latency_s: Annotated[Optional[float], typer.Option(min=0.0, help="One way, in seconds; needs netem.")] = None,
    loss: Annotated[Optional[float], typer.Option(min=0.0, max=0.99, help="Share of packets; needs netem.")] = None,
    name: Name = DEFAULT,
) -> None:
    """Change a device's limits, or a link's, while things run."""
    from mdi_exit.lab import laboratory, shell, spec
    from mdi_exit.yamlfile import Place

    shell.check_machine()
    place = Place(_PLACE)
    of_device, of_links = (cpus, memory), (bandwidth, latency_s, loss)
    if all(value is None for value in (*of_device, *of_links)):
        raise place.refuse("changes nothing", "--cpus, --memory, --bandwidth, --latency-s, --loss")
    if neighbour is not None and any(value is not None for value in of_device):
        raise place.refuse("--cpus and --memory belong to one device, not to a link", "one name")
    if any(value is not None for value in of_device):
        share = None if cpus is None else spec.check_cpus(cpus, place.at("--cpus"))
        size = None if memory is None else spec.memory_bytes(memory, place.at("--memory"))
        laboratory.shape_device(name, device, share, size)
        print(f"{device}: limits changed")
    if any(value is not None for value in of_links):
        count = laboratory.shape_links(name, device, neighbour, _change(bandwidth, latency_s, loss, place))
        what = f"link between {device} and {neighbour}" if neighbour is not None else f"links of {device}"
        print(f"{what}: {count} directions changed")


def kill(
    device: Device,
    neighbour: Neighbour = None,
    link: Annotated[bool, typer.Option("--link", help="Pull the device's cable out; it keeps running.")] = False,
    seconds: Annotated[
        Optional[float], typer.Option("--for", help="Bring it back after so many seconds, at most 86400.")
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Bring it back now.")] = False,
    name: Name = DEFAULT,
) -> None:
    """Cut a device's power, its cable (--link), or the link between two devices."""
    from mdi_exit.lab import laboratory, shell

    shell.check_machine()
    if seconds is not None and not 0 <= seconds <= _FOR_MAX_S:  # not a number either
        raise UserError(f"mdi-exit lab kill: --for: is {seconds:g}; allowed: 0 to {_FOR_MAX_S} seconds")
    if link and neighbour is not None:
        raise UserError("mdi-exit lab kill: --link is about one device; allowed: one name with --link, or two names")
    if link or neighbour is not None:
        what = f"link of {device}" if neighbour is None else f"link between {device} and {neighbour}"
        off: Callable[[], None] = lambda: laboratory.cut(name, device, neighbour, True)  # noqa: E731
        on: Callable[[], None] = lambda: laboratory.cut(name, device, neighbour, False)  # noqa: E731
    else:
        what = device
        off, on = lambda: laboratory.power_off(name, device), lambda: laboratory.power_on(name, device)
    if back:
        on()
    elif seconds is None:
        off()
        print(f"{what}: down")
    else:
        _off_for(seconds, what, off, on)
    if back or seconds is not None:
        print(f"{what}: up again")


def _off_for(seconds: float, what: str, off: Callable[[], None], on: Callable[[], None]) -> None:
    """Switch off, wait, switch on again; at once when asked to end by Ctrl-C, SIGTERM or a terminal that closes."""
    heard, told = os.pipe()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a handler: what `on` starts would inherit a mask
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, frame: os.write(told, b"."))
    try:
        off()
        print(f"{what}: down", flush=True)
        select.select([heard], [], [], seconds)
    finally:
        on()


def _change(bandwidth: str | None, latency_s: float | None, loss: float | None, place: Any) -> Callable[[Shape], Shape]:
    """How a link's shape changes; the words are those of a topology file. Raises ConfigError."""
    from mdi_exit.topology_file import ShapingSpec
    from mdi_exit.yamlfile import check

    given: dict[str, Any] = {"bandwidth_bps": None} if bandwidth == "none" else {"bandwidth": bandwidth}
    given |= {"latency_s": latency_s, "loss": loss}
    content = {key: value for key, value in given.items() if value is not None or key == "bandwidth_bps"}
    spec = check(ShapingSpec, content, place)
    return lambda shape: spec.over(shape, place, Path())
