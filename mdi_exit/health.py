"""Whether machines are fit to be a cluster: surveys and measurements in, findings out, each with its remedy.

Pure: it judges what `survey` and `runtime.examine` found out. A "bad" finding means that a run will fail or be wrong,
a "warn" that it may; the rest is "fine".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Survey = Mapping[str, Any]  # of survey.survey
Verdict = Literal["fine", "warn", "bad"]

PYTHON_MIN = (3, 10)
GLIBC_MIN = (2, 28)  # what PyPI's torch since 2.6 and ONNX Runtime are built for
SAME = ("ray", "mdi-exit")  # Ray refuses or misunderstands another version of itself; our frames have one version
ALIKE = ("torch", "onnxruntime", "numpy", "pyzmq", "msgpack")  # answers may differ in the last digits
NEEDED = ("ray", "onnxruntime", "numpy", "pyzmq", "msgpack", "mdi-exit")  # torch: to export, and for its backend
AVAILABLE_MIN_BYTES, AVAILABLE_LOW_BYTES = 300_000_000, 700_000_000  # a Ray node takes 170 MB, a worker about 150
DISK_MIN_BYTES, DISK_LOW_BYTES = 200_000_000, 1_000_000_000
CLOCK_WARN_S, CLOCK_BAD_S = 0.1, 2.0  # series of nodes are laid over each other; deadlines are counted at the source
_CORTEX_A57 = "0xd07"
_VIRTUAL = ("docker", "br-", "veth", "virbr", "cni", "flannel", "tun", "tap")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    where: str  # a machine, or several as a -> b
    about: str
    verdict: Verdict
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """What came of connecting from one machine to another."""

    a: str
    b: str
    host: str
    port: int
    round_trip_s: float | None  # None: it did not answer
    why: str = ""


def fit(findings: Sequence[Finding]) -> bool:
    """Whether nothing is bad."""
    return all(found.verdict != "bad" for found in findings)


def judge(surveys: Mapping[str, Survey], chosen: Mapping[str, str] | None = None) -> list[Finding]:
    """Judge machines, each for itself and beside the first one; `chosen`: the address that Ray uses for each."""
    findings: list[Finding] = []
    first = next(iter(surveys), "")
    for name, facts in surveys.items():
        findings += _versions(name, facts)
        if name != first:
            findings += _beside(name, facts, first, surveys[first])
        findings += _processor(name, facts)
        findings += _room(name, facts)
        findings += _token(name, facts, first, surveys[first], len(surveys) > 1)
        findings += _network(name, facts, (chosen or {}).get(name))
    return findings


def judge_clock(name: str, offset_s: float, error_s: float) -> Finding:
    """A clock beside ours: how far ahead it is, give or take."""
    apart_s = max(0.0, abs(offset_s) - error_s)
    verdict: Verdict = "bad" if apart_s > CLOCK_BAD_S else "warn" if apart_s > CLOCK_WARN_S else "fine"
    what = f"{1000 * offset_s:+.0f} ms beside this machine, give or take {1000 * error_s:.0f} ms"
    return Finding(
        name, "clock", verdict, what, "" if verdict == "fine" else "sudo timedatectl set-ntp true, or chrony"
    )


def judge_way(way: Way) -> Finding:
    """A connection between two machines on the ports that workers use."""
    where = f"{way.a} -> {way.b}"
    if way.round_trip_s is None:
        remedy = f"open port {way.port} on {way.b} for {way.a} (ufw, firewalld), or name another with port_base"
        return Finding(where, "port", "bad", f"{way.host}:{way.port} does not answer ({way.why})", remedy)
    return Finding(where, "port", "fine", f"{way.host}:{way.port} answers in {1000 * way.round_trip_s:.1f} ms")


def judge_ray(surveys: Mapping[str, Survey], file: str) -> list[Finding]:
    """Whether Ray runs on the machines of a cluster file; before `ray up` it need not, so that is a warning at most."""
    runs = {name: facts["ray_runs"] for name, facts in surveys.items() if facts["ray_runs"] is not None}
    if runs and not any(runs.values()):
        return [Finding(", ".join(runs), "ray", "warn", "Ray does not run", f"start it: ray up {file}")]
    remedy = (
        f"it joins minutes after the head; if it does not, see what it said then, and start all anew: ray up {file}"
    )
    return [
        Finding(name, "ray", "fine", "runs") if is_up else Finding(name, "ray", "warn", "Ray does not run here", remedy)
        for name, is_up in runs.items()
    ]


# ---- one machine


def _versions(name: str, facts: Survey) -> Iterator[Finding]:
    python, packages = facts["python"], facts["packages"]
    if _numbers(python) < PYTHON_MIN:
        yield Finding(name, "python", "bad", f"{python} is too old", "Python 3.10 or newer, the same on all machines")
    else:
        yield Finding(name, "python", "fine", python)
    missing = [package for package in NEEDED if packages.get(package) is None]
    if missing:
        remedy = "pip install -c constraints.txt ., from the same checkout on all machines"
        yield Finding(name, "packages", "bad", f"{', '.join(missing)} not installed in {facts['executable']}", remedy)
    else:
        yield Finding(name, "packages", "fine", ", ".join(f"{p} {v}" for p, v in packages.items() if v))
    if packages.get("torch") is None:
        yield Finding(name, "packages", "warn", "torch is not installed: fine for a device, not for the head",
                      "on the machine where you call mdi-exit run: pip install -c constraints.txt torch")  # fmt: skip
    for package, why in facts["imports"].items():
        if why is not None:
            yield Finding(name, "packages", "bad", f"{package} cannot be imported: {why}", _import_remedy(why))


def _import_remedy(why: str) -> str:
    if "illegal instruction" in why:
        return "export OPENBLAS_CORETYPE=ARMV8 before Python starts; if it stays, a wheel built for this processor"
    if "GLIBC" in why:
        return "an older wheel of it, or a newer system: this glibc is older than the wheel's"
    return "install it again: pip install --force-reinstall -c constraints.txt PACKAGE"


def _beside(name: str, facts: Survey, first: str, other: Survey) -> Iterator[Finding]:
    if facts["python"] != other["python"]:
        yield Finding(name, "python", "bad", f"{facts['python']}, but {other['python']} on {first}",
                      f"Python {other['python']} on {name}: Ray wants the same patch version everywhere")  # fmt: skip
    for package in (*SAME, *ALIKE):
        mine, theirs = facts["packages"].get(package), other["packages"].get(package)
        if mine is None or theirs is None or _public(mine) == _public(theirs):
            continue
        verdict: Verdict = "bad" if package in SAME else "warn"
        what = f"{package} {mine}, but {theirs} on {first}"
        yield Finding(name, "packages", verdict, what, f"on {name}: pip install {package}=={_public(theirs)}")


def _processor(name: str, facts: Survey) -> Iterator[Finding]:
    machine, glibc = facts["machine"], facts["glibc"]
    flags = f" with {', '.join(facts['flags'])}" if facts["flags"] else ""
    if facts["cpu_part"] == _CORTEX_A57 and facts["openblas_coretype"] is None:
        yield Finding(name, "processor", "warn", "Cortex-A57: numpy may end with an illegal instruction",
                      "export OPENBLAS_CORETYPE=ARMV8 where Ray is started")  # fmt: skip
    else:
        yield Finding(name, "processor", "fine", f"{machine}{flags}")
    if machine == "x86_64" and "avx2" not in facts["flags"]:
        yield Finding(name, "processor", "warn", "no AVX2: several times slower than other x86_64", "a newer processor")
    if glibc is None:
        yield Finding(name, "glibc", "warn", "none: wheels of PyPI are not for this system (musl?)", "a glibc system")
    elif _numbers(glibc) < GLIBC_MIN:
        yield Finding(name, "glibc", "warn", f"{glibc} is older than the newest wheels are for",
                      "torch 2.5.1 is the last for glibc 2.27; or a newer system")  # fmt: skip
    else:
        yield Finding(name, "glibc", "fine", glibc)


def _room(name: str, facts: Survey) -> Iterator[Finding]:
    free = facts["available_bytes"]
    if free is not None:
        low = "stop other programs, add swap (zram), or give it a smaller slice: mdi-exit plan --memory-max"
        yield _amount(name, "memory", free, AVAILABLE_MIN_BYTES, AVAILABLE_LOW_BYTES, "available", low)
    for place, left in facts["disk_bytes"].items():
        if left is not None:
            yield _amount(
                name, "disk", left, DISK_MIN_BYTES, DISK_LOW_BYTES, f"free in {place}", f"free space in {place}"
            )


def _amount(name: str, about: str, amount: int, least: int, low: int, what: str, remedy: str) -> Finding:
    verdict: Verdict = "bad" if amount < least else "warn" if amount < low else "fine"
    wanted = f", {low / 1e9:.1f} wanted" if verdict != "fine" else ""
    return Finding(name, about, verdict, f"{amount / 1e9:.1f} GB {what}{wanted}", "" if verdict == "fine" else remedy)


def _token(name: str, facts: Survey, first: str, other: Survey, several: bool) -> Iterator[Finding]:
    if facts["token_readable_by_others"]:
        yield Finding(name, "token", "warn", "~/.ray/auth_token can be read by others", "chmod 600 ~/.ray/auth_token")
    if facts["auth_mode"] not in (None, "token"):
        what = f"RAY_AUTH_MODE is {facts['auth_mode']}: whoever reaches Ray's ports can run code there"
        yield Finding(name, "token", "warn", what, "export RAY_AUTH_MODE=token on every machine")
    elif facts["token"] is None:
        remedy = "ray get-auth-token --generate, and copy ~/.ray/auth_token to every machine"
        what = "no token: only a cluster of this machine's own can be started"
        yield Finding(name, "token", "bad" if several else "warn", what, remedy)
    elif several and facts["token"] != other["token"] and other["token"] is not None:
        remedy = f"copy ~/.ray/auth_token of {first} to {name}"
        yield Finding(name, "token", "bad", f"another token than on {first}", remedy)
    else:
        yield Finding(name, "token", "fine", f"there (hash {facts['token']})")


def _network(name: str, facts: Survey, chosen: str | None) -> Iterator[Finding]:
    interfaces: Mapping[str, str] = facts["addresses"]
    if chosen is None:
        outside = {i: a for i, a in interfaces.items() if not a.startswith("127.")}
        real = [f"{a} ({i})" for i, a in outside.items() if not i.startswith(_VIRTUAL)]
        what = ", ".join(real) or "no address but the loopback's: alone, until it is on a network"
        yield Finding(name, "network", "fine" if real else "warn", what, "" if real else "connect it, or use it alone")
        return
    interface = next((i for i, a in interfaces.items() if a == chosen), None)
    remedy = f"ray start ... --node-ip-address=ADDRESS with one of {', '.join(interfaces.values())}"
    if interface is None:
        yield Finding(name, "network", "bad", f"Ray uses {chosen}, which is no address of this machine", remedy)
    elif interface.startswith(_VIRTUAL):
        what = f"Ray uses {chosen} of {interface}, which other machines seldom reach"
        yield Finding(name, "network", "warn", what, remedy)
    else:
        yield Finding(name, "network", "fine", f"{chosen} ({interface})")


def _numbers(version: str) -> tuple[float, ...]:
    found = re.findall(r"\d+", version)[:2]
    return tuple(map(int, found)) if found else (math.inf,)


def _public(version: str) -> str:
    """Without the local part: 2.13.0 for 2.13.0+cpu."""
    return version.partition("+")[0]
