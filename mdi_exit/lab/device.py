"""One device: namespaces of its own inside the lab's, its files, its limits, its ssh server.

It sees this machine's files, so that what is installed here is installed there; its own are /tmp, /dev/shm, /run, its
home /run/home, and the password file that says so. All of these are in memory and count against its limit.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from mdi_exit.errors import UserError
from mdi_exit.lab import cgroups, shell, state
from mdi_exit.lab.spec import DESK, DESK_ADDRESS

HOME = "/run/home"
KEY, HOST_KEY = "key", "host_key"
_UP_WITHIN_S = 20.0
_STEP_S = 0.02
_SHM_BYTES = 256 * 2**20  # for Ray's object store, which ray_cluster.yaml gives 150 MB
# No PAM: it would move sessions out of the device's control groups. Every way in but the key is shut.
_SSHD = """\
Port 22
HostKey {home}/../lab/host_key
AuthorizedKeysFile {home}/.ssh/authorized_keys
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
PrintLastLog no
MaxSessions 100
MaxStartups 100
SetEnv {environment}
"""


def kept(folders: Iterable[Path]) -> list[str]:
    """Which of these lie where a device has files of its own, and are to be mounted there anew; none in another."""
    hidden = [Path("/tmp"), Path("/dev/shm")]
    found = sorted({folder.resolve() for folder in folders if any(h in folder.resolve().parents for h in hidden)})
    return [str(folder) for folder in found if not any(other in folder.parents for other in found)]


def prepare_desk(lab: state.State) -> None:
    """Give the lab's own namespaces, in which the user sits, a /tmp and a /dev/shm that go with the lab."""
    stage = _stage(lab, DESK)
    script = [_tmpfs(stage, "700"), *_put_aside(lab, stage)]
    script += [_tmpfs("/tmp", "1777"), _tmpfs("/dev/shm", "1777"), *_put_back(lab, stage)]
    script += [f"mount --bind {shlex.quote(str(state.folder(lab.name) / 'hosts'))} /etc/hosts"]
    script += [f"echo {DESK} > /proc/sys/kernel/hostname", "ip link set lo up"]
    words = [*shell.inside(lab.init_pid, "mount", "uts", "net"), "bash", "-euc", "\n".join(script)]
    shell.run(words, doing="its own files")


def write_common_files(lab: state.State, here: Path = Path("/etc")) -> None:
    """Write what all devices share: keys, names and addresses, a password file in which root lives in HOME."""
    place = state.folder(lab.name)
    for name in (HOST_KEY, KEY):
        words = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            f"mdi-exit lab {lab.name}",
            "-f",
            str(place / name),
        ]
        shell.run(words, doing="a key")
    addresses = {DESK: DESK_ADDRESS, **{name: device.address for name, device in lab.devices.items()}}
    hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    (place / "hosts").write_text("\n".join(hosts) + "\n", encoding="utf-8")
    lines = (here / "passwd").read_text(encoding="utf-8").splitlines()
    others = [line for line in lines if not line.startswith("root:")]
    (place / "passwd").write_text("\n".join([f"root:x:0:0:root:{HOME}:/bin/bash", *others, ""]), encoding="utf-8")
    shadow = place / "shadow"  # without PAM sshd lets nobody in whose account is locked ("!"), as root's often is
    shadow.touch(mode=0o600)
    shadow.write_text("root:*:19000:0:99999:7:::\n", encoding="utf-8")
    settings = lab.environment
    exports = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    (place / "bashrc").write_text("\n".join([*exports, ""]), encoding="utf-8")
    environment = " ".join(f'"{name}={value}"' for name, value in settings.items())
    (place / "sshd_config").write_text(_SSHD.format(home=HOME, environment=environment), encoding="utf-8")


