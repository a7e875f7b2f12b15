"""benchmarks/peers.py: its loops, its stages against the whole network, and what it concludes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mdi_exit.analysis import plots
from mdi_exit.config.load import load_experiment

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("harness", "peer_ours", "peer_pipelining", "peer_process", "peer_ray", "peer_stage", "peers")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A benchmark is a script: its folder is the first place where it looks for modules."""
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


class Late:
    """Answers with each image's first number, at the time of asking."""

    window = 3

    def __init__(self) -> None:
        self.most = self.ahead = 0

    def submit(self, batch: NDArray[Any]) -> NDArray[np.int64]:
        self.ahead += 1
        self.most = max(self.most, self.ahead)
        return batch[:, 0].astype(np.int64)

    def collect(self, ticket: NDArray[np.int64]) -> NDArray[np.int64]:
        self.ahead -= 1
        return ticket


def test_a_peer_is_given_as_much_ahead_as_it_wants_and_its_answers_are_kept_by_image() -> None:
    images = np.arange(10)[:, None]
    peer = Late()
    fed = module("peer_stage").feed(peer, images, 4, 0.01)
    assert peer.most == 3 and peer.ahead == 0 and fed.rate_per_s > 0
    assert fed.predictions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, -1, -1]
    assert len(module("peer_stage").latencies_s(peer, images, 1000.0, 0.012)) == 12


def test_a_peer_that_changes_its_mind_is_found_out() -> None:
    class Fickle(Late):
        def collect(self, ticket: NDArray[np.int64]) -> NDArray[np.int64]:
            self.most += 1
            return ticket + self.most

    with pytest.raises(RuntimeError, match="images 0 to 3 were answered in two ways"):
        module("peer_stage").feed(Fickle(), np.arange(4)[:, None], 4, 1.0)


@pytest.mark.parametrize("threshold", [0.8, 1.0])
def test_stages_answer_as_the_whole_network(threshold: float) -> None:
    stage, process = module("peer_stage"), module("peer_process")
    experiment = load_experiment()
    known = module("peer_ours").reference(experiment, threshold)
    images, wanted = known.images[:48], known.predictions[:48]
    sure = ~known.unsure[:48]
    assert sure.sum() > 40 and (known.exits[:48] == 5).all() == (threshold == 1)
    net = stage.net_of(known.prepared, threshold)
    first, second = stage.Stage(net, (1, 2), 1), stage.Stage(net, (3, 4, 5), 1)
    answers, feature = first.run(images)
    halves = stage.filled(answers, second.run(feature)[0])
    assert ((answers == stage.GOES_ON) == (known.exits[:48] > 2))[sure].all()
    assert (halves == wanted)[sure].all()
    with process.torch_process(net, experiment.model) as peer:
        assert (peer.collect(peer.submit(images)) == wanted)[sure].all()


def rows(peers: ModuleType) -> list[dict[str, Any]]:
    """Everybody gives 100 images per second, ours 200 with halves and 300 with the whole network on each worker."""
    rates = {peers.OURS: 300.0, peers.HALVES: 200.0}
    return [
        {
            **{"system": case.system, "group": case.group, "exits": case.exits, "wrong": 0},
            "rate_per_s": rates.get(case.system, 100.0) / (1 if case.group > 1 else 2),
            **({"latency_p50_s": 0.002 if case.system in rates else 0.004} if case.group == 1 else {}),
        }
        for case in peers.CASES
    ]


def test_ours_is_held_against_the_better_of_each_peer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    peers = module("peers")
    measured = rows(peers)
    summary = peers.summarise(measured)
    for name in peers.PEERS:
        assert summary[name] == pytest.approx(3 if name in peers.PROCESSES else 2)
        assert summary[f"whole_{name}"] == pytest.approx(3)
        if name != peers.PIPELINING:
            assert summary[f"latency_ratio_{name}"] == pytest.approx(0.5)
    assert summary["with_exits_torch_pipelining"] == pytest.approx(2) and summary["wrong_answers"] == 0
    peers.show(measured, summary)
    assert "Answers that were not the whole network's: 0." in capsys.readouterr().out
    assert len(plots.save(peers.draw(measured), tmp_path, "peers")) >= 1


def test_a_peer_that_was_not_measured_is_left_out() -> None:
    peers = module("peers")
    summary = peers.summarise([row for row in rows(peers) if row["system"] != "ray_serve"])
    assert "ray_serve" not in summary and "ray_actor_chain" in summary
