"""The lab's network: a bridge in the lab's own namespace, a cable (veth pair) to each device, limits on each link.

A link's limit sits where its sender's frames leave: a class per neighbour of the device's root htb, chosen by the
address that a frame goes to. What goes elsewhere (the desk, devices that are no neighbours) is not limited. What
waits for a class is in a queue of bounded bytes, or, where the kernel has it, in netem, which delays and loses.
"""

from __future__ import annotations

from mdi_exit.errors import UserError
from mdi_exit.lab import device, shell, state
from mdi_exit.lab.spec import DESK_ADDRESS
from mdi_exit.shaping import Shape

BRIDGE, INTERFACE, _PORT = "lab", "eth0", "port"
_FREE_BPS = 40e9  # for what has no limit; a class has to have a rate
_REST, _FIRST = 1, 0x10  # numbers of the class for the rest and of the first neighbour's
_BURST_S, _BURST_MIN_BYTES = 0.005, 16_000  # htb hands out a burst per tick of the kernel; ten at 250 to the second
_QUEUE_S, _QUEUE_MIN_BYTES = 0.2, 150_000  # what a router holds, in seconds of its link
_PACKETS_MAX = 10_000  # that netem holds at a time
_DROP_ALL_BYTES = 1


def has_netem() -> bool:
    """Whether this kernel can delay and lose packets: tried in a namespace that is gone again at once."""
    words = ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    try:
        shell.run(words)
    except UserError:
        return False
    return True


def lay_out(lab: state.State) -> None:
    """Make the bridge. Raises UserError."""
    lines = [f"link add {BRIDGE} type bridge", f"address add {DESK_ADDRESS}/24 dev {BRIDGE}", f"link set {BRIDGE} up"]
    _ip(lab.init_pid, lines, "its bridge")


def plug_in(lab: state.State, name: str) -> None:
    """Give a device that is up its cable, address and limits. Raises UserError."""
    port, pid = _port(lab, name), _pid(lab, name)
    number = int(port.removeprefix(_PORT))
    mac = f"02:00:0a:4d:00:{number:02x}"  # the same after a restart: the others remember it
    peer = f"peer name {INTERFACE} address {mac} netns {pid}"
    made = [f"link add {port} type veth {peer}", f"link set {port} master {BRIDGE}"]
    _ip(
        lab.init_pid,
        [*made, f"link set {port} {'down' if lab.device(name).link_down else 'up'}"],
        f"the link of {name}",
    )
    address = lab.device(name).address
    _ip(pid, [f"address add {address}/24 dev {INTERFACE}", f"link set {INTERFACE} up"], f"the address of {name}")
    # The way out of the lab leads nowhere, but Ray asks which way it would be when it wonders who it is.
    _ip(pid, [f"route add default via {DESK_ADDRESS}"], f"the route of {name}")
    shape(lab, name, fresh=True)


def set_link(lab: state.State, name: str) -> None:
    """Pull a device's cable out, or put it in again, as its state says."""
    _ip(
        lab.init_pid,
        [f"link set {_port(lab, name)} {'down' if lab.device(name).link_down else 'up'}"],
        f"the link of {name}",
    )
    # Whoever asked in vain for an address meanwhile would call the device unreachable for a moment after it is back.
    for each in () if lab.device(name).link_down else lab.devices:
        if (pid := device.first_pid(lab.cgroups, each)) is not None:
            _ip(pid, [f"neigh flush dev {INTERFACE}"], f"the neighbours of {each}")


def shape(lab: state.State, name: str, fresh: bool = False) -> None:
    """Put the limits of all links that leave a device in force, as the state says; traffic goes on meanwhile."""
    lines = []
    if fresh:
        lines += [f"qdisc add dev {INTERFACE} root handle 1: htb default {_REST}"]
        lines += [_class(_REST, None)]
    for link in lab.links:
        if link.sender != name:
            continue
        number = _FIRST + list(lab.devices).index(link.receiver)
        address = lab.device(link.receiver).address
        lines += [_class(number, link.bandwidth_bps)]
        lines += [f"qdisc replace dev {INTERFACE} parent 1:{number:x} handle {number:x}: {_queue(link, lab.netem)}"]
        if fresh:
            lines += [
                f"filter add dev {INTERFACE} parent 1: protocol ip u32 match ip dst {address}/32 flowid 1:{number:x}"
            ]
    words = [*shell.inside(_pid(lab, name), "net"), "tc", "-batch", "-"]
    shell.run(words, "\n".join([*lines, ""]), doing=f"the links of {name}")


def links(shapes: dict[tuple[str, str], Shape]) -> list[state.LinkState]:
    """The state of links, each direction of its own, that are like this."""
    return [state.LinkState(a, b, s.bandwidth_bps, s.latency_s, s.loss) for (a, b), s in shapes.items()]


def _class(number: int, bandwidth_bps: float | None) -> str:
    rate_bps = bandwidth_bps or _FREE_BPS
    burst_bytes = max(_BURST_MIN_BYTES, round(rate_bps / 8 * _BURST_S))
    bit = max(8, round(rate_bps))
    size = f"rate {bit}bit burst {burst_bytes} cburst {burst_bytes} quantum 60000"
    return f"class replace dev {INTERFACE} parent 1: classid 1:{number:x} htb {size}"


def _queue(link: state.LinkState, netem: bool) -> str:
    if link.cut:
        return f"bfifo limit {_DROP_ALL_BYTES}"
    if netem:
        delay = f" delay {link.latency_s * 1e3:g}ms" if link.latency_s else ""
        return f"netem limit {_PACKETS_MAX}{delay}" + (f" loss {100 * link.loss:g}%" if link.loss else "")
    return f"bfifo limit {max(_QUEUE_MIN_BYTES, round((link.bandwidth_bps or _FREE_BPS) / 8 * _QUEUE_S))}"


def _ip(pid: int, lines: list[str], doing: str) -> None:
    words = [*shell.inside(pid, "net"), "ip", "-batch", "-"]
    shell.run(words, "\n".join([*lines, ""]), doing=doing)


def _port(lab: state.State, name: str) -> str:
    return f"{_PORT}{list(lab.devices).index(name) + 1}"


def _pid(lab: state.State, name: str) -> int:
    pid = device.first_pid(lab.cgroups, name)
    if pid is None:
        raise UserError(f"lab {lab.name}: {name} is off; bring it back with mdi-exit lab kill {name} --back")
    return pid
