"""Experiment files: what their keys mean, every way in which they can be wrong, and the cores made of them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mdi_exit import assembly, resources
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.config.settings import parse_setting
from mdi_exit.core import effects as fx
from mdi_exit.core.events import AdmissionOpened, RoutesChanged
from mdi_exit.core.types import Limits, WorkerOptions
from mdi_exit.device_file import load_device
from mdi_exit.errors import UserError
from mdi_exit.models.card import Card, ModelConfig
from mdi_exit.policies import ADMISSION, ARRIVALS, EXIT
from mdi_exit.policies.admission import AlwaysAdmit, RateAdaptation
from mdi_exit.policies.arrivals import PoissonArrivals, RecordedArrivals
from mdi_exit.policies.backpressure import DualBackPressure
from mdi_exit.policies.control import FillQueue
from mdi_exit.policies.exit import ThresholdExit
from mdi_exit.policies.offloading import MdiExitOffloading, NeverOffload
from mdi_exit.yamlfile import ConfigError, Place, parse

REPOSITORY = Path(__file__).parent.parent


def write(folder: Path, text: str, name: str = "experiment.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def of(folder: Path, text: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    return load_experiment(write(folder, text), overrides)


# ---- what a file means


def test_everything_defaulted_is_a_valid_run_on_the_bundled_network_and_sample(tmp_path: Path) -> None:
    experiment = load_experiment()
    assert (experiment.name, experiment.file, experiment.seed) == ("default", "", 0)
    assert Path(experiment.model).name == "mobilenetv2-cifar10.safetensors"
    assert (experiment.dataset, experiment.resize) == ("sample", False)
    assert experiment.plain()["resize"] is False
    assert experiment.topology.workers == ("n1",)
    assert experiment.hosted == {"n1": (1, 2, 3, 4, 5)}
    assert experiment.devices == {"n1": None}
    assert experiment.thresholds == (0.8,) * 4
    assert (experiment.exit, experiment.offloading) == (ThresholdExit(), DualBackPressure(kappa=5.0))
    assert (experiment.admission, experiment.arrivals) == (FillQueue(), None)
    assert experiment.worker_options == {"n1": WorkerOptions()}
    assert experiment.limits == Limits()
    empty = of(tmp_path, "# nothing but this\n")
    assert {**empty.plain(), "name": "default", "file": ""} == experiment.plain()


def test_a_file_may_say_everything(tmp_path: Path) -> None:
    experiment = of(
        tmp_path,
        """
        name: all of it
        seed: 7
        topology: line
        placement: {n1: 1-2, n2: [2, 3], n4: 4-5}
        devices: {n1: jetson-nano, n2: {profile: jetson-nano, speed: 2}, n3: null}
        links: {bandwidth: 20 Mbit/s, latency_s: 1e-3, loss: 0.01}
        thresholds: [0.9, 0.8, 0.7, 1]
        exit: {rule: never}
        offloading: {rule: mdi_exit, output_limit: 50, first_task: input, count_itself: true}
        admission: {rule: always, queue_max: 5}
        arrivals: {rule: poisson, rate_per_s: 20}
        worker: {group_max: 4}
        limits: {deadline_s: 5, hops_max: 3}
        duration_s: 12
        drain_s: 0
        data_max: 100
        runtime: {backend: torch, device: auto, encrypt: false, port_base: 6000, journal: true, threads_per_worker: 2,
                  workers: {n1: 10.0.0.1}}
        """,
    )
    assert (experiment.name, experiment.seed, experiment.exits) == ("all of it", 7, 5)
    assert experiment.hosted == {"n1": (1, 2), "n2": (2, 3), "n3": (1, 2, 3, 4, 5), "n4": (4, 5)}
    speeds = {worker: profile and profile.segment_s for worker, profile in experiment.devices.items()}
    nano = load_device("jetson-nano", tmp_path, Place("test")).segment_s
    assert speeds["n1"] == nano
    assert speeds["n2"] == {key: tuple(s / 2 for s in times) for key, times in nano.items()}
    assert speeds["n3"] is speeds["n4"] is None
    shapes = {(link.shape.bandwidth_bps, link.shape.latency_s, link.shape.loss) for link in experiment.topology.links}
    assert shapes == {(20e6, 0.001, 0.01)}
    assert experiment.thresholds == (0.9, 0.8, 0.7, 1.0)
    assert experiment.offloading == MdiExitOffloading(output_limit=50, first_task="input", count_itself=True)
    assert experiment.admission == AlwaysAdmit(queue_max=5)
    assert experiment.arrivals == PoissonArrivals(20)
    assert experiment.worker_options == dict.fromkeys(experiment.topology.workers, WorkerOptions(group_max=4))
    assert experiment.limits == Limits(deadline_s=5, hops_max=3)
    assert (experiment.duration_s, experiment.drain_s, experiment.data_max) == (12, 0, 100)
    assert experiment.runtime.workers == {"n1": "10.0.0.1"}
    assert experiment.runtime.device == "auto"
    assert (experiment.runtime.backend, experiment.runtime.encrypt, experiment.runtime.port_base) == (
        "torch",
        False,
        6000,
    )


def test_an_experiment_survives_the_trip_to_a_worker_and_into_a_report() -> None:
    experiment = load_experiment("heterogeneous")
    assert pickle.loads(pickle.dumps(experiment)) == experiment
    plain = json.loads(json.dumps(experiment.plain(), allow_nan=False))
    assert plain["offloading"]["rule"] == "mdi_exit"
    assert plain["offloading"]["output_limit"] == 5
    assert plain["devices"]["n4"] == "jetson-nano x0.5"
    assert plain["topology"]["links"][0]["bandwidth_bps"] == 20e6
    assert plain["hosted"]["n5"] == [1, 2, 3, 4, 5]
    assert experiment.policy_names() == {
        "exit": "threshold",
        "offloading": "mdi_exit",
        "admission": "rate_adaptation",
        "arrivals": None,
    }


@pytest.mark.parametrize("name", resources.built_in("examples"))
def test_every_shipped_example_is_valid_by_name_and_by_path(name: str) -> None:
    path = resources.cluster_dir() / "examples" / f"{name}.yaml"
    assert load_experiment(name) == load_experiment(path)
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_examples_cover_every_rule_and_use() -> None:
    examples = {name: load_experiment(name) for name in resources.built_in("examples")}
    named = [example.policy_names() for example in examples.values()]
    assert {rules["exit"] for rules in named} == set(EXIT)
    assert {rules["admission"] for rules in named} == set(ADMISSION)
    assert {rules["arrivals"] for rules in named} == {*ARRIVALS, None}
    assert len({p.name for p in examples["heterogeneous"].devices.values() if p}) == 4
    assert any(len(segments) < 5 for segments in examples["sliced-line"].hosted.values())
    assert Path(examples["own-data"].dataset).is_dir()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0.5", (0.5,) * 4),
        ("1", (1.0,) * 4),
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", (0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_thresholds_are_one_number_or_one_per_exit(written: str, meant: tuple[float, ...], tmp_path: Path) -> None:
    assert of(tmp_path, f"thresholds: {written}").thresholds == meant


def test_a_policys_options_alone_mean_the_default_rule(tmp_path: Path) -> None:
    assert of(tmp_path, "offloading: {theta: 2.0}").offloading == DualBackPressure(theta=2.0, kappa=5.0)
    assert of(tmp_path, "offloading: never").offloading == NeverOffload()


def test_scalars_are_read_as_yaml_1_2_says() -> None:
    text = "[no, on, 1:30, 010, 1e-3, .5, -2, 0x1F, ~, true, 1-3, 2024-01-01]"
    assert parse(text) == ["no", "on", "1:30", "010", 0.001, 0.5, -2, "0x1F", None, True, "1-3", "2024-01-01"]


# ---- what a file refers to


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resources.cluster_dir()
    write(
        tmp_path,
        "source: a\nworkers: {a: {device: ../mine.yaml}, b: {device: jetson-nano}}\nlinks: [[a, b]]",
        "graphs/g.yaml",
    )
    shutil.copy(source / "devices" / "raspberry-pi-4.yaml", tmp_path / "mine.yaml")
    shutil.copytree(source / "examples" / "own-data", tmp_path / "pictures")
    write(tmp_path, "3.5 # first\n\n4\n6.25\n6.25\n", "times.txt")
    bundled = Path(load_experiment().model)
    for suffix in (".safetensors", ".json"):
        shutil.copy(bundled.with_suffix(suffix), tmp_path / f"net{suffix}")
    path = write(
        tmp_path,
        """
        model: ../net.safetensors
        dataset: ../pictures
        topology: ../graphs/g.yaml
        devices: {b: ../mine.yaml}
        admission: always
        arrivals: {rule: recorded, file: ../times.txt, repeat: false}
        """,
        "runs/experiment.yaml",
    )
    monkeypatch.chdir(tmp_path / "graphs")
    for given in (path, Path("../runs/experiment.yaml")):
        experiment = load_experiment(given)
        assert Path(experiment.model).resolve() == tmp_path / "net.safetensors"
        assert Path(experiment.dataset).resolve() == tmp_path / "pictures"
        assert {profile.name for profile in experiment.devices.values() if profile} == {"mine"}
        assert experiment.arrivals == RecordedArrivals((0.5, 2.25, 0.0), repeat=False)


def test_an_experiments_word_on_a_worker_goes_before_its_topologys(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        source: a
        workers:
          a: {device: jetson-nano, slice: 1-2, options: {group_max: 8}}
          b: {device: jetson-nano, speed: 0.5, slice: 3-5}
        links: [[a, b], {from: a, to: c}, {from: c, to: b}]
        """.replace("links:", "  c:\n        links:"),
        "g.yaml",
    )
    topology = "topology: ./g.yaml\nworker: {group_max: 2, link_window: 3}\n"
    plain = of(tmp_path, topology)
    assert plain.hosted == {"a": (1, 2), "b": (3, 4, 5), "c": (1, 2, 3, 4, 5)}
    assert {w: p and p.name for w, p in plain.devices.items()} == {
        "a": "jetson-nano",
        "b": "jetson-nano x0.5",
        "c": None,
    }
    assert plain.worker_options["a"] == WorkerOptions(group_max=8, link_window=3)
    assert plain.worker_options["c"] == WorkerOptions(group_max=2, link_window=3)
    assert set(of(tmp_path, topology + "placement: all").hosted.values()) == {(1, 2, 3, 4, 5)}
    assert of(tmp_path, topology + "placement: {a: 2}").hosted == {"a": (2,), "b": (3, 4, 5), "c": (1, 2, 3, 4, 5)}
    devices = of(tmp_path, topology + "devices: {a: null, b: {speed: 4}}").devices
    assert {w: p and p.name for w, p in devices.items()} == {"a": None, "b": "jetson-nano x4", "c": None}
    everyone = of(tmp_path, topology + "devices: raspberry-pi-4").devices
    assert {w: p and p.name for w, p in everyone.items()} == {
        "a": "raspberry-pi-4",
        "b": "raspberry-pi-4 x0.5",
        "c": "raspberry-pi-4",
    }


