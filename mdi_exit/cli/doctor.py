"""`doctor`: is this machine, or this cluster, fit for a run, and if not, what helps."""

# typer reads annotations at run time, on Python 3.10 too
# ruff: noqa: UP045

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from mdi_exit.health import Finding

RAY_TOKEN = "export RAY_AUTH_MODE=token on every machine, before Ray starts"
_UNFIT = 1  # the exit status; 2 is a mistake of the user's
_SIGNS = {"fine": "ok", "warn": "warning", "bad": "BAD"}


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("doctor")(doctor)


def doctor(
    address: Annotated[Optional[str], typer.Option(help="Of a running Ray cluster, or auto.")] = None,
    cluster: Annotated[
        Optional[Path], typer.Option(help="A ray_cluster.yaml: look at its machines over ssh, Ray running or not.")
    ] = None,
    port_base: Annotated[
        Optional[int],
        typer.Option(min=1024, max=65535, help="First port of workers, as runtime.port_base."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is wrong with this machine, a running cluster, or the devices of a ray_cluster.yaml, and what helps.

    Looked at: versions, imports, processor, glibc, network address, ports between machines, clocks, token, memory,
    disk, and what devices said when Ray was started. What exactly was found --json says. Exit status 0: fit; 1: not.
    """
    findings: list[Finding] = []
    logs: dict[str, list[str]] = {}
    if cluster is not None:
        findings += _over_ssh(cluster, address, logs)
    if address is not None:
        findings += _within(address, port_base, logs)
    if address is None and cluster is None:
        findings += _here()
    from mdi_exit.health import fit

    is_fit = fit(findings)
    if as_json:
        said = [dataclasses.asdict(found) for found in findings]
        print(json.dumps({"fit": is_fit, "findings": said, "start_logs": logs}, indent=1))
    else:
        _show(findings, logs, is_fit)
    if not is_fit:
        raise typer.Exit(_UNFIT)


def _here() -> list[Finding]:
    from mdi_exit.health import judge
    from mdi_exit.survey import survey

    return judge({"here": survey()})


def _over_ssh(file: Path, address: str | None, logs: dict[str, list[str]]) -> list[Finding]:
    from mdi_exit import resources
    from mdi_exit.errors import UserError
    from mdi_exit.health import Finding, judge, judge_ray
    from mdi_exit.remote import devices_of, look_here, survey_devices
    from mdi_exit.survey import survey

    devices, here = devices_of(file), survey(probe=False)
    print(f"looking at {len(devices.hosts)} machines over ssh ...", file=sys.stderr, flush=True)
    answers = survey_devices(devices)
    surveys: dict[str, Mapping[str, Any]] = {h: f for h, f in answers.items() if not isinstance(f, Finding)}
    if not surveys and devices.hosts == devices_of(resources.ray_cluster_file()).hosts:
        raise UserError(f"{file}: still has the addresses that it is shipped with, and none answers; fill in your own")
    findings = [found for found in answers.values() if isinstance(found, Finding)]
    findings += look_here(devices, Path(os.environ.get("RAY_TMPDIR", "/tmp/ray")))
    programs = "sudo apt install openssh-client rsync"
    if not here["programs"]["rsync"] or not here["programs"]["ssh"]:
        findings.append(Finding("here", "programs", "bad", "ray up needs ssh and rsync", programs))
    for host, facts in surveys.items():
        if not facts["programs"]["rsync"]:
            what = "no rsync, with which ray up copies files"
            findings.append(Finding(host, "programs", "bad", what, f"on {host}: sudo apt install rsync"))
    findings += judge_ray(surveys, str(file))
    if address is None:  # otherwise they are looked at from within, and better
        judged = judge(surveys, {host: host for host in surveys})
        none_yet = {host for host, facts in surveys.items() if facts["token"] is None and devices.brings_token}
        findings += [found for found in judged if found.about != "token" or found.where not in none_yet]
    _keep_logs(surveys, logs)
    return findings


def _within(address: str, port_base: int | None, logs: dict[str, list[str]]) -> list[Finding]:
    from mdi_exit.health import Finding, judge, judge_clock, judge_way
    from mdi_exit.runtime import joined_cluster

    print(f"joining the Ray cluster at {address} ...", file=sys.stderr, flush=True)
    with joined_cluster(address) as joined:
        from mdi_exit.runtime.examine import examine  # only now: it imports Ray

        found = examine(port_base)
        warnings = [Finding(address, "token", "warn", line, RAY_TOKEN) for line in joined.warnings]
    _keep_logs(found.surveys, logs)
    return [
        *found.troubles,
        *warnings,
        *judge(found.surveys, found.chosen),
        *(judge_clock(name, *clock) for name, clock in found.clocks.items()),
        *map(judge_way, found.ways),
    ]


def _keep_logs(surveys: Mapping[str, Mapping[str, Any]], logs: dict[str, list[str]]) -> None:
    logs |= {name: facts["start_log"] for name, facts in surveys.items() if facts["start_log"] is not None}


def _show(findings: list[Finding], logs: dict[str, list[str]], is_fit: bool) -> None:
    from mdi_exit.cli.tables import plain_console

    console, fine = plain_console(width=140), dict[str, list[str]]()
    for found in findings:
        if found.verdict == "fine":
            fine.setdefault(found.where, []).append(found.about)
    for where, abouts in fine.items():
        console.print(f"{_SIGNS['fine']}  {where}: {', '.join(dict.fromkeys(abouts))}", soft_wrap=True)
    for found in findings:
        if found.verdict != "fine":
            line = f"{_SIGNS[found.verdict]}  {found.where}, {found.about}: {found.what}; {found.remedy}"
            console.print(line, soft_wrap=True)
    for name, lines in logs.items():
        console.print(f"\nWhat {name} said when Ray was started (~/ray_start.log):", *lines, sep="\n  ", soft_wrap=True)
    bad = sum(found.verdict == "bad" for found in findings)
    console.print("\nFit for a run." if is_fit else f"\nNot fit: {bad} of {len(findings)} findings are bad.")
