"""Transmission decisions of an experiment: the exit rule, what its file may say, and a simulation of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mdi_exit import policies
from mdi_exit.channel import CLEAN_DB, Channel, identity_over
from mdi_exit.cli.remarks import remarks
from mdi_exit.cli.virtual import Network
from mdi_exit.config import Experiment
from mdi_exit.config.exits import noises, noisy_way
from mdi_exit.config.load import load_experiment
from mdi_exit.core.types import ExitReading, Task
from mdi_exit.core.views import ExitDecision
from mdi_exit.errors import UserError
from mdi_exit.policies.over_channel import TransmissionExit
from mdi_exit.policies.transmission import (
    AlwaysTransmit,
    ConfidenceTransmission,
    LearnedTransmission,
    NeverTransmit,
    RandomTransmission,
    SnrThreshold,
)
from mdi_exit.report import build_report
from mdi_exit.simulation.run import simulate
from mdi_exit.trace import TraceError

EXAMPLE = "noisy-channel"


def decided(policy: TransmissionExit, k: int, confidence: float = 0.5, data_id: int = 0) -> ExitDecision:
    view: Any = None  # which the rule does not look at
    return policy.decide(Task(data_id, 0, k, 10), ExitReading(confidence, 0, 0.5), view)


def example(**settings: Any) -> Experiment:
    return load_experiment(EXAMPLE, {key.replace("__", "."): value for key, value in settings.items()})


def test_only_at_the_cut_a_device_answers_or_transmits() -> None:
    for policy, at_cut in ((AlwaysTransmit(), ExitDecision.OFFLOAD), (NeverTransmit(), ExitDecision.LEAVE)):
        exits = [decided(TransmissionExit(policy, cut=2), k) for k in (1, 2, 3, 4)]
        assert exits == [ExitDecision.GO_ON, at_cut, ExitDecision.GO_ON, ExitDecision.GO_ON]


def test_the_rule_decides_by_the_snr_it_knows() -> None:
    aware = SnrThreshold((-10.0, 10.0), (0.0, 1.0))
    assert decided(TransmissionExit(aware, 1, -8.0), 1) is ExitDecision.LEAVE
    assert decided(TransmissionExit(aware, 1, 8.0), 1) is ExitDecision.OFFLOAD


def test_a_random_decision_is_the_datum_s_whoever_asks() -> None:
    policy = TransmissionExit(RandomTransmission(0.5), 1)
    first = [decided(policy, 1, data_id=d) for d in range(200)]
    assert first == [decided(policy, 1, data_id=d) for d in range(200)]
    assert 60 < first.count(ExitDecision.OFFLOAD) < 140
    other: Any = [example(seed=seed, exit={"rule": "transmission", "decision": "random"}).exit for seed in (1, 2)]
    assert [decided(other[0], 2, data_id=d) for d in range(50)] != [decided(other[1], 2, data_id=d) for d in range(50)]


def test_the_shipped_example_knows_its_link_s_snr() -> None:
    experiment = example()
    assert isinstance(experiment.exit, TransmissionExit) and isinstance(experiment.exit.decision, SnrThreshold)
    assert noises(experiment.topology) == [Channel(5.0)] and experiment.exit.known_db == 5.0
    assert experiment.exit.cut == 2 and experiment.policy_names()["exit"] == "transmission"
    louder = example(links__snr_db=-10, links__fading="rayleigh")
    assert noises(louder.topology) == [Channel(-10.0, "rayleigh")]
    assert isinstance(louder.exit, TransmissionExit) and louder.exit.known_db == -10.0
    quiet = load_experiment(None, {"model": "mobilenetv2-cifar10-analog", "exit": {"rule": "transmission"}})
    assert isinstance(quiet.exit, TransmissionExit) and quiet.exit.known_db == CLEAN_DB
    assert quiet.exit.decision == ConfidenceTransmission(0.8)


def test_every_named_decision_can_be_asked_for(tmp_path: Path) -> None:
    weights = {"hidden": [[0.1] * 15, [0.2] * 15], "output": [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]}
    (tmp_path / "decider.json").write_text(json.dumps(weights))
    asked: dict[str, Any] = {
        "always": "always",
        "never": {"rule": "never"},
        "random": {"rule": "random", "share": 0.25},
        "confidence": {"rule": "confidence", "threshold": 0.7},
        "entropy": {"rule": "entropy", "threshold": 1},
        "snr_threshold": {"rule": "snr_threshold", "snr_db": [0, 10], "thresholds": [0.1, 0.9]},
        "learned": {"rule": "learned", "file": str(tmp_path / "decider.json"), "price": 0.02},
    }
    assert set(asked) == set(policies.TRANSMISSION)
    for name, decision in asked.items():
        rule = example(exit={"rule": "transmission", "decision": decision}).exit
        assert isinstance(rule, TransmissionExit) and type(rule.decision) is policies.TRANSMISSION[name]
        if isinstance(rule.decision, ConfidenceTransmission):
            assert rule.decision.threshold == 0.7
        if isinstance(rule.decision, LearnedTransmission):
            assert rule.decision.price == 0.02 and rule.decision.hidden[1] == (0.2,) * 15
        json.dumps(example(exit={"rule": "transmission", "decision": decision}).plain())


@pytest.mark.parametrize(("settings", "message"), [
    ({"exit.cut": 5}, r"exit\.cut: is 5; allowed: 1 to 4, an exit before the last"),
    ({"exit.treshold": 1}, "unknown key 'treshold'"),
    ({"exit.decision": {"rule": "genie"}}, r"exit\.decision\.rule: unknown rule 'genie'"),
    ({"exit.decision": {"rule": "confidence", "threshold": 2}}, r"exit\.decision\.threshold"),
    ({"exit.decision": {"rule": "learned", "file": "/nowhere.json"}}, "decider.json"),
    ({"exit.decision": {"rule": "learned"}}, "hidden"),
    ({"links.snr_db": 99}, "snr_db"),
    ({"links.fading": "rice"}, "allowed: none, rayleigh"),
    ({"model": "mobilenetv2-cifar10"}, "the model has no analog link"),
])  # fmt: skip
def test_a_mistake_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        load_experiment(EXAMPLE, settings)
    assert "\n" not in str(refused.value)


def test_links_of_several_snrs_are_refused_by_a_rule_that_knows_one(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(
        "source: a\nworkers: [a, b, c]\nlinks:\n  - {between: [a, b], snr_db: 3}\n  - {between: [a, c], snr_db: 9}\n"
    )
    settings = {"topology": str(tmp_path / "two.yaml"), "placement": "all", "devices": "jetson-nano"}
    with pytest.raises(UserError, match=r"the links have several: 3 dB none, 9 dB none; allowed: the same"):
        load_experiment(EXAMPLE, settings)


def test_noise_that_nothing_would_hear_is_refused() -> None:
    with pytest.raises(UserError, match="placement: the model's analog link is after segment 2, and nobody hands on"):
        example(placement={"n1": "1-3", "n2": "4-5"})


def test_a_code_that_may_cross_two_noisy_links_is_simulated_by_no_trace(tmp_path: Path) -> None:
    graph = tmp_path / "graph.yaml"
    graph.write_text("source: a\nworkers: [a, b, c]\nlinks: [[a, b], [b, c], [a, c]]\n")
    placed = {"topology": str(graph), "placement": {"a": "1-2", "b": "3-5", "c": "3-5"}, "devices": "jetson-nano"}
    assert Network.of(load_experiment(EXAMPLE, placed), None).trace, "whoever can decode it keeps it"
    with pytest.raises(TraceError, match=r"may cross two noisy links \(a, b, c\), and a trace is of one; allowed: "):
        Network.of(load_experiment(EXAMPLE, {**placed, "offloading": "backpressure"}), None)
    graph.write_text("source: a\nworkers: [a, b, c]\nlinks: [[a, b], [b, c]]\n")
    placed["placement"] = {"a": "1-2", "b": "1-2", "c": "3-5"}
    with pytest.raises(TraceError, match=r"may cross two noisy links \(a, b, c\)"):
        Network.of(load_experiment(EXAMPLE, placed), None)


@pytest.mark.parametrize(
    ("noisy", "placement", "offloading", "way"),
    [
        ("ab cd", {"a": "1-2", "b": "1-2", "c": "1-2", "d": "3-5"}, "by_exit", "abcd"),
        ("bc cd", {"a": "1-2", "b": "3-5", "c": "3-5", "d": "3-5"}, "backpressure", "abcb"),
    ],
)
def test_noisy_links_are_counted_along_the_whole_way(
    tmp_path: Path, noisy: str, placement: dict[str, str], offloading: str, way: str
) -> None:
    graph, links = tmp_path / "graph.yaml", []
    for pair in ("ab", "bc", "cd"):
        links.append(f"  - {{between: [{pair[0]}, {pair[1]}]{', snr_db: 5' if pair in noisy else ''}}}\n")
    graph.write_text("source: a\nworkers: [a, b, c, d]\nlinks:\n" + "".join(links))
    placed = {"topology": str(graph), "placement": placement, "devices": "jetson-nano"}
    experiment = load_experiment(EXAMPLE, {**placed, "offloading": offloading, "links": {}})
    assert noisy_way(experiment, 2) == tuple(way)


def test_a_simulation_takes_a_trace_recorded_at_the_links_snr() -> None:
    experiment = example(duration_s=20.0)
    network = Network.of(experiment, None)
    assert network.trace.card == network.card.identity + identity_over(Channel(5.0))
    record = simulate(experiment, network.card, network.trace)
    report = build_report(experiment, record.card, record.tallies, record.facts, "test", "simulation")
    assert report["completed"] == report["offered"] > 300 and report["lost"] == 0
    before, first, *between, last = report["exits"]
    told = remarks(report)
    assert "Analog link, SNR 5 dB: n1-n2" in told
    assert f"Transmitted to the far side: {100 * last / (first + last):.1f} % of what was answered" in told
    assert first > 0 and last > 0 and before == sum(between) == 0
    rule = experiment.exit
    assert isinstance(rule, TransmissionExit) and isinstance(rule.decision, SnrThreshold)
    stays = network.trace.confidence[:, 1] >= rule.decision.threshold(5.0)
    assert first / report["completed"] == pytest.approx(float(stays.mean()), abs=0.06)
    with pytest.raises(
        TraceError, match=r"recorded over 5 dB, the links have 10 dB, rayleigh; .* --snr-db 10 --fading rayleigh"
    ):
        Network.of(example(links__snr_db=10, links__fading="rayleigh"), None)