def start(lab: state.State, name: str) -> None:
    """Bring a device up to where its ssh server listens; its link comes after. Raises UserError."""
    groups = lab.cgroups
    join = [f"echo 0 > {shlex.quote(str(folder / 'cgroup.procs'))}" for folder in groups.folders(name)]
    enter = [*shell.inside(lab.init_pid, "mount", "uts", "ipc", "net", "pid"), *shell.UNSHARE]
    enter += ["bash", "-euc", "\n".join(_script(lab, name))]
    log = (state.folder(lab.name) / f"{name}.log").open("wb")
    with log:
        subprocess.Popen(  # outlives this program; it hangs on the lab's first process
            ["bash", "-euc", "\n".join([*join, f"exec {shlex.join(enter)}"])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    until_s = time.monotonic() + _UP_WITHIN_S
    while first_pid(groups, name) is None:
        if time.monotonic() > until_s:
            words = Path(log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise UserError(f"lab: {name} does not start: {words[-1] if words else 'no word from it'}")
        time.sleep(_STEP_S)


def first_pid(groups: cgroups.Groups, name: str) -> int | None:
    """A device's first process, which is its ssh server, by this machine's numbers; None while it is not up."""
    for pid in cgroups.members(groups, name):
        with contextlib.suppress(OSError):
            numbers = _status(pid)
            if len(numbers["NSpid"]) == 3 and numbers["NSpid"][-1] == "1" and numbers["Name"] == ["sshd"]:
                return pid
    return None


def _status(pid: int) -> Mapping[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {key: values.split() for key, _, values in (line.partition(":") for line in lines)}


def _script(lab: state.State, name: str) -> list[str]:
    """What a device's first process does before it becomes the ssh server."""
    place, stage = state.folder(lab.name), _stage(lab, name)
    run = f"{stage}/run"
    copies = [(KEY + ".pub", "home/.ssh/authorized_keys"), ("bashrc", "home/.bashrc"), ("bashrc", "home/.bash_profile")]
    copies += [(file, f"lab/{file}") for file in (HOST_KEY, "sshd_config", "hosts", "passwd", "shadow")]
    return [
        _tmpfs(stage, "700"),
        f"mkdir {run}",
        _tmpfs(run, "755", lab.device(name).memory_bytes),
        f"mkdir -p -m 755 {run}/sshd {run}/lock {run}/lab",
        f"mkdir -p -m 700 {run}/home {run}/home/.ssh",
        *(f"cp {shlex.quote(str(place / source))} {run}/{target}" for source, target in copies),
        *(f"mount --bind {run}/lab/{file} /etc/{file}" for file in ("passwd", "shadow", "hosts")),
        *_put_aside(lab, stage),
        _tmpfs("/tmp", "1777", lab.device(name).memory_bytes),
        _tmpfs("/dev/shm", "1777", _SHM_BYTES),
        *_put_back(lab, stage),
        *(f"mount --bind {shlex.quote(str(what))} {where}" for what, where in lab.cgroups.mounts(name)),
        f"mount --bind {run} /run",
        f"echo {name} > /proc/sys/kernel/hostname",
        "ip link set lo up",
        "cd /",
        f"exec {shell.path('sshd')} -D -e -f /run/lab/sshd_config",
    ]


def _stage(lab: state.State, name: str) -> str:
    """An empty folder on which a mount namespace builds what it is to see."""
    place = state.folder(lab.name) / f"stage-{name}"
    place.mkdir(exist_ok=True)
    return str(place)


def _tmpfs(where: str, mode: str, size_bytes: int | None = None) -> str:
    size = f",size={size_bytes}" if size_bytes else ""
    return f"mount -t tmpfs -o mode={mode}{size} mdi-exit-lab {where}"


def _put_aside(lab: state.State, stage: str) -> list[str]:
    """Mount the kept folders where they stay in sight while something is mounted over them."""
    words = []
    for i, folder in enumerate(lab.kept):
        words += [f"mkdir {stage}/{i}", f"mount --bind {shlex.quote(folder)} {stage}/{i}"]
    return words


def _put_back(lab: state.State, stage: str) -> list[str]:
    words = []
    for i, folder in enumerate(lab.kept):
        quoted = shlex.quote(folder)
        words += [f"mkdir -p {quoted}", f"mount --bind {stage}/{i} {quoted}"]
    return words
