"""Our side of benchmarks/peers.py: `mdi-exit run` on two workers, and what the whole network would have answered."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdi_exit import assembly, compute, journal
from mdi_exit.compute import PreparedNet
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.core.effects import Complete
from mdi_exit.dataset import ImageDataset
from mdi_exit.report import Report, build_report
from mdi_exit.runtime import Cluster

CUT = 2  # segments of the first half: 8 KB to hand on; after the first segment it would be 24
_MARGIN = 1e-4  # of a confidence; arithmetic in another order moves it by less


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the whole network answers, by exit threshold."""

    images: NDArray[Any]
    prepared: PreparedNet
    predictions: NDArray[np.int64]
    exits: NDArray[np.int64]
    unsure: NDArray[np.bool_]  # within the margin of a threshold, or of another class


def reference(experiment: Experiment, threshold: float) -> Reference:
    """The whole network in torch on all images, from the first segment to the exit where each leaves."""
    from mdi_exit.compute.torch_runner import one_thread
    from mdi_exit.models.checkpoint import load
    from mdi_exit.training.evaluate import exit_logits

    data = ImageDataset.open(experiment.dataset)
    images = np.stack([data.image(index) for index in range(len(data))])
    network, card = load(experiment.model)
    import torch

    with one_thread():
        logits = np.asarray(exit_logits(network, torch.from_numpy(images)), dtype=np.float64)
    scaled = logits / np.array(card.temperatures)[:, None, None]
    shares = np.exp(scaled - scaled.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    confidence = shares.max(axis=2)
    leaves = confidence > threshold
    leaves[-1] = True
    at = leaves.argmax(axis=0)
    passed = np.arange(len(leaves))[:, None] <= np.minimum(at, len(leaves) - 2)
    top = np.sort(shares, axis=2)[:, :, -2:]
    rows = np.arange(len(images))
    close = ((np.abs(confidence - threshold) < _MARGIN) & passed).any(axis=0) & (threshold < 1)
    tied = (top[at, rows, 1] - top[at, rows, 0]) < _MARGIN
    predictions = logits.argmax(axis=2)[at, rows]
    prepared = compute.prepare(experiment.model, "onnx")
    return Reference(images, prepared, predictions, at + 1, close | tied)


# ---- ours


def experiment_of(halves: bool, threshold: float, group: int, **more: Any) -> Experiment:
    """Two workers, unpaced, on links without limits or encryption."""
    settings: dict[str, Any] = {
        "topology": "2-node",
        "thresholds": threshold,
        "worker.group_max": group,
        "runtime.encrypt": False,
    }
    if group > 1:  # as many ahead as the peers are given
        settings |= {"admission.queue_target": 4 * group, "worker.link_window": 4}
    if halves:
        settings["placement"] = {"n1": f"1-{CUT}", "n2": f"{CUT + 1}-5"}
    return load_experiment(None, {**settings, **more})


def report_of(cluster: Cluster, experiment: Experiment) -> Report:
    """Of one run."""
    record = cluster.run(experiment)
    return build_report(experiment, record.card, record.tallies, record.facts, "", "ray")


def wrong_sums(experiment: Experiment, report: Report, known: Reference) -> int:
    """How many answers too many or too few left at an exit, beyond those of which nobody can be sure."""
    done = report["completed"]
    at = [assembly.datum_index(experiment, data_id, len(known.images)) for data_id in range(done)]
    wanted = np.bincount(known.exits[at], minlength=experiment.exits + 1)[1:]
    unsure = int(known.unsure[at].sum())
    off = int(np.abs(wanted - np.array(report["exits"])).sum()) + int(report["offered"]) - int(done)
    return max(0, off - 2 * unsure)


def wrong_answers(cluster: Cluster, experiment: Experiment, known: Reference) -> int:
    """How many answers of a journalled run are not the whole network's."""
    told = dataclasses.replace(experiment, runtime=dataclasses.replace(experiment.runtime, journal=True))
    with tempfile.TemporaryDirectory() as folder:
        record = cluster.run(told, folder=Path(folder))
        assert record.journals is not None
        steps = [step for path in journal.journals(record.journals) for step in journal.read(path)]
    answers = [effect for step in steps for effect in step.effects if isinstance(effect, Complete)]
    at = [assembly.datum_index(experiment, answer.data_id, len(known.images)) for answer in answers]
    said = np.array([answer.prediction for answer in answers])
    assert len(answers) > 0
    return int(((said != known.predictions[at]) & ~known.unsure[at]).sum())
