"""What can be done with labs: up, down, status, ssh, shape, kill. Every function raises UserError, in one line."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

import mdi_exit
from mdi_exit import outputs
from mdi_exit.errors import UserError
from mdi_exit.lab import cgroups, device, files, network, shell, state, warden
from mdi_exit.lab.spec import DESK, NAME, DeviceSpec, LabSpec
from mdi_exit.shaping import Shape

_UP_WITHIN_S = 20.0
_DOWN_WITHIN_S = 30.0
_STEP_S = 0.02
_KINDS = ("net", "pid", "mnt")  # of namespaces, as /proc calls them
# Of whoever calls `lab up`, taken along to the devices, so that what is installed for them is found there.
_CARRIED = ("PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Left:
    """What remained of a lab after it was taken down; empty as it should be."""

    processes: int
    folders: tuple[str, ...]  # and files, that could not be removed
    changed: tuple[str, ...] = ()  # files that the lab wrote and the user has edited since: these stay


def up(spec: LabSpec, name: str, out: Path, told: Callable[[str], None]) -> state.State:
    """Start a lab. Whatever ends this program in the middle ends the lab as well, and leaves nothing."""
    shell.check_machine()
    if not NAME.fullmatch(name):
        raise UserError(f"lab {name!r}: is no name; allowed: small letters, digits and '-', at most 31")
    with state.alone(name):
        lifeline = _begin(name, out, told)
    try:
        lab = _fresh(spec, name, out.resolve(), _first_process(name))
        state.save(lab)  # from here on the warden knows what to clear up
        _furnish(lab, spec, told)
        lifeline.write(warden.KEEP)
        lifeline.flush()
    except BaseException:  # whatever it was, Ctrl-C too: go on with it when the warden has cleared up
        lifeline.close()
        _wait_for_the_end_of(name)
        raise
    lifeline.close()
    return lab


def _begin(name: str, out: Path, told: Callable[[str], None]) -> IO[bytes]:
    """Start the warden of a lab that is not up; what is left of others whose warden was killed is cleared up."""
    if state.warden(name) is not None:
        raise UserError(f"lab {name}: is up already; end it with mdi-exit lab down, or give another --name")
    if name in state.names():
        _clear(name, told)  # its namespaces are gone, its empty groups are not
    for other in filter(state.is_stale, state.names()):
        with contextlib.suppress(UserError), state.alone(other):
            if state.is_stale(other):  # still, now that nobody else is at it
                _clear(other, told)
    outputs.check_folder(out)
    if taken := [file for file in files.NAMES if (out / file).exists()]:
        raise UserError(f"--out {out}: holds {', '.join(taken)}; allowed: a folder without them")
    state.folder(name).mkdir(parents=True, mode=0o700)
    return warden.start(name)


def _clear(name: str, told: Callable[[str], None]) -> None:
    written = state.written(name)
    state.clear(name)
    for file in _changed(written):
        told(f"{file} stays: it was changed since lab {name} wrote it")


def down(name: str) -> Left:
    """End a lab, and say what is left of it, which should be nothing."""
    shell.check_machine()
    if name not in state.names():
        raise UserError(f"lab {name}: is not up; up are: {', '.join(state.names()) or 'none'}")
    spaces, left = frozenset[str](), list[str]()
    with contextlib.ExitStack() as held:
        with state.alone(name):
            written = state.written(name)
            if (keeper := state.warden(name)) is not None:
                spaces = _spaces(keeper, name, held)
                keeper.terminate()
                _wait_for_the_end_of(name)
            if name in state.names():
                left = state.clear(name)
            changed = _changed(written)
            left += [str(file) for file in written if os.path.lexists(file) and str(file) not in changed]
        return Left(_processes_in(spaces), tuple(left), tuple(changed))


def ssh_words(lab: state.State, where: str, command: Sequence[str]) -> list[str]:
    """The program to become, for a shell or a command at the desk or on a device; in the folder of the caller."""
    enter = shell.inside(lab.init_pid, "mount", "uts", "ipc", "net", "pid")
    here = str(Path.cwd())
    if len(command) == 1:  # as with ssh, one word may be a whole line for the shell
        command = ["bash", "-c", *command]
    if where == DESK:
        run = list(command) or [os.environ.get("SHELL", "/bin/bash")]
        path = f"PATH={lab.environment['PATH']}"  # also where the caller's does not lead to ray and mdi-exit
        return [*enter, "env", path, "bash", "-c", 'cd "$0" 2>/dev/null || cd /; exec "$@"', here, *run]
    address = lab.device(where).address
    quiet = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    key = str(state.folder(lab.name) / device.KEY)
    words = [*enter, "ssh", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10", *quiet]
    if not command:
        return [*words, "-t", f"root@{address}"]
    line = f"cd {shlex.quote(here)} 2>/dev/null; exec {shlex.join(command)}"
    return [*words, *(["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []), f"root@{address}", line]


def shape_device(name: str, which: str, cpus: float | None, memory_bytes: int | None) -> None:
    """Change the limits of a device that runs on."""
    with state.changing(name) as lab:
        found = lab.device(which)
        wanted = DeviceSpec(found.cpus if cpus is None else cpus, memory_bytes or found.memory_bytes)
        cgroups.limit(lab.cgroups, which, wanted)
        found.cpus, found.memory_bytes = wanted.cpus, wanted.memory_bytes


def shape_links(name: str, which: str, other: str | None, change: Callable[[Shape], Shape]) -> int:
    """Change both directions of a link, or of all links of a device; return how many directions that were."""
    with state.changing(name) as lab:
        found = _links(lab, which, other)
        for link in found:
            new = change(Shape(bandwidth_bps=link.bandwidth_bps, latency_s=link.latency_s, loss=link.loss))
            if not lab.netem and (new.latency_s, new.loss) != (link.latency_s, link.loss):
                raise UserError(
                    f"lab {name}: this kernel has no netem, so latency and loss of a link cannot change now; "
                    "allowed: --bandwidth, or latency_s and loss in the lab file, which mdi-exit then does itself"
                )
            link.bandwidth_bps, link.latency_s, link.loss = new.bandwidth_bps, new.latency_s, new.loss
        for sender in dict.fromkeys(link.sender for link in found):
            if device.first_pid(lab.cgroups, sender) is not None:
                network.shape(lab, sender)
        return len(found)


def cut(name: str, which: str, other: str | None, is_cut: bool) -> None:
    """Cut (or mend) the link between two devices, or pull one device's cable out (or put it in)."""
    with state.changing(name) as lab:
        if other is None:
            lab.device(which).link_down = is_cut
            if device.first_pid(lab.cgroups, which) is not None:
                network.set_link(lab, which)
            return
        found = _links(lab, which, other)
        for link in found:
            link.cut = is_cut
            if device.first_pid(lab.cgroups, link.sender) is not None:
                network.shape(lab, link.sender)


