"""Running slices: ONNX Runtime against torch, what a peer may send, what a worker needs, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mdi_exit.cachefolder import CACHE_VARIABLE
from mdi_exit.compute import ComputeError, PreparedNet, SegmentRunner, open_runner, prepare, readings
from mdi_exit.compute.export import ExportError, export_segments
from mdi_exit.compute.onnx_runner import open_session
from mdi_exit.compute.torch_runner import feature_shapes
from mdi_exit.dataset import ImageDataset
from mdi_exit.models import checkpoint
from mdi_exit.models.card import BottleneckConfig, Card, CardError
from mdi_exit.models.files import CheckpointError
from mdi_exit.models.multi_exit import MultiExitNetwork

from .networks import BUNDLED, noise, save_untrained

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bundled(cache_root: Path) -> PreparedNet:
    return prepare(BUNDLED, cache_dir=cache_root)


@pytest.fixture(scope="module")
def runner(bundled: PreparedNet) -> SegmentRunner:
    return open_runner(bundled, range(1, 6))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("untrained") / "net")


def through(runner: SegmentRunner, images: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(confidences, predictions) of each exit, every datum going to the end."""
    said, carried = [], images
    for k in range(1, runner.exits + 1):
        exit_readings, feature = runner.run(k, carried)
        said.append(tuple(np.array([getattr(r, name) for r in exit_readings]) for name in ("confidence", "prediction")))
        if k == runner.exits:
            assert feature is None
            break
        assert feature is not None and feature.shape == (len(images), *runner.feature_shape(k))
        assert feature.dtype == np.float32 and feature.flags.c_contiguous
        assert feature.nbytes == len(images) * runner.feature_bytes(k)
        carried = feature
    return said  # type: ignore[return-value]


class TestReadings:
    def test_a_uniform_answer_is_as_uncertain_as_can_be(self) -> None:
        (reading,) = readings(np.zeros((1, 10), np.float32), 0.7)
        assert reading.confidence == pytest.approx(0.1) and reading.entropy == pytest.approx(math.log(10))

    def test_the_temperature_divides_the_logits_and_leaves_the_prediction(self) -> None:
        logits = np.array([[1.0, 3.0, 2.0], [4.0, 0.0, -1.0]], np.float32)
        for temperature in (0.5, 1.0, 2.0):
            for row, reading in zip(logits, readings(logits, temperature), strict=True):
                shares = [math.exp(z / temperature) for z in row]
                shares = [share / sum(shares) for share in shares]
                assert reading.confidence == pytest.approx(max(shares))
                assert reading.prediction == shares.index(max(shares))
                assert reading.entropy == pytest.approx(-sum(p * math.log(p) for p in shares))

    def test_logits_beyond_the_range_of_exp_are_no_trouble(self) -> None:
        sure, torn = readings(np.array([[-3e38, 3e38], [3e38, 3e38]], np.float32), 1.0)
        assert (sure.confidence, sure.prediction, sure.entropy) == (1.0, 1, 0.0)
        assert torn.confidence == 0.5 and torn.entropy == pytest.approx(math.log(2))

    def test_values_are_plain_python_for_journals_and_messages(self) -> None:
        (reading,) = readings(np.ones((1, 2), np.float32), 1.0)
        assert [type(v) for v in (reading.confidence, reading.prediction, reading.entropy)] == [float, int, float]

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_an_answer_that_is_not_finite_is_refused(self, bad: float) -> None:
        with pytest.raises(ComputeError, match="not finite"):
            readings(np.array([[0.0, bad]], np.float32), 1.0)


