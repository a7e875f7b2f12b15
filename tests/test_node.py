"""One worker's loop, in this process and without Ray: what it does with data, bugs, and callers that come too late."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from mdi_exit import assembly, compute, wire
from mdi_exit.compute import PreparedNet
from mdi_exit.compute.torch_runner import TorchRunner
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Task
from mdi_exit.core.views import ExitDecision
from mdi_exit.dataset import UnreadableImage
from mdi_exit.errors import UserError
from mdi_exit.journal import journals, read, replay
from mdi_exit.runtime import images, launch
from mdi_exit.runtime.actor import Closed, WorkerProcess
from mdi_exit.runtime.images import Images
from mdi_exit.runtime.life import Life
from mdi_exit.runtime.node import LifeOver, Node
from mdi_exit.tally import NodeTally

WITHIN_S = 20.0  # what has not happened by then never will


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedNet:
    experiment = load_experiment(None)
    return compute.prepare(experiment.model, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def alone(prepared: PreparedNet) -> Iterator[Callable[..., Node]]:
    """A node of a topology of one worker, that has its routes and is told that the run begins."""
    with contextlib.ExitStack() as stack:

        def begin(experiment: Experiment, folder: Path | None = None) -> Node:
            life = Life(experiment, prepared, "n1", 0, time.time(), folder)
            node = Node(life, life.runner(), "127.0.0.1")
            stack.callback(node.stop)
            node.start()
            routes = assembly.routes_for(experiment, ["n1"], 1)["n1"]
            node.call(lambda: node.feed("worker", ev.RoutesChanged(routes))).result(WITHIN_S)
            node.call(lambda: node.feed("controller", ev.AdmissionOpened())).result(WITHIN_S)
            return node

        yield begin


def flood(**settings: Any) -> Experiment:
    """Data come every 5 ms and are always admitted."""
    arrivals = {"rule": "constant", "rate_per_s": 200}
    return load_experiment(None, {"topology": "local", "admission": "always", "arrivals": arrivals, **settings})


def finish(node: Node) -> None:
    assert node.ended.wait(WITHIN_S)
    node.stop()
    assert node.failure is None


def test_every_datum_gets_its_outcome_and_no_payload_stays(alone: Callable[..., Node], tmp_path: Path) -> None:
    experiment = flood(data_max=60)
    node = alone(experiment, tmp_path)
    finish(node)
    source = node.tally.source
    assert source is not None and source.labelled
    assert (source.offered, source.completed, sum(source.exits)) == (60, 60, 60)
    assert sum(node.tally.worker.segments) == sum(k * n for k, n in enumerate(source.exits, 1)), "a segment ran twice"
    assert not node._payloads
    (path,) = journals(tmp_path)
    assert replay(path, experiment, node.life.prepared.card) is None


def test_a_payload_that_comes_right_behind_the_news_that_it_was_delivered_stays(
    prepared: PreparedNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour acknowledges a task and hands it back, and both arrive together."""
    life = Life(flood(), prepared, "n1", 0, time.time(), None)
    node = Node(life, life.runner(), "127.0.0.1")
    task, image = Task(7, 0, 2, 4), np.zeros(1, np.float32)
    node._payloads[task.key] = image
    monkeypatch.setattr(node._worker, "handle", lambda event, now: [fx.DiscardPayloads((task.key,))])
    node._arrived(ev.TimerFired("the news"))
    node._keep((task,), [image])
    assert node._payloads == {task.key: image}
    node.stop()