def power_off(name: str, which: str) -> None:
    """End a device as a power cut does."""
    with state.changing(name) as lab:
        lab.device(which)
        cgroups.end(lab.cgroups, which)


def power_on(name: str, which: str) -> None:
    """Start a device that is off, with its limits and links; what ran on it does not, as after a reboot."""
    with state.changing(name) as lab:
        lab.device(which)
        if device.first_pid(lab.cgroups, which) is None:
            _power_on(lab, which)


def _power_on(lab: state.State, which: str) -> None:
    found = lab.device(which)
    cgroups.end(lab.cgroups, which)
    cgroups.limit(lab.cgroups, which, DeviceSpec(found.cpus, found.memory_bytes))
    device.start(lab, which)
    network.plug_in(lab, which)


def _links(lab: state.State, which: str, other: str | None) -> list[state.LinkState]:
    lab.device(which)
    if other is None:
        return [link for link in lab.links if which in (link.sender, link.receiver)]
    lab.device(other)
    found = [link for link in lab.links if {link.sender, link.receiver} == {which, other}]
    if not found:
        raise UserError(f"lab {lab.name}: no link between {which} and {other}")
    return found


# ---- coming up, going down


def _changed(written: Mapping[Path, str | None]) -> list[str]:
    return [str(file) for file, digest in written.items() if state.is_changed(file, digest)]


def _furnish(lab: state.State, spec: LabSpec, told: Callable[[str], None]) -> None:
    cgroups.create(lab.cgroups, lab.devices)
    device.write_common_files(lab)
    device.prepare_desk(lab)
    network.lay_out(lab)
    for each in lab.devices:
        _power_on(lab, each)
        told(f"{each} is up at {lab.device(each).address}")
    files.write(lab, spec)


def _first_process(name: str) -> int:
    until_s = time.monotonic() + _UP_WITHIN_S
    while (keeper := state.warden(name)) is not None and time.monotonic() < until_s:
        pid = warden.init_pid(keeper)
        if pid is not None:
            return pid
        time.sleep(_STEP_S)
    raise UserError("lab: root may not make namespaces here; inside a container that has to be a privileged one")


def _fresh(spec: LabSpec, name: str, out: Path, first: int) -> state.State:
    groups = cgroups.find(name)
    package = Path(mdi_exit.__file__).resolve().parents[1]
    keep = [Path(sys.prefix), Path(sys.base_prefix), package, Path.cwd(), out]
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', _PATH)}"
    carried = {key: os.environ[key] for key in _CARRIED if key in os.environ}
    devices = {
        which: state.DeviceState(spec.address(which), limits.cpus, limits.memory_bytes)
        for which, limits in spec.devices.items()
    }
    shapes = {(a, b): shape for a in devices for b in devices if a != b and (shape := spec.shape(a, b)) is not None}
    return state.State(
        name=name,
        out=str(out),
        init_pid=first,
        netem=network.has_netem(),
        version=groups.version,
        groups=[str(groups.cpu), str(groups.memory)],
        kept=device.kept(keep),
        environment={"PATH": path, **carried},
        devices=devices,
        links=network.links(shapes),
    )


def _wait_for_the_end_of(name: str) -> None:
    keeper = state.warden(name)
    if keeper is None:
        return
    try:
        keeper.wait(_DOWN_WITHIN_S)
    except psutil.TimeoutExpired:
        keeper.kill()  # with it the kernel ends the rest; what it had still to clear, `state.clear` does


def _spaces(keeper: psutil.Process, name: str, held: contextlib.ExitStack) -> frozenset[str]:
    """The namespaces of a lab, by the names that the kernel gives them: it gives them again once they are free, to
    another lab that comes up, so they are held."""
    found = set[str]()
    with contextlib.suppress(UserError):
        lab = state.load(name)
        for pid in (warden.init_pid(keeper), *(device.first_pid(lab.cgroups, each) for each in lab.devices)):
            for kind in _KINDS if pid is not None else ():
                with contextlib.suppress(OSError):
                    held.callback(os.close, space := os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY))
                    found.add(str(Path(f"/proc/self/fd/{space}").readlink()))
    return frozenset(found)


def _processes_in(spaces: frozenset[str]) -> int:
    """How many processes are in these namespaces, when those that are ending have had time to."""
    until_s = time.monotonic() + _UP_WITHIN_S
    while (count := sum(1 for pid in psutil.pids() if spaces & frozenset(_of(pid)))) and time.monotonic() < until_s:
        time.sleep(_STEP_S)
    return count


def _of(pid: int) -> list[str]:
    found = []
    for kind in _KINDS:
        with contextlib.suppress(OSError):
            found.append(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    return found