class TestBackendsAgree:
    @pytest.mark.parametrize("device", DEVICES)
    def test_on_every_image_of_the_bundled_sample(self, runner: SegmentRunner, device: str) -> None:
        images, labels = ImageDataset.open("sample").arrays()
        reference = open_runner(prepare(BUNDLED, "torch"), range(1, 6), device=device)
        accuracies = []
        for start in range(0, len(images), 50):
            batch = images[start : start + 50]
            for (confidence, prediction), (wanted, wanted_prediction) in zip(
                through(runner, batch), through(reference, batch), strict=True
            ):
                np.testing.assert_allclose(confidence, wanted, atol=1e-3)
                np.testing.assert_array_equal(prediction, wanted_prediction)
                accuracies.append(float((prediction == labels[start : start + 50]).mean()))
        assert np.mean(accuracies) > 0.3, "the sample's labels are not the network's: agreement would mean little"

    @pytest.mark.parametrize(
        ("architecture", "bottlenecks", "size"),
        [
            ("mobilenet_v2", (BottleneckConfig(1, 6, 2), BottleneckConfig(3, 8)), 32),
            ("mobilenet_v2", (), 96),
            ("resnet50", (BottleneckConfig(1, 12, 2), BottleneckConfig(2, 16)), 32),
            ("resnet50", (BottleneckConfig(1, 12, 2),), 96),
        ],
    )
    def test_and_slices_composed_equal_the_whole_network(
        self, tmp_path: Path, architecture: str, bottlenecks: tuple[BottleneckConfig, ...], size: int
    ) -> None:
        weights = save_untrained(tmp_path / "net", architecture, bottlenecks, size)
        images = noise(3, size)
        network, card = checkpoint.load(weights)
        with torch.inference_mode():
            logits = [each.numpy() for each in network.forward_exits(torch.from_numpy(images))]
        wanted = [readings(each, t) for each, t in zip(logits, card.temperatures, strict=True)]
        for backend in ("onnx", "torch"):
            slices = open_runner(prepare(weights, backend, tmp_path / "cache"), range(1, network.exits + 1))
            for (confidence, prediction), expected in zip(through(slices, images), wanted, strict=True):
                np.testing.assert_allclose(confidence, [r.confidence for r in expected], atol=1e-3)
                assert prediction.tolist() == [r.prediction for r in expected]
        code = next((b for b in bottlenecks if b.cut == 1), None)
        assert code is None or slices.feature_shape(1)[0] == code.channels

    def test_logits_and_not_only_what_is_made_of_them(self, untrained: Path) -> None:
        network, card = checkpoint.load(untrained)
        features = feature_shapes(network, card.model.image_size)
        images = noise(5)
        with torch.inference_mode():
            wanted = [each.numpy() for each in network.forward_exits(torch.from_numpy(images))]
        carried = images
        for k, model in enumerate(export_segments(network, features), start=1):
            session = open_session(model, 1)
            logits, *rest = session.run(None, {session.get_inputs()[0].name: carried})
            np.testing.assert_allclose(logits, wanted[k - 1], atol=1e-3)
            carried = rest[0] if rest else carried

    def test_an_export_that_differs_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network, card = checkpoint.load(BUNDLED)
        forward = MultiExitNetwork.forward_exits
        monkeypatch.setattr(MultiExitNetwork, "forward_exits", lambda *a: [each + 0.1 for each in forward(*a)])
        with pytest.raises(ExportError, match=r"segment 1 exported by torch .* differs .* use the backend torch"):
            export_segments(network, feature_shapes(network, card.model.image_size))


class TestWhatAPeerMaySend:
    @pytest.mark.parametrize("backend", ["onnx", "torch"])
    @pytest.mark.parametrize(
        ("k", "batch"),
        [
            (1, np.zeros((1, 3, 32, 31), np.uint8)),
            (1, np.zeros((1, 3, 32, 32), np.float32)),
            (1, np.zeros((3, 32, 32), np.uint8)),
            (1, np.zeros((0, 3, 32, 32), np.uint8)),
            (1, np.zeros((), np.uint8)),
            (2, np.zeros((2, 24, 16, 16), np.float64)),
            (2, np.zeros((2, 24, 16, 16), ">f4")),
            (2, np.zeros((2, 32, 8, 8), np.float32)),
        ],
    )
    def test_what_does_not_fit_is_refused_with_what_would(
        self, cache_root: Path, backend: str, k: int, batch: np.ndarray
    ) -> None:
        runner = open_runner(prepare(BUNDLED, backend, cache_root), (1, 2))
        with pytest.raises(ComputeError, match=rf"segment {k} was given .*; it takes (uint8|float32) \(N, "):
            runner.run(k, batch)

    @pytest.mark.parametrize("backend", ["onnx", "torch"])
    def test_read_only_and_strided_memory_is_fine(self, cache_root: Path, backend: str) -> None:
        runner = open_runner(prepare(BUNDLED, backend, cache_root), (1,))
        images = noise(4)
        frozen = np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape)
        assert runner.run(1, frozen)[0] == runner.run(1, images)[0]
        assert runner.run(1, frozen[::2])[0] == runner.run(1, np.ascontiguousarray(images[::2]))[0]

    def test_features_that_are_not_finite_do_not_become_an_answer(self, runner: SegmentRunner) -> None:
        for k in range(2, 6):
            with pytest.raises(ComputeError, match="not finite"):
                runner.run(k, np.full((1, *runner.feature_shape(k - 1)), np.inf, np.float32))