def test_hand_overs_that_come_together_are_one_round_of_events(
    prepared: PreparedNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(flood(), prepared, "n1", 0, time.time(), None)
    node = Node(life, life.runner(), "127.0.0.1")
    image = np.zeros(life.prepared.features.shape(0), life.prepared.features.dtype(0))
    rounds: list[int] = []
    monkeypatch.setattr(node, "_handle_events", lambda: rounds.append(len(node._events)))
    tasks = [Task(n, 0, 1, image.nbytes) for n in (1, 2, 3, 2)]
    sent = [wire.encode(fx.SendTasks("n1", n, (task,)), [image]) for n, task in enumerate(tasks)]
    node.exchange.take_in("n2", [frame for frames in sent for frame in frames])
    assert not node.exchange.refused and len(node._events) == 4
    assert rounds == [3], "before the second payload of task 2, since the news before it may let go of the first"
    node.stop()


def test_groups_are_computed_together(alone: Callable[..., Node]) -> None:
    experiment = flood(data_max=60, **{"worker.group_max": 8, "exit": "never"})
    node = alone(experiment)
    finish(node)
    assert node.tally.source is not None and node.tally.source.exits == [0, 0, 0, 0, 60]
    assert not node._payloads


def test_grouped_answers_are_those_of_the_whole_network(alone: Callable[..., Node], tmp_path: Path) -> None:
    experiment = flood(data_max=60, **{"worker.group_max": 16})
    node = alone(experiment, tmp_path)
    finish(node)
    data, runner = Images(experiment, node.life.prepared.card), node.life.runner()
    (path,) = journals(tmp_path)
    answers = {
        done.data_id: (done.k, done.prediction)
        for step in read(path)
        for done in step.effects
        if isinstance(done, fx.Complete)
    }
    assert len(answers) == 60 and len({k for k, _ in answers.values()}) > 1
    for data_id, answer in answers.items():
        carried: Any = data.image(data_id)[None]
        for k in range(1, 6):
            (reading,), carried = runner.run(k, carried)
            if k == 5 or reading.confidence > 0.8:
                break
        assert answer == (k, reading.prediction), f"datum {data_id}"


def test_an_image_that_cannot_be_read_fails_by_name_and_the_run_goes_on(
    alone: Callable[..., Node], tmp_path: Path
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for n in range(3):
            Image.new("RGB", (32, 32), (40 * n, 0, 0)).save(tmp_path / name / f"{n}.png")
    (tmp_path / "cat" / "broken.png").write_bytes(b"\x89PNG no more")
    node = alone(flood(dataset=str(tmp_path), data_max=14))
    finish(node)
    source = node.tally.source
    assert source is not None
    assert (source.outcomes["completed"], source.outcomes["failed"]) == (12, 2), "7 images, each offered twice"
    assert all("cat/broken.png" in reason for reason in source.reasons["failed"])


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_images_decoded_ahead_are_those_asked_for_and_few(
    prepared: PreparedNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    (tmp_path / "cat").mkdir()
    for n in range(12):
        Image.new("RGB", (32, 32), (20 * n, 0, 0)).save(tmp_path / "cat" / f"{n:02}.png")
    (tmp_path / "cat" / "12.png").write_bytes(b"\x89PNG no more")
    monkeypatch.setattr(images, "_SHORT_S", -1.0)
    monkeypatch.setattr(images, "_KEPT_BYTES_MAX", kept_bytes)
    experiment = flood(dataset=str(tmp_path))
    data = Images(experiment, prepared.card)
    unreadable = 0
    for data_id in (*range(5), 3, 1, *range(12, 40), 20, 100, 101):  # some again, some shed
        index = assembly.datum_index(experiment, data_id, 13)
        if index == 12:
            unreadable += 1
            with pytest.raises(UnreadableImage, match=r"12\.png"):
                data.image(data_id)
        else:
            assert set(data.image(data_id)[0].flat) == {20 * index}
        assert len(data._ahead) <= 4 and min(data._ahead, default=1000) > data._latest
    assert unreadable > 0 and data._reader._threads
    data.close()


def test_images_of_other_sizes_are_resized_where_the_experiment_says_so(
    alone: Callable[..., Node], prepared: PreparedNet, tmp_path: Path
) -> None:
    for name, size in (("cat", (64, 48)), ("dog", (32, 32))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size).save(tmp_path / name / "1.png")
    with pytest.raises(UserError, match=r"cat/1\.png is 48x64, dog/1\.png is 32x32.*resize: true"):
        Images(flood(dataset=str(tmp_path)), prepared.card)
    (tmp_path / "dog" / "1.png").unlink()
    with pytest.raises(UserError, match=r"images are 48x64, the network takes 32x32; allowed: that size, or resize"):
        Images(flood(dataset=str(tmp_path)), prepared.card)
    node = alone(flood(dataset=str(tmp_path), resize=True, data_max=6))
    finish(node)
    assert node.tally.source is not None and node.tally.source.outcomes["completed"] == 6


def test_classes_that_the_network_does_not_know_are_refused(prepared: PreparedNet, tmp_path: Path) -> None:
    (tmp_path / "unicorn").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "unicorn" / "1.png")
    life = Life(flood(dataset=str(tmp_path)), prepared, "n1", 0, time.time())
    with pytest.raises(UserError, match="class 'unicorn' is none of the network's; allowed: airplane, "):
        Node(life, life.runner(), "127.0.0.1")


def test_the_device_of_an_experiment_is_where_segments_run() -> None:
    for device in ("cpu", "auto", "cuda"):
        experiment = flood(**{"runtime.backend": "torch", "runtime.device": device})
        life = Life(experiment, compute.prepare(experiment.model, "torch"), "n1", 0, time.time())
        if device == "cuda" and not torch.cuda.is_available():
            with pytest.raises(UserError, match="device is 'cuda', but torch sees 0 CUDA devices here"):
                life.runner()
        else:
            wanted = "cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda"
            (runs_on,) = {weight.device.type for weight in cast(TorchRunner, life.runner())._network.parameters()}
            assert runs_on == wanted


@dataclass(frozen=True, slots=True)
class Faulty:
    """An exit policy with a bug."""

    def remember(self, task: object, reading: object, view: object) -> tuple[()]:
        return ()

    def decide(self, task: object, reading: object, view: object) -> ExitDecision:
        raise ZeroDivisionError("a bug in a policy")


def test_a_bug_ends_the_loop_and_says_where(prepared: PreparedNet) -> None:
    experiment = replace(flood(), exit=Faulty())
    worker = WorkerProcess()
    worker.open(Life(experiment, prepared, "n1", 0, time.time()), "127.0.0.1")
    worker.connect({}, assembly.routes_for(experiment, ["n1"], 1)["n1"])
    assert worker.linked(0.0) == []
    worker.tell(ev.AdmissionOpened())
    ended = worker.watch()
    assert ended.failure == "n1: ZeroDivisionError: a bug in a policy"
    assert ended.traceback.startswith("Traceback") and "in decide" in ended.traceback
    with pytest.raises(LifeOver, match="n1 has ended"):
        worker.status()
    closed = worker.close()
    assert closed.tally.node == "n1" and closed.ended == ended


def test_a_process_given_up_for_dead_begins_its_next_life_where_the_former_one_listened(prepared: PreparedNet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        experiment = flood(**{"runtime.port_base": free.getsockname()[1]})
    worker = WorkerProcess()
    first = worker.open(Life(experiment, prepared, "n1", 0, time.time()), "127.0.0.1")
    second = worker.open(Life(experiment, prepared, "n1", 1, time.time()), "127.0.0.1")
    assert first.address.endpoint == second.address.endpoint and first.address.key != second.address.key
    assert worker.close().tally.epoch == 1


def test_what_a_worker_idled_before_admission_opened_is_not_counted(prepared: PreparedNet) -> None:
    experiment = flood()
    worker = WorkerProcess()
    worker.open(Life(experiment, prepared, "n1", 0, time.time()), "127.0.0.1")
    worker.connect({}, assembly.routes_for(experiment, ["n1"], 1)["n1"])
    time.sleep(0.2)
    began_s = time.monotonic()
    worker.begin()
    closed = worker.close()
    assert 0 < closed.tally.worker.observed_s <= time.monotonic() - began_s


def test_a_journal_s_end_that_the_disk_does_not_take_is_told_when_it_is_closed(
    prepared: PreparedNet, tmp_path: Path
) -> None:
    experiment = flood()
    worker = WorkerProcess()
    worker.open(Life(experiment, prepared, "n1", 0, time.time(), tmp_path), "127.0.0.1")
    (journal,) = journals(tmp_path)
    (descriptor,) = (fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and fd.resolve() == journal)
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), int(descriptor.name))
    worker.connect({}, assembly.routes_for(experiment, ["n1"], 1)["n1"])
    closed = worker.close()
    assert closed.ended.failure == f"n1: {journal}: cannot be written (No space left on device)"
    assert not closed.ended.traceback and closed.tally.worker.observed_s > 0


def test_a_disk_that_does_not_take_the_journal_is_one_line_and_no_traceback(
    prepared: PreparedNet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    worker = WorkerProcess()
    life = Life(flood(), prepared, "n1", 0, time.time(), tmp_path / "file" / "journals")
    with pytest.raises(UserError, match=r"^[^\n]*cannot be written[^\n]*$") as refused:
        worker.open(life, "127.0.0.1")
    assert type(refused.value) is UserError, "a subclass with other arguments would not survive the way to the launcher"


def test_journals_from_elsewhere_that_the_disk_does_not_take_are_a_note_and_the_figures_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    closed = Closed(NodeTally("n1", 5), 0, 0, 0.0, (), None, (), {"n1-0.journal": b"steps"})
    notes: list[str] = []
    assert launch._journals({"n1": closed}, tmp_path / "new", notes) == tmp_path / "new" / "journals" and not notes
    assert (tmp_path / "new" / "journals" / "n1-0.journal").read_bytes() == b"steps"
    launch._journals({"n1": closed}, tmp_path / "file", notes)
    assert len(notes) == 1 and "journals cannot be written (Not a directory)" in notes[0]


def test_nothing_happens_and_nothing_is_left_open_before_it_is_started(prepared: PreparedNet) -> None:
    life = Life(flood(), prepared, "n1", 0, time.time())
    node = Node(life, life.runner(), "127.0.0.1")
    node.stop()
    with pytest.raises(LifeOver, match="n1 has ended"):
        node.call(lambda: None).result(WITHIN_S)