def checkpoint(folder: Path, name: str, architecture: str = "mobilenet_v2", exits: int = 5) -> Path:
    """A checkpoint whose header says that each segment's weights take 4,000 bytes, the bottleneck's 40 each side."""
    names = [f"{part}.{k}.weight" for k in range(exits) for part in ("segments", "heads")]
    tensors = {tensor: np.zeros((5, 100), np.float16) for tensor in names}
    tensors |= {f"bottlenecks.1.{side}.weight": np.zeros((10,), np.float16) for side in ("encoder", "decoder")}
    save_file(tensors, folder / f"{name}.safetensors")
    classes = ("cat", "dog")
    model = ModelConfig(architecture, 32, classes, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    Card(model, 0, "none", "none", 0.1, 1, (1.0,) * exits).save(folder / f"{name}.json")
    return folder / name


def test_auto_placement_reads_the_weights_sizes_and_the_devices_memory(tmp_path: Path) -> None:
    checkpoint(tmp_path, "net")
    device = "memory_bytes: {}\nsegment_s: {{mobilenet_v2@32: [.01, .01, .01, .01, .01]}}"
    write(tmp_path, device.format(10**6), "large.yaml")
    write(tmp_path, device.format(8_000), "small.yaml")
    text = "model: net\ntopology: 2-node\nplacement: auto\n"
    assert of(tmp_path, text).hosted == {"n1": (1, 2, 3), "n2": (3, 4, 5)}
    assert of(tmp_path, text + "devices: ./large.yaml").hosted == {"n1": (1, 2, 3), "n2": (3, 4, 5)}
    squeezed = of(tmp_path, text + "devices: {n1: ./small.yaml, n2: ./large.yaml}").hosted
    assert squeezed == {"n1": (1,), "n2": (2, 3, 4, 5)}  # with the bottleneck's halves, 1 and 2 take 8,080 bytes
    with pytest.raises(ConfigError, match="placement: segment 2 of 5 is hosted nowhere"):
        of(tmp_path, text + "devices: ./small.yaml")


def test_a_network_with_other_exits_has_its_own_thresholds_and_times(tmp_path: Path) -> None:
    checkpoint(tmp_path, "deep", "resnet50", 4)
    experiment = of(tmp_path, "model: deep.json\ndevices: jetson-nano\n")
    assert experiment.thresholds == (0.8, 0.8, 0.8)
    assert experiment.hosted == {"n1": (1, 2, 3, 4)}


# ---- refusals

MOBILE = "mobilenet_v2@32: [.1, .1, .1, .1, .1]"
REFUSALS = {
    "not a mapping": ("- a\n- b", ": holds a list; allowed: a mapping, lines of `key: value`"),
    "a number": ("12", ": holds 12; allowed: a mapping"),
    "bad YAML": ("name: [1, 2", ": line 1: not valid YAML: expected ',' or ']'"),
    "a tab": ("runtime:\n\tbackend: onnx", ": line 2: not valid YAML: found character"),
    "a key twice": ("seed: 1\nname: x\nseed: 2", ": line 3: not valid YAML: key 'seed' is given twice"),
    "an inner key twice": ("worker: {group_max: 1, group_max: 2}", "key 'group_max' is given twice"),
    "a tag of Python's": ("name: !!python/name:os.system", "line 1: not valid YAML: could not determine a constructor"),
    "an unknown key": (
        "admision: always",
        ": unknown key 'admision' (did you mean 'admission'?); allowed: name, seed,",
    ),
    "a key that is no text": ("1: 2", ": unknown key 1; allowed: name,"),
    "a seed that is text": ("seed: one", "seed: is 'one'; allowed: a whole number"),
    "a seed that is a truth value": ("seed: true", "seed: is true; allowed: a whole number"),
    "a negative seed": ("seed: -1", "seed: is -1; allowed: 0 or more"),
    "an empty name": ("name: ''", "name: is ''; allowed: text that is not empty"),
    "no time": ("duration_s: 0", "duration_s: is 0; allowed: above 0"),
    "endless time": ("duration_s: .inf", "duration_s: is inf; allowed: a finite number"),
    "a time in words": ("drain_s: 1 min", "drain_s: is '1 min'; allowed: a number"),
    "half a datum": ("data_max: 0.5", "data_max: is 0.5; allowed: a whole number"),
    "a list of options": ("worker: [1]", "worker: is a list; allowed: a mapping"),
    "an unknown topology": (
        "topology: ring",
        "topology: no such name 'ring'; allowed: a path to a YAML file, or 2-node,",
    ),
    "a graph written out": (
        "topology: {source: a, workers: [a]}",
        "topology: is a mapping; allowed: a name, or the path of a file that holds the graph",
    ),
    "a missing topology": ("topology: ./g.yaml", "topology: no such file"),
    "a disconnected graph": ("topology: ./apart.yaml", "apart.yaml: links: the graph is not connected: b is cut off"),
    "unknown links": (
        "links: {speed: 3}",
        "links: unknown key 'speed'; allowed: bandwidth_bps, bandwidth, latency_s, loss",
    ),
    "loss of all": ("links: {loss: 1.5}", "links.loss: is 1.5; allowed: below 1"),
    "a checkpoint that is missing": ("model: ./net", "/net: no such checkpoint ("),
    "an unknown checkpoint": (
        "model: lenet",
        "model: lenet: no such checkpoint (lenet.safetensors is missing); bundled are: mobilenetv2-cifar10",
    ),
    "a data set that is missing": ("dataset: ./images", "dataset: no such data set './images' ("),
    "an unknown data set": (
        "dataset: imagenet",
        "allowed: a folder or zip with one sub-folder per class, sample, cifar10",
    ),
    "a threshold above 1": ("thresholds: 1.01", "thresholds: is 1.01; allowed: a number above 0 and at most 1"),
    "a threshold of 0": (
        "thresholds: [0.5, 0, 0.5, 0.5]",
        "thresholds[1]: is 0; allowed: a number above 0 and at most 1",
    ),
    "a threshold that is no number": ("thresholds: .nan", "thresholds: is nan; allowed: a number above 0"),
    "a threshold that is true": ("thresholds: true", "thresholds: is true; allowed: a number above 0"),
    "too few thresholds": (
        "thresholds: [0.5, 0.5]",
        "thresholds: has 2 entries for 5 exits; allowed: one number, or 4",
    ),
    "an unknown rule": (
        "offloading: nevr",
        "offloading.rule: unknown rule 'nevr' (did you mean 'never'?); allowed: mdi_exit,",
    ),
    "a rule that is a list": ("exit: {rule: [1]}", "exit.rule: unknown rule"),
    "a rule that is a number": ("admission: 3", "admission: is 3; allowed: a rule's name or rule: with its options"),
    "an unknown option": (
        "offloading: {rule: mdi_exit, output_limt: 5}",
        "offloading: unknown key 'output_limt' (did you mean 'output_limit'?); allowed: output_limit, split,",
    ),
    "an option of the wrong type": (
        "offloading: {rule: mdi_exit, output_limit: 5.5}",
        "offloading.output_limit: is 5.5; allowed: a whole",
    ),
    "an option that is none of the words": (
        "offloading: {rule: mdi_exit, split: often}",
        "offloading.split: is 'often'; allowed: 'idle_or_congested' or 'idle'",
    ),
    "options that contradict each other": (
        "admission: {rule: rate_adaptation, queue_low: 30, queue_high: 10}",
        "admission: 0 < queue_low < queue_high is wanted (queue_low is 30, queue_high is 10)",
    ),
    "an option of another rule": (
        "offloading: {rule: never, output_limit: 5}",
        "offloading: unknown key 'output_limit'",
    ),
    "a negative rate": (
        "admission: always\narrivals: {rule: poisson, rate_per_s: -5}",
        "arrivals.rate_per_s: is -5, but rate_per_s must be above 0",
    ),
    "a rate of text": (
        "admission: always\narrivals: {rule: poisson, rate_per_s: fast}",
        "arrivals.rate_per_s: is 'fast'; allowed: a number",
    ),
    "a missing rate": ("admission: always\narrivals: poisson", "arrivals.rate_per_s: is missing"),
    "two missing rates": ("admission: always\narrivals: bursty", "rate_per_s: is missing, and so is burst_rate_per_s"),
    "arrivals without a rule": (
        "admission: always\narrivals: {rate_per_s: 5}",
        "arrivals: does not name its rule; allowed: rule: with one of constant, poisson, bursty, recorded",
    ),
    "no arrivals": (
        "admission: threshold_adaptation",
        "arrivals: is missing, and admission threshold_adaptation wants it; allowed: {rule: constant, rate_per_s: NUM",
    ),
    "arrivals too many": (
        "arrivals: {rule: poisson, rate_per_s: 5}",
        "arrivals: admission fill_queue finds its rate itself; allowed: no arrivals; or admission threshold_adapt"
        "ation or pi_control or always, with arrivals {rule: poisson, rate_per_s: NUMBER}",
    ),
    "arrivals too many, and of no rule": (
        "arrivals: {rule: [often]}",
        "{rule: poisson, rate_per_s: NUMBER} or {rule: bursty, rate_per_s: NUMBER, burst_rate_per_s: NUMBER} or {rule:",
    ),
    "recorded arrivals that are missing": (
        "admission: always\narrivals: {rule: recorded, file: nothing.txt}",
        "arrivals.file: ",
    ),
    "recorded arrivals of one": (
        "admission: always\narrivals: {rule: recorded, file: one.txt}",
        "holds 1 times; allowed: two",
    ),
    "recorded arrivals of words": (
        "admission: always\narrivals: {rule: recorded, file: words.txt}",
        "words.txt line 2: is 'soon'; allowed: a time in seconds",
    ),
    "recorded arrivals going back": (
        "admission: always\narrivals: {rule: recorded, file: back.txt}",
        "back.txt line 3: is 1; allowed: times in seconds that do not go back",
    ),
    "recorded arrivals twice": (
        "admission: always\narrivals: {rule: recorded, file: one.txt, gaps_s: [1]}",
        "arrivals: gives gaps_s and file; allowed: one of them",
    ),
    "a segment hosted nowhere": (
        "placement: 1-3",
        "placement: segment 4 of 5 is hosted nowhere; allowed: each segment by",
    ),
    "a slice with a hole": (
        "placement: {n1: [1, 3]}",
        "placement.n1: [1, 3] is not contiguous; allowed: all, first-last",
    ),
    "a slice too long": ("placement: 1-6", "placement: '1-6' is not within the model's 5 segments"),
    "an unknown worker's slice": ("placement: {n9: all}", "placement: unknown worker 'n9'; allowed: n1"),
    "a topology's bad slice": (
        "topology: ./sliced.yaml",
        "sliced.yaml: workers.b.slice: '9' is not within the model's 5",
    ),
    "auto with half the devices": (
        "topology: 2-node\nplacement: auto\ndevices: {n1: jetson-nano}",
        "placement: auto wants a device profile for every worker or for none",
    ),
    "an unknown device": (
        "devices: nano",
        "devices: no such name 'nano'; allowed: a path to a YAML file, or jetson-nano,",
    ),
    "an unknown device of one": ("devices: {n1: nano}", "devices.n1: no such name 'nano'"),
    "a topology's unknown device, although the experiment gives another": (
        "topology: ./unheard.yaml\ndevices: jetson-nano",
        "unheard.yaml: workers.b: no such name 'jetson' (did you mean 'jetson-nano'?)",
    ),
    "a device that is a number": ("devices: 3", "devices: is 3; allowed: a profile's name or path, or a mapping"),
    "a device of nobody": (
        "devices: {n7: jetson-nano}",
        "devices: unknown worker 'n7'; allowed: n1",
    ),
    "a speed of nothing": ("devices: {n1: {speed: 2}}", "devices.n1.speed: is 2, but there is no device profile"),
    "a speed of 0": ("devices: {n1: {profile: jetson-nano, speed: 0}}", "devices.n1.speed: is 0; allowed: above 0"),
    "a device without this network": (
        "devices: ./other.yaml",
        "other.yaml: segment_s: says nothing of mobilenet_v2@32, which the experiment's model needs; allowed: resnet50",
    ),
    "a device with too few times": (
        "devices: ./short.yaml",
        "short.yaml: segment_s.mobilenet_v2@32: has 2 entries; allowed: 5",
    ),
    "a device with a negative time": (
        "devices: ./negative.yaml",
        "negative.yaml: segment_s.mobilenet_v2@32[1]: is -0.1; allowed",
    ),
    "a device without memory": ("devices: ./forgetful.yaml", "forgetful.yaml: memory_bytes: is missing"),
    "a limit of 0": ("limits: {attempts_max: 0}", "limits.attempts_max: is 0; allowed: above 0"),
    "an unknown limit": ("limits: {deadline: 3}", "limits: unknown key 'deadline' (did you mean 'deadline_s'?)"),
    "a worker option out of range": (
        "worker: {gossip_s: 0}",
        "worker.gossip_s: is 0, but group_s, gossip_s and measure_s must be above 0",
    ),
    "an option at odds with a default": (
        "admission: {rule: rate_adaptation, queue_low: 40, alpha: 0.3}",
        "admission.queue_low: is 40, but 0 < queue_low < queue_high is wanted (queue_high is 30)",
    ),
    "a backend": ("runtime: {backend: jax}", "runtime.backend: is 'jax'; allowed: 'onnx' or 'torch'"),
    "an encryption": (
        "runtime: {encrypt: sometimes}",
        "runtime.encrypt: is 'sometimes'; allowed: true or false",
    ),
    "a device": (
        "runtime: {backend: torch, device: tpu}",
        "runtime.device: is 'tpu'; allowed: 'cpu', 'cuda' or 'auto'",
    ),
    "a device that ONNX Runtime is not used on": (
        "runtime: {device: cuda}",
        "runtime.device: is 'cuda'; allowed: 'cpu', or another one with backend: torch",
    ),
    "an encryption of former times": (
        "runtime: {encrypt: auto}",
        "runtime.encrypt: is 'auto'; allowed: true or false",
    ),
    "a privileged port": ("runtime: {port_base: 80}", "runtime.port_base: is 80; allowed: 1024 or more"),
    "a port beyond all": ("runtime: {port_base: 70000}", "runtime.port_base: is 70000; allowed: 65535 or less"),
    "ports that do not suffice": (
        "topology: 3-node-mesh\nruntime: {port_base: 65534}",
        "runtime.port_base: is 65534, too high for 3 workers; allowed: at most 65533",
    ),
    "no threads": ("runtime: {threads_per_worker: 0}", "runtime.threads_per_worker: is 0; allowed: 1 or more"),
    "an unknown worker's address": ("runtime: {workers: {n5: host}}", "runtime.workers: unknown worker 'n5'"),
}
BESIDE = {
    "apart.yaml": "source: a\nworkers: [a, b]",
    "unheard.yaml": "source: a\nworkers: {a: , b: {device: jetson}}\nlinks: [[a, b]]",
    "sliced.yaml": "source: a\nworkers: {a: , b: {slice: '9'}}\nlinks: [[a, b]]",
    "other.yaml": "memory_bytes: 1\nsegment_s: {resnet50@32: [.1]}",
    "short.yaml": "memory_bytes: 1\nsegment_s: {mobilenet_v2@32: [.1, .2]}",
    "negative.yaml": f"memory_bytes: 1\nsegment_s: {{{MOBILE.replace('.1, .1', '.1, -.1', 1)}}}",
    "forgetful.yaml": f"segment_s: {{{MOBILE}}}",
    "one.txt": "1.5\n",
    "words.txt": "1\nsoon\n",
    "back.txt": "1\n2\n1\n",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused_in_one_line_that_names_file_and_key(case: str, tmp_path: Path) -> None:
    for name, content in BESIDE.items():
        write(tmp_path, content, name)
    text, complaint = REFUSALS[case]
    path = write(tmp_path, text)
    with pytest.raises(UserError) as refusal:
        load_experiment(path)
    line = str(refusal.value)
    assert line.startswith(str(tmp_path)), line
    assert complaint in line
    assert "\n" not in line
    if not any(name in line for name in BESIDE):
        assert line.startswith(f"{path}: ")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; allowed: .*YAML file, or adaee, .*find-rate, "):
        load_experiment(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r": is a folder; allowed: a YAML file$"):
        load_experiment(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not text; allowed: a YAML file, in UTF-8$"):
        load_experiment(tmp_path / "latin.yaml")
    (tmp_path / "null.yaml").write_bytes(b"name: \x00")
    with pytest.raises(ConfigError, match=r"null\.yaml: not valid YAML"):
        load_experiment(tmp_path / "null.yaml")
    with pytest.raises(ConfigError, match="nested too deeply"):
        of(tmp_path, "name: " + "[" * 5000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        of(tmp_path, "thresholds: &endless [*endless]")


def test_a_checkpoint_without_its_card_or_with_a_damaged_one_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, "net")
    (tmp_path / "net.json").write_text('{"seed": 1}')
    with pytest.raises(UserError, match=r"net\.json: key model is missing"):
        of(tmp_path, "model: net")
    (tmp_path / "net.json").unlink()
    with pytest.raises(UserError, match=r"net\.json: no such file"):
        of(tmp_path, "model: net")


def test_damaged_weights_are_refused_where_their_sizes_matter(tmp_path: Path) -> None:
    checkpoint(tmp_path, "net")
    (tmp_path / "net.safetensors").write_bytes(b"short")
    with pytest.raises(ConfigError, match="placement: auto cannot read the segments' sizes"):
        of(tmp_path, "model: net\nplacement: auto")


# ---- settings in a file's stead


def test_settings_are_laid_over_the_file_and_checked_like_it(tmp_path: Path) -> None:
    text = "topology: 2-node\noffloading: never\nadmission: {rule: always, queue_max: 5}\n"
    text += "arrivals: {rule: poisson, rate_per_s: 9}"
    changed = of(tmp_path, text, {"arrivals.rate_per_s": 3, "placement.n2": "3-5", "seed": 4})
    assert changed.arrivals == PoissonArrivals(3)
    assert changed.admission == AlwaysAdmit(queue_max=5)
    assert changed.hosted == {"n1": (1, 2, 3, 4, 5), "n2": (3, 4, 5)}
    assert changed.seed == 4
    swapped = of(tmp_path, text, {"admission": "rate_adaptation", "arrivals": None, "offloading.rule": "mdi_exit"})
    assert (swapped.admission, swapped.arrivals, swapped.offloading) == (RateAdaptation(), None, MdiExitOffloading())
    for overrides, complaint in (
        ({"seed": "x"}, "seed: is 'x'"),
        ({"offloading.output_limit": 5}, "offloading: unknown key 'output_limit'"),
        ({"seed.x": 1}, r"seed: is 3, so seed\.x cannot be set"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"admission.rule": "threshold_adaptation", "admission.queue_max": 5}, "queue_max must not be below"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            of(tmp_path, "seed: 3\n" + text, overrides)


@pytest.mark.parametrize(
    ("text", "overrides", "complaint"),
    [
        ("", {"thresholds": "0.5,0.6"}, r"--set: thresholds: is '0.5,0.6'; .*written --set 'thresholds=\[0.5, 0.6\]'$"),
        ("", {"thresholds": [0.5, 7, 1, 1]}, r"--set: thresholds\[1\]: is 7; "),
        ("", {"topology": "a,b"}, "--set: topology: no such name 'a,b'; allowed: [^;]*$"),
        ("seed: 3", {"seed.x": 1}, r"--set: seed: is 3, so seed\.x cannot be set"),
        ("", {"seed": 1, "colour": 1}, "--set: unknown key 'colour'"),
        ("", {"offloading.outputs": 5}, "--set: offloading: unknown key 'outputs'"),
        (
            "admission: always",
            {"arrivals.rate_per_s": -1, "arrivals.rule": "poisson"},
            r"--set: arrivals\.rate_per_s: is -1, but rate_per_s must be above 0",
        ),
        (
            "topology: 3-node-mesh\nplacement: {n3: all}",
            {"topology": "2-node"},
            "FILE with --set topology: placement: ",
        ),
        ("", {"seed": 1, "admission": "always"}, "FILE with --set seed, admission: arrivals: is missing"),
        ("admission: {alhpa: 0.3}", {"admission.alpha": 0.3}, "FILE: admission: unknown key 'alhpa'"),
        ("thresholds: 7", {"seed": 3}, "FILE: thresholds: is 7"),
        ("topology: graph.yaml", {"seed": 3}, r"FILE: topology: no such file [^ ]*graph\.yaml"),
    ],
)
def test_a_refusal_names_the_setting_or_the_file_or_both(
    text: str, overrides: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match="^" + complaint.replace("FILE", re.escape(str(path)))):
        load_experiment(path, overrides)


def test_what_a_setting_leads_to_is_refused_by_its_own_name(tmp_path: Path) -> None:
    graph = write(tmp_path, "workers: [a]", "graph.yaml")
    with pytest.raises(ConfigError, match=f"^{re.escape(str(graph))}: source: is missing"):
        of(tmp_path, "", {"topology": str(graph)})


def test_settings_are_written_as_yaml() -> None:
    assert parse_setting("admission.rule=always") == ("admission.rule", "always")
    assert parse_setting("thresholds=[0.5, 1]") == ("thresholds", [0.5, 1])
    assert parse_setting("arrivals=") == ("arrivals", None)
    assert parse_setting("links.latency_s=1e-3") == ("links.latency_s", 0.001)
    for text, complaint in (
        ("seed", "no setting; allowed: KEY=VALUE"),
        ("=3", "no setting"),
        ("a=[", "a: '\\[' is not valid"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            parse_setting(text)


def test_a_path_in_a_setting_is_relative_to_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "seed: 1", "files/experiment.yaml")
    write(tmp_path, "source: z\nworkers: [z]", "here/one.yaml")
    shutil.copytree(resources.cluster_dir() / "examples" / "own-data", tmp_path / "here" / "pictures")
    monkeypatch.chdir(tmp_path / "here")
    experiment = load_experiment(path, {"topology": "one.yaml", "dataset": "./pictures"})
    assert experiment.topology.source == "z"
    assert Path(experiment.dataset) == tmp_path / "here" / "pictures"
    assert Path(load_experiment(path, {"dataset": "pictures"}).dataset) == tmp_path / "here" / "pictures"
    (tmp_path / "here" / "sample").mkdir()
    assert load_experiment(path, {"dataset": "sample"}).dataset == "sample"
    for key in ("dataset", "topology", "devices", "model", "exit.decision.file"):
        rule = {"exit.rule": "transmission", "exit.decision.rule": "learned"} if key.startswith("exit") else {}
        with pytest.raises(UserError, match=f"--set: {key}.*{re.escape(str(tmp_path / 'here' / 'paintings.d'))}"):
            load_experiment(path, rule | {key: "paintings.d/x.yaml"})
    with pytest.raises(ConfigError, match=f"no such data set '{re.escape(str(tmp_path / 'here' / 'paintings'))}'"):
        load_experiment(path, {"dataset": "paintings"})
    assert load_experiment(path, {"model": "mobilenetv2-cifar10.safetensors"}).exits == 5


def test_a_file_without_its_suffix_and_a_misspelt_example_are_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "seed: 1", "find-rates.yaml")
    monkeypatch.chdir(tmp_path)
    for typed, guess in (("find-rates", "find-rates.yaml"), ("splite", "splitee")):
        with pytest.raises(ConfigError, match=rf"^{typed}: no such file \(did you mean '{guess}'\?\); allowed: "):
            load_experiment(typed)


@pytest.mark.parametrize("name", ["cifar10", "cifar10-test", "cifar10-train", "cifar100-test"])
def test_a_public_set_is_named_with_or_without_its_part(name: str) -> None:
    assert load_experiment(None, {"dataset": name}).dataset == name


@pytest.mark.parametrize("name", ["cifar10-validation", "cifar11", "a" * 5000, "~nobody-of-this-name/images"])
def test_what_is_no_public_set_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no such data set"):
        load_experiment(None, {"dataset": name})


def test_a_data_set_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker on the other end of the file system opens what the experiment names."""
    write(tmp_path, "dataset: pictures", "experiment.yaml")
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("experiment.yaml")
    assert experiment.dataset == str(tmp_path / "pictures")


# ---- devices and shipped files


@pytest.mark.parametrize("name", resources.built_in("devices"))
def test_shipped_devices_know_both_networks_at_both_sizes(name: str) -> None:
    profile = load_device(name, Path(), Place("test"))
    for architecture, exits in (("mobilenet_v2", 5), ("resnet50", 4)):
        for size in (32, 224):
            assert len(profile.seconds(architecture, size)) == exits
    text = (resources.cluster_dir() / "devices" / f"{name}.yaml").read_text(encoding="utf-8")
    assert "assumed" in text.lower()


def test_the_nano_takes_as_long_as_was_measured_and_its_relatives_in_proportion() -> None:
    nano, pi, orin = (load_device(n, Path(), Place("")) for n in ("jetson-nano", "raspberry-pi-4", "jetson-orin-nano"))
    assert sum(nano.seconds("mobilenet_v2", 224)) == pytest.approx(0.039, rel=0.01)
    assert sum(nano.seconds("resnet50", 224)) == pytest.approx(0.150, rel=0.01)
    for key, seconds in nano.segment_s.items():
        assert orin.segment_s[key] == pytest.approx([s / 2 for s in seconds])
        assert pi.segment_s[key] == pytest.approx([s * 112.6 / 72.3 for s in seconds], rel=0.01)


def test_shipped_files_are_found_beside_the_package_and_inside_it(tmp_path: Path) -> None:
    package = tmp_path / "site" / "mdi_exit"
    package.mkdir(parents=True)
    assert resources.cluster_dir(package) == tmp_path / "site" / "cluster"
    (package / "cluster").mkdir()
    assert resources.cluster_dir(package) == package / "cluster"
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert '[tool.hatch.build.targets.wheel.force-include]\n"cluster" = "mdi_exit/cluster"' in project


# ---- cores


def test_cores_are_built_as_the_experiment_says() -> None:
    experiment = load_experiment("sliced-line")
    card = assembly.load_card(experiment)
    routes = assembly.routes_for(experiment, experiment.topology.workers, version=1)
    for name in experiment.topology.workers:
        core = assembly.worker_core(experiment, card, name, epoch=2)
        assert (core.name, core.exits, core.hosted) == (name, 5, experiment.hosted[name])
        assert core.is_source == (name == "n1")
        effects = core.handle(RoutesChanged(routes[name]), 0.0)
        assert any(isinstance(effect, fx.SetTimer) for effect in effects)
    controller = assembly.controller_core(load_experiment("poisson"), card)
    assert controller.interarrival_s == pytest.approx(1 / 40)
    assert controller.handle(AdmissionOpened(), 0.0)


def test_a_paced_workers_first_estimate_is_its_devices_mean() -> None:
    experiment = load_experiment("sliced-line", {"devices": {"n3": "jetson-nano"}})
    card = assembly.load_card(experiment)
    cores = {name: assembly.worker_core(experiment, card, name) for name in experiment.topology.workers}
    assert cores["n3"].compute_delay_s == pytest.approx(0.00858)
    assert cores["n2"].compute_delay_s == 0.0
    stated = load_experiment("sliced-line", {"worker.compute_delay_s": 0.5})
    assert assembly.worker_core(stated, card, "n3").compute_delay_s == 0.5


def test_each_core_draws_for_itself_and_again_the_same() -> None:
    def drawn(seed: int, name: str, epoch: int) -> float:
        experiment = load_experiment("find-rate", {"seed": seed})
        return assembly.worker_core(experiment, card, name, epoch)._rng.random()

    card = assembly.load_card(load_experiment())
    draws = [drawn(*core) for core in ((0, "n1", 0), (1, "n1", 0), (0, "n2", 0), (0, "n1", 1))]
    assert len(set(draws)) == 4
    assert draws[0] == drawn(0, "n1", 0)


def test_data_come_in_a_drawn_order_each_once_before_any_comes_again() -> None:
    experiment, other = load_experiment(), load_experiment(None, {"seed": 1})
    order = [assembly.datum_index(experiment, d, 50) for d in range(150)]
    first, second, third = order[:50], order[50:100], order[100:]
    assert sorted(first) == sorted(second) == sorted(third) == list(range(50))
    assert first != second != third and first != list(range(50))
    assert [assembly.datum_index(experiment, d, 50) for d in (149, 3, 70)] == [order[149], order[3], order[70]]
    assert [assembly.datum_index(other, d, 50) for d in range(50)] != first
    assert assembly.datum_index(experiment, 10**9, 1) == 0


def test_what_a_worker_imports_leaves_out_what_takes_much_memory() -> None:
    code = (
        "import sys; import mdi_exit.runtime.actor;"
        "print(sorted({'torch', 'matplotlib', 'scipy', 'networkx', 'pydantic', 'highspy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_reading_an_experiment_and_building_its_cores_never_loads_torch() -> None:
    code = (
        "import sys; from mdi_exit import assembly; from mdi_exit.config.load import load_experiment;"
        "e = load_experiment('heterogeneous', {'placement': 'auto'}); c = assembly.load_card(e);"
        "[assembly.worker_core(e, c, n) for n in e.topology.workers]; assembly.controller_core(e, c);"
        "print(sorted({'torch', 'ray', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
