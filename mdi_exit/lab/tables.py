"""A lab's devices and links as tables."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from mdi_exit.lab import cgroups, device, state
from mdi_exit.survey import group_used_bytes


def status(lab: state.State) -> list[RenderableType]:
    """What `lab status` prints."""
    devices = _table("device", "address", "cpus", "memory used", "limit", "processes", "state")
    for name, each in lab.devices.items():
        on = device.first_pid(lab.cgroups, name) is not None
        used = f"{(group_used_bytes(lab.cgroups.memory / name) or 0) / 1e6:.0f} MB"
        how = "off" if not on else "link down" if each.link_down else "up"
        count = str(len(cgroups.members(lab.cgroups, name)))
        devices.add_row(name, each.address, f"{each.cpus:g}", used, f"{each.memory_bytes / 1e6:.0f} MB", count, how)
    links = _table("from", "to", "bandwidth", "latency", "loss", "state")
    for link in lab.links:
        rate = "not limited" if link.bandwidth_bps is None else f"{link.bandwidth_bps / 1e6:g} Mbit/s"
        how = "cut" if link.cut else "up"
        links.add_row(link.sender, link.receiver, rate, f"{link.latency_s * 1e3:g} ms", f"{100 * link.loss:g} %", how)
    return [devices, links]


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number in (0, 1, len(headings) - 1) else "right")
    return table
