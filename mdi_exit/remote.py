"""Devices of a ray_cluster.yaml over ssh: what they are like before, or although, Ray does not run on them.

`survey` is piped into the Python that `mdi-exit` (or `ray`) of a login shell there runs in, so that nothing has to be
copied. As Ray does, keys of hosts are not checked: nothing secret is sent.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdi_exit import survey as surveying
from mdi_exit.errors import UserError
from mdi_exit.health import Finding
from mdi_exit.yamlfile import Place, describe, read_mapping

TOKEN = "~/.ray/auth_token"
_RAY_PORT, _LISTENS_WITHIN_S = 6379, 5.0
_CONNECT_S, _WITHIN_S = 10, 300  # the second for imports from a slow card
_AT_ONCE_MAX = 16
_PYTHON = (
    'p=$(command -v mdi-exit || command -v ray); i=$(head -n1 "$p" 2>/dev/null | cut -c3-); '
    '[ -x "$i" ] || i=python3; exec "$i" -'
)
# What ssh or the shell there says, what that means, and what helps. Of a key that is not there ssh says so in any case,
# also when what keeps us out is another thing.
_SAID = (
    ("timed out", "no answer", "is it on, in this network, and is the address right?"),
    ("no route to host", "no answer", "is it on, in this network, and is the address right?"),
    ("network is unreachable", "no answer", "is this machine on the same network?"),
    ("connection refused", "no ssh server answers", "on {host}: sudo apt install openssh-server"),
    ("could not resolve", "no such name", "head_ip and worker_ips: addresses that this machine knows"),
    ("not accessible", "the key {key} cannot be read", "ssh_private_key under auth: the path of a key that is there"),
    ("permission denied", "ssh does not let us in", "ssh-copy-id -i {key} {user}@{host}, and the same key under auth"),
    ("syntaxerror", "its Python is too old", "Python 3.10 or newer there, the same as on the head"),
    ("not found", "no Python there", "python3 and mdi-exit on {host}, within the PATH of a login shell"),
)


@dataclass(frozen=True, slots=True)
class Devices:
    """What a ray_cluster.yaml says of its machines, the head first."""

    name: str
    hosts: tuple[str, ...]
    user: str
    key: str | None
    mounts: Mapping[str, str]  # what ray up copies: where to, from where

    @property
    def brings_token(self) -> bool:
        """Whether ray up copies the token, so that machines need not have one before."""
        return TOKEN in self.mounts


def devices_of(file: Path) -> Devices:
    """Read a ray_cluster.yaml with provider `local`. Raises ConfigError."""
    content, place = read_mapping(file), Place(str(file))
    provider, auth = _mapping(content, "provider", place), _mapping(content, "auth", place)
    if provider.get("type") != "local":
        raise place.at("provider", "type").refuse(f"is {describe(provider.get('type'))}", "local")
    head, workers = provider.get("head_ip"), provider.get("worker_ips")
    if not isinstance(head, str):
        raise place.at("provider", "head_ip").refuse(f"is {describe(head)}", "the head's address")
    if not isinstance(workers, tuple) or not all(isinstance(worker, str) for worker in workers):
        raise place.at("provider", "worker_ips").refuse(f"is {describe(workers)}", "a list of addresses")
    user, key = auth.get("ssh_user"), auth.get("ssh_private_key")
    if not isinstance(user, str):
        raise place.at("auth", "ssh_user").refuse(f"is {describe(user)}", "a user's name on those machines")
    if not (key is None or isinstance(key, str)):
        raise place.at("auth", "ssh_private_key").refuse(f"is {describe(key)}", "the path of a key, or nothing")
    named = content.get("cluster_name", "default")
    mounts = content.get("file_mounts") or {}
    if not isinstance(mounts, Mapping) or not all(isinstance(path, str) for path in mounts.values()):
        raise place.at("file_mounts").refuse(f"is {describe(mounts)}", "a mapping, where to: from where")
    return Devices(str(named), (head, *workers), user, key and str(Path(key).expanduser()), mounts)


def look_here(devices: Devices, state: Path) -> list[Finding]:
    """What on this machine keeps `ray up` from its work: a file that it shall copy, its own state in folder `state`.

    Provider `local` writes down there what it started. After a crash, or a power cut of the devices, that is not so any
    more, and Ray then waits for machines that it takes for running.
    """
    found = []
    for name in devices.mounts.values():
        if not Path(name).expanduser().exists():
            remedy = "ray get-auth-token --generate" if name == TOKEN else f"file_mounts: what is there, not {name}"
            found.append(Finding("here", "file_mounts", "bad", f"no {name}, which ray up is to copy", remedy))
    file = state / f"cluster-{devices.name}.state"
    try:
        nodes = json.loads(file.read_text(encoding="utf-8"))
        runs = any(node.get("state") == "running" for node in nodes.values())
    except FileNotFoundError:
        return found
    except (OSError, ValueError, AttributeError):
        return [*found, Finding("here", "state", "bad", f"{file} cannot be understood", f"rm {file}")]
    if runs and not _listens(devices.hosts[0], _RAY_PORT):
        what = f"{file} says that the cluster runs, and its head does not answer"
        found.append(Finding("here", "state", "bad", what, f"rm {file}, then ray up again"))
    return found


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _LISTENS_WITHIN_S).close()
    except OSError:
        return False
    return True


def survey_devices(devices: Devices) -> dict[str, Mapping[str, Any] | Finding]:
    """The survey of each machine, or what kept us from it. Raises UserError without an ssh program."""
    with ThreadPoolExecutor(_AT_ONCE_MAX) as pool:
        return dict(zip(devices.hosts, pool.map(lambda host: _survey(devices, host), devices.hosts), strict=True))


def _survey(devices: Devices, host: str) -> Mapping[str, Any] | Finding:
    options = ["BatchMode=yes", f"ConnectTimeout={_CONNECT_S}", "StrictHostKeyChecking=no", "LogLevel=ERROR"]
    options.append("UserKnownHostsFile=/dev/null")
    command = ["ssh", *(word for option in options for word in ("-o", option))]
    command += [*(["-i", devices.key] if devices.key else []), f"{devices.user}@{host}", f"bash --login -c '{_PYTHON}'"]
    script = Path(surveying.__file__).read_text(encoding="utf-8")
    try:
        done = subprocess.run(
            command, input=script, capture_output=True, text=True, errors="replace", timeout=_WITHIN_S, check=False
        )
    except FileNotFoundError as error:
        raise UserError("ssh is not installed here; allowed: sudo apt install openssh-client rsync") from error
    except subprocess.TimeoutExpired:
        return Finding(host, "ssh", "bad", f"no answer within {_WITHIN_S} s", f"is {host} overloaded? look at it: top")
    try:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        return trouble(devices, host, f"{done.stderr}\n{done.stdout}")


def trouble(devices: Devices, host: str, said: str) -> Finding:
    """What it means that a machine said this in a survey's stead."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1][:200] if lines else "nothing"
    words = {"key": devices.key or "KEY", "user": devices.user, "host": host}
    for part, what, remedy in _SAID:
        if part in said.lower():
            return Finding(host, "ssh", "bad", f"{what.format(**words)} ({last})", remedy.format(**words))
    by_hand = f"try it by hand: ssh {devices.user}@{host}"
    return Finding(host, "ssh", "bad", f"no survey came; it said: {last}", by_hand)


def _mapping(content: Mapping[str, Any], key: str, place: Place) -> Mapping[str, Any]:
    value = content.get(key)
    if not isinstance(value, Mapping):
        raise place.at(key).refuse(f"is {describe(value)}", "a mapping, as in the ray_cluster.yaml that is shipped")
    return value