class TestSlices:
    @pytest.mark.parametrize("backend", ["onnx", "torch"])
    def test_a_worker_runs_its_own_segments_only(self, cache_root: Path, backend: str) -> None:
        prepared = prepare(BUNDLED, backend, cache_root)
        middle = open_runner(prepared, [4, 3])
        assert (middle.hosted, middle.exits) == ((3, 4), 5)
        assert len(middle.run(3, np.zeros((2, *middle.feature_shape(2)), np.float32))[0]) == 2
        with pytest.raises(ComputeError, match="segment 1 is not hosted here"):
            middle.run(1, noise(1))

    def test_models_of_segments_not_hosted_are_never_read(self, bundled: PreparedNet, tmp_path: Path) -> None:
        folder = shutil.copytree(bundled.models[0].parent, tmp_path / "copy")
        moved = PreparedNet(
            "onnx", bundled.card, bundled.weights, tuple(folder / m.name for m in bundled.models), bundled.features
        )
        for path in moved.models[2:]:
            path.unlink()
        assert open_runner(moved, (1, 2)).hosted == (1, 2)
        with pytest.raises(ComputeError, match=r"segment-3\.onnx: ONNX Runtime cannot load it"):
            open_runner(moved, (3,))

    def test_sizes_are_those_of_the_recorded_trace(self, runner: SegmentRunner) -> None:
        assert [runner.feature_bytes(k) for k in range(6)] == [3072, 24576, 8192, 4096, 6144, 0]

    @pytest.mark.parametrize("backend", ["onnx", "torch"])
    def test_a_worker_elsewhere_needs_only_what_is_sent_to_it(
        self, tmp_path: Path, untrained: Path, backend: str
    ) -> None:
        weights = Path(shutil.copy(untrained, tmp_path))
        shutil.copy(untrained.with_suffix(".json"), tmp_path)
        prepared = prepare(weights, backend, tmp_path / "cache")
        here = open_runner(prepared, (1, 2)).run(1, noise(2))[0]
        sent = pickle.dumps(prepared.carrying((1, 2)))
        assert len(pickle.dumps(prepared)) < 10_000 < len(sent)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        weights.unlink()
        assert open_runner(pickle.loads(sent), (1, 2)).run(1, noise(2))[0] == here

    def test_waiting_threads_sleep(self, bundled: PreparedNet) -> None:
        options = open_session(bundled.models[0], 2).get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


class TestRefusals:
    def test_backend(self) -> None:
        with pytest.raises(ComputeError, match="backend is 'tensorrt'; allowed are onnx, torch"):
            prepare(BUNDLED, "tensorrt")

    def test_onnx_on_an_accelerator(self, bundled: PreparedNet) -> None:
        with pytest.raises(ComputeError, match="device is 'cuda'; the backend onnx runs on cpu"):
            open_runner(bundled, (1,), device="cuda")

    def test_onnx_on_whatever_there_is(self, bundled: PreparedNet) -> None:
        with pytest.raises(ComputeError, match="device is 'auto'; the backend onnx runs on cpu"):
            open_runner(bundled, (1,), device="auto")

    @pytest.mark.parametrize(
        ("device", "reason"),
        [
            ("gpu", "allowed are cpu, cuda"),
            ("meta", "allowed are cpu, cuda"),
            ("cuda:64", "torch sees .* CUDA devices"),
        ],
    )
    def test_a_device_that_is_not_there(self, device: str, reason: str) -> None:
        with pytest.raises(ComputeError, match=f"device is '{device}'.*{reason}"):
            open_runner(prepare(BUNDLED, "torch"), (1,), device=device)

    def test_a_checkpoint_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=f"no such checkpoint .*bundled are: .*{BUNDLED}"):
            prepare(tmp_path / "absent")

    def test_a_card_that_is_not_there(self, tmp_path: Path, untrained: Path) -> None:
        with pytest.raises(CardError, match="no such file"):
            prepare(shutil.copy(untrained, tmp_path), cache_dir=tmp_path / "cache")

    def test_weights_that_are_not_the_cards_although_exported_before(
        self, tmp_path: Path, untrained: Path, cache_root: Path
    ) -> None:
        prepare(untrained, cache_dir=cache_root)
        weights = Path(shutil.copy(untrained, tmp_path / "mixed.safetensors"))
        card = dataclasses.replace(Card.load(untrained.with_suffix(".json")), weights_sha256="0" * 64)
        card.save(weights.with_suffix(".json"))
        with pytest.raises(CheckpointError, match=r"not the weights of mixed\.json"):
            prepare(weights, cache_dir=cache_root)


def test_a_worker_that_runs_onnx_never_imports_torch(bundled: PreparedNet, cache_root: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from mdi_exit.compute import open_runner, prepare\n"
        f"prepared = prepare({BUNDLED!r})\n"
        "runner = open_runner(prepared, range(1, 6))\n"
        "batch = np.zeros((1, 3, 32, 32), np.uint8)\n"
        "for k in range(1, 6): readings, batch = runner.run(k, batch)\n"
        "print(len(readings), batch, sorted({'torch', 'onnx', 'ray'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, CACHE_VARIABLE: str(cache_root)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1 None []\n", "")
