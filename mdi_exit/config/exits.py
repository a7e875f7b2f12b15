"""The exit policy of an experiment, and what it has to fit: the slices, the network, the noise of analog links."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdi_exit import policies
from mdi_exit.channel import CLEAN_DB, Channel
from mdi_exit.config import schema
from mdi_exit.config.experiment import Experiment
from mdi_exit.jsonfile import FileError, read_json
from mdi_exit.models.card import ModelConfig
from mdi_exit.policies.exit import CalibratedOffloading
from mdi_exit.policies.learned import LearnedExit
from mdi_exit.policies.offloading import NeverOffload, OffloadByExit
from mdi_exit.policies.over_channel import TransmissionExit
from mdi_exit.topology import Topology, routes
from mdi_exit.yamlfile import Place, describe, refusal

RULE = "transmission"
_KEYS = ("rule", "decision", "cut")


def exit_policy(
    spec: schema.ExperimentSpec,
    topology: Topology,
    hosted: Mapping[str, tuple[int, ...]],
    model: ModelConfig,
    place: Place,
    base: Path,
) -> Any:
    """The exit policy of an experiment whose paths are relative to the folder `base`. Raises ConfigError.

    One that cuts the network where it likes needs a device and a server that let it.
    """
    where, source, exits = place.at("exit"), topology.source, model.exits
    if spec.exit == RULE or (isinstance(spec.exit, Mapping) and spec.exit.get("rule") == RULE):
        value = {"rule": RULE} if spec.exit == RULE else spec.exit
        return dataclasses.replace(_transmission(value, topology, model, where, base), seed=spec.seed)
    policy = schema.of(policies.EXIT, spec, "exit", place)
    if isinstance(policy, CalibratedOffloading) and policy.edge >= exits:
        raise where.at("edge").refuse(f"is {policy.edge}", f"1 to {exits - 1}, an exit before the last")
    if not isinstance(policy, LearnedExit):
        return policy
    try:
        policy.begin(exits)
    except ValueError as error:
        raise refusal(type(policy), {}, where, str(error)) from error
    rule = schema.of(policies.OFFLOADING, spec, "offloading", place)
    if not isinstance(rule, OffloadByExit):
        raise place.at("offloading").refuse("would move the cut that the exit rule learns", "by_exit")
    rest = set(range(2, exits + 1))
    servers = [name for name, slice_ in hosted.items() if name != source and rest <= set(slice_)]
    if len(hosted[source]) < exits or not servers:
        what = f"the exit rule cuts anywhere, so {source} must host all and another worker segments 2 to {exits}"
        raise place.at("placement").refuse(what, "all")
    return policy


def noises(topology: Topology) -> list[Channel]:
    """The different noises of a topology's links."""
    return list(dict.fromkeys(noise for link in topology.links if (noise := link.shape.noise) is not None))


def noisy_way(experiment: Experiment, cut: int) -> tuple[str, ...]:
    """A way by which the code of an analog link after segment `cut` may cross two noisy links; () if there is none."""
    topology, hosted = experiment.topology, experiment.hosted
    known = routes(topology, hosted, experiment.exits, topology.workers, 0)
    keeps = isinstance(experiment.offloading, OffloadByExit | NeverOffload)  # what it hosts itself
    ways: list[tuple[tuple[str, ...], int]] = [((name,), 0) for name in topology.workers if cut in hosted[name]]
    seen = {(way[-1], crossed) for way, crossed in ways}
    for way, crossed in ways:  # grows while it is gone through; each worker is in it twice at most
        if len(way) > 1 and keeps and cut + 1 in hosted[way[-1]]:
            continue
        for other in known[way[-1]].toward_segment[cut]:
            link = topology.carrier(way[-1], other)
            noisy = crossed + (link is not None and link.shape.noise is not None)
            if noisy > 1:
                return (*way, other)
            if (other, noisy) not in seen:
                seen.add((other, noisy))
                ways.append(((*way, other), noisy))
    return ()


def check_noise(topology: Topology, hosted: Mapping[str, tuple[int, ...]], model: ModelConfig, place: Place) -> None:
    """Refuse noise that nothing would ever hear. Raises ConfigError."""
    if not noises(topology):
        return
    if model.analog is None:
        what = "a link has an SNR, but the model has no analog link, so that all it sends is digital"
        raise place.refuse(what, "no snr_db, or such a model: mobilenetv2-cifar10-analog")
    cut = model.analog.cut
    if not any(cut in hosted[a] and cut + 1 in hosted[b] for a in hosted for b in hosted if a != b):
        what = f"the model's analog link is after segment {cut}, and nobody hands on what is cut there"
        raise place.at("placement").refuse(what, f"one worker with segment {cut}, another with segment {cut + 1}")


def _transmission(
    value: Mapping[str, Any], topology: Topology, model: ModelConfig, place: Place, base: Path
) -> TransmissionExit:
    """The exit rule `{rule: transmission, decision: {rule: ..., ...}, cut: 1}`; the SNR it knows is the links'.

    A learned decision may name a `file` with its weights, relative to the folder `base`. Raises ConfigError.
    """
    if unknown := [key for key in value if key not in _KEYS]:
        raise place.unknown("key", unknown[0], _KEYS)
    usual = model.analog.cut if model.analog is not None else 1
    cut = value.get("cut", usual)
    if type(cut) is not int or not 1 <= cut < model.exits:
        raise place.at("cut").refuse(f"is {describe(cut)}", f"1 to {model.exits - 1}, an exit before the last")
    decision = value.get("decision", "confidence")
    where = place.at("decision")
    if isinstance(decision, Mapping) and "file" in decision:
        decision = {**_weights(base / str(decision["file"]), where.at("file")), **decision}
        del decision["file"]
    rule = schema.policy(policies.TRANSMISSION, decision, where)
    found = noises(topology)
    if len(found) > 1:
        several = ", ".join(f"{each.snr_db:g} dB {each.fading}" for each in found)
        raise place.refuse(f"the rule knows one SNR, the links have several: {several}", "the same for all links")
    return TransmissionExit(rule, cut, found[0].snr_db if found else CLEAN_DB)


def _weights(path: Path, place: Place) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileError as error:
        raise place.refuse(str(error), "what benchmarks/noisy_channel.py wrote as decider.json") from error
    if not isinstance(content, Mapping):
        raise place.refuse(f"{path} holds {describe(content)}", "hidden and output, lists of rows")
    return {
        key: tuple(tuple(row) if isinstance(row, list) else row for row in rows) if isinstance(rows, list) else rows
        for key, rows in content.items()
    }
