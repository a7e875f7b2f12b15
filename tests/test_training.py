"""Training, calibration and traces, on networks and data small enough to be quick."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from mdi_exit.analysis.calibrated import expected_calibration_error
from mdi_exit.cli import learn, simulate
from mdi_exit.config.load import load_experiment
from mdi_exit.config.settings import parse_setting
from mdi_exit.errors import UserError
from mdi_exit.machine import command_line
from mdi_exit.models import checkpoint
from mdi_exit.models.card import BottleneckConfig, Card, CardError, ModelConfig
from mdi_exit.models.files import resolve
from mdi_exit.models.multi_exit import ExitHead, MultiExitNetwork, Normalize
from mdi_exit.softmax import softmax
from mdi_exit.trace import ExitTrace, TraceError
from mdi_exit.training import calibrate, evaluate, fit, optimise, plots, record
from mdi_exit.training.augment import augment
from mdi_exit.training.split import stratified_split
from mdi_exit.training.train import changes_of_plan, parse_bottleneck

SIDE = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny batches gain nothing from threads, and sums in a fixed order can be compared to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def coloured(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise with a red or a blue cast: two classes that any network can learn."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.int64)
    images = generator.integers(0, 120, (count, 3, SIDE, SIDE), dtype=np.uint8)
    images[labels == 0, 0] += 100
    images[labels == 1, 2] += 100
    return images, labels


def settings(**changes: Any) -> fit.TrainingConfig:
    model = ModelConfig("mobilenet_v2", SIDE, ("blue", "red"), (0.4, 0.3, 0.4), (0.2, 0.2, 0.2))
    values: dict[str, Any] = {
        "model": model, "epochs": 3, "batch_size": 8, "learning_rate": 0.05, "weight_decay": 5e-4,
        "label_smoothing": 0.05, "ema_decay": 0.9, "padding": 2, "cutout": 4, "early_crop": 12,
        "early_crop_share": 0.4, "bf16": False, "init": "", "seed": 5,
    }  # fmt: skip
    return fit.TrainingConfig(**{**values, **changes})


class _PowerCut(Exception):
    pass


def run(config: fit.TrainingConfig, state: Path, stop_at_step: int | None = None) -> MultiExitNetwork:
    def watch(progress: fit.Progress) -> None:
        if progress.step == stop_at_step:
            raise _PowerCut

    images, labels = coloured(16)
    network, _ = fit.fit(config, images, labels, coloured(4, seed=1), state, progress=watch)
    return network


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """Cut in the middle of the second epoch, the first on the large images, so that half an epoch is done again."""
    whole = run(settings(), tmp_path / "whole.pt")
    with pytest.raises(_PowerCut):
        run(settings(), tmp_path / "cut.pt", stop_at_step=3)
    resumed = run(settings(), tmp_path / "cut.pt")
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())
    again = run(settings(seed=6), tmp_path / "other.pt")
    assert not torch.equal(next(again.parameters()), next(whole.parameters()))


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    first = run(settings(epochs=1), tmp_path / "state.pt")
    second = run(settings(epochs=1), tmp_path / "state.pt", stop_at_step=1)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    run(settings(epochs=1), tmp_path / "state.pt")
    with pytest.raises(fit.TrainingError, match=r"state\.pt: holds another run \(batch_size: 8 -> 4\); give"):
        run(settings(epochs=1, batch_size=4), tmp_path / "state.pt")
    model = dataclasses.replace(settings().model, bottlenecks=(BottleneckConfig(1, 4, 2),), classes=("b", "r"))
    with pytest.raises(fit.TrainingError) as error:
        run(settings(epochs=1, model=model, seed=6), tmp_path / "state.pt")
    differences = "model.classes: blue, red -> b, r, model.bottlenecks: none -> 1:4:2, seed: 5 -> 6"
    assert f"holds another run ({differences}); " in str(error.value)
    long = dataclasses.replace(model, classes=("b" * 99, "r"))
    assert len(fit._differences(dataclasses.asdict(model), dataclasses.asdict(long))[0]) < 100
    (tmp_path / "state.pt").write_bytes(b"half a fi")
    with pytest.raises(fit.TrainingError, match=r"state\.pt: not a readable training state"):
        run(settings(epochs=1), tmp_path / "state.pt")


def test_training_learns_and_its_history_says_so(tmp_path: Path) -> None:
    images, labels = coloured(48)
    config = settings(epochs=4, cutout=0, early_crop=0, learning_rate=0.03)
    _, history = fit.fit(config, images, labels, coloured(16, seed=1), tmp_path / "state.pt")
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert max(history[-1]["validation_accuracy"]) >= 0.75


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(fit.TrainingError, match=r"try a lower --lr than 1e\+30"):
        run(settings(learning_rate=1e30), tmp_path / "state.pt")


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [optimise.learning_rate_at(step, 200, 0.4) for step in range(200)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.4) and peak in (19, 20)
    assert all(a < b for a, b in itertools.pairwise(rates[:peak]))
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))
    assert rates[0] == pytest.approx(0.02) and rates[-1] < 1e-4


def test_the_average_follows_closely_at_first_and_slowly_later() -> None:
    network, average = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    with torch.no_grad():
        network.weight.fill_(3.0)
    network.num_batches_tracked = torch.tensor(7)
    optimise.update_average(average, network, step=0, decay=0.99)
    assert average.weight.item() == pytest.approx(1.0 + 0.9 * 2.0)  # share 1 - (1 + 0) / (10 + 0)
    assert average.num_batches_tracked is not None and int(average.num_batches_tracked) == 7
    with torch.no_grad():
        average.weight.fill_(1.0)
    optimise.update_average(average, network, step=10**6, decay=0.99)
    assert average.weight.item() == pytest.approx(1.02)


def test_later_exits_weigh_more_and_only_weights_decay() -> None:
    weights = optimise.exit_weights(5)
    assert list(weights) == sorted(set(weights)) and weights[-1] == 1.0
    assert optimise.exit_weights(1) == (optimise.FIRST_EXIT_WEIGHT,)
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    decays = {id(p): g["weight_decay"] for g in optimise.make_optimizer(layer, 0.1).param_groups for p in g["params"]}
    assert {name: decays[id(p)] for name, p in layer.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip


def positions(count: int, side: int) -> torch.Tensor:
    """Images whose first channel holds the row, the second the column, the third a constant."""
    image = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    image[:, 0] = torch.arange(side).view(-1, 1)
    image[:, 1] = torch.arange(side).view(1, -1)
    image[:, 2] = 9
    return image


def test_a_crop_is_a_window_of_the_image_or_its_mirror() -> None:
    batch = augment(positions(200, 12), padding=4, crop=8, cutout=0, generator=torch.Generator().manual_seed(0)).int()
    assert batch.shape == (200, 3, 8, 8)
    down, across = batch[:, 0].diff(dim=1), batch[:, 1].diff(dim=2)
    assert torch.all(down == 1) and torch.all(across.abs() == 1) and torch.all(batch[:, 2] == 9)
    mirrored = (across[:, 0, 0] == -1).float().mean()
    assert 0.35 < mirrored < 0.65
    assert set(batch[:, 0, 0, 0].tolist()) == {0, 1, 2, 3, 4}


def test_a_shifted_image_keeps_its_size_and_mirrors_its_border() -> None:
    batch = augment(positions(200, 8), padding=2, crop=0, cutout=0, generator=torch.Generator().manual_seed(0))
    assert batch.shape == (200, 3, 8, 8) and batch.dtype == torch.uint8
    rows = {tuple(rows) for rows in batch[:, 0, :, 0].tolist()}
    assert rows == {
        (2, 1, 0, 1, 2, 3, 4, 5), (1, 0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 6, 7),
        (1, 2, 3, 4, 5, 6, 7, 6), (2, 3, 4, 5, 6, 7, 6, 5),
    }  # fmt: skip


def test_cutout_hides_at_most_its_square_and_a_seed_repeats_a_batch() -> None:
    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return augment(positions(50, 16), padding=0, crop=0, cutout=6, generator=generator)

    hidden = (draw(1) == 127).all(dim=1).sum(dim=(1, 2))
    assert hidden.min() >= 1 and 20 <= hidden.max() <= 36
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_a_split_holds_out_its_share_of_each_class() -> None:
    labels = np.repeat(np.arange(3), (100, 40, 3))
    training, held = stratified_split(labels, 0.1, seed=4)
    assert np.bincount(labels[held]).tolist() == [10, 4, 1]
    assert sorted([*training, *held]) == list(range(143))
    assert np.array_equal(held, stratified_split(labels, 0.1, seed=4)[1])
    assert not np.array_equal(held, stratified_split(labels, 0.1, seed=5)[1])


def test_a_split_that_holds_out_nothing_is_refused() -> None:
    assert stratified_split(np.array([0, 0, 1]), 0.1, seed=0)[1].tolist() in ([0], [1])
    with pytest.raises(UserError, match="2 images are too few"):
        stratified_split(np.array([0, 1]), 0.1, seed=0)


def test_expected_calibration_error_by_hand() -> None:
    """Two of 15 bins are filled: one claims 0.95 and gets 1 of 2, one claims 0.30 and gets 1 of 2."""
    confidence = np.array([0.95, 0.95, 0.30, 0.30])
    correct = np.array([True, False, True, False])
    error = expected_calibration_error(confidence, correct)
    assert error == pytest.approx(0.5 * 0.45 + 0.5 * 0.20)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0


def honest_logits(count: int, classes: int = 4) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits whose softmax is the very distribution the labels are drawn from."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (count, classes))
    shares = softmax(logits.astype(np.float32))
    labels = (shares.cumsum(axis=1) < generator.random((count, 1))).sum(axis=1)
    return logits.astype(np.float32), np.minimum(labels, classes - 1).astype(np.int64)


def test_temperatures_undo_over_and_under_confidence() -> None:
    logits, labels = honest_logits(4000)
    claimed = np.stack([3 * logits, logits, 0.5 * logits])
    temperatures = calibrate.fit_temperatures(claimed, labels)
    assert temperatures == pytest.approx((3.0, 1.0, 0.5), rel=0.06)
    before = evaluate.calibration_errors(claimed, labels, (1.0, 1.0, 1.0))
    after = evaluate.calibration_errors(claimed, labels, temperatures)
    assert before[0] > 0.1 and before[2] > 0.1 and max(after) < 0.03


def tiny_network() -> MultiExitNetwork:
    torch.manual_seed(0)
    first = torch.nn.Sequential(Normalize((0.4, 0.3, 0.4), (0.2, 0.2, 0.2)), torch.nn.Conv2d(3, 4, 3, 2, 1))
    second = torch.nn.Conv2d(4, 6, 3, 2, 1)
    return MultiExitNetwork([first, second], [ExitHead(4, 8, 2), ExitHead(6, 8, 2)]).eval()


def test_a_trace_holds_calibrated_confidences_and_what_travels() -> None:
    network = tiny_network()
    images, labels = coloured(10)
    card = Card(settings().model, 0, "none", "none", 0.1, 0, (2.0, 0.5, 1.0, 1.0, 1.0))
    card = dataclasses.replace(card, weights_sha256="f" * 64)
    two_exits = _TwoExits(card)
    trace = record.record(network, two_exits, images, labels)  # type: ignore[arg-type]
    assert (len(trace), trace.exits) == (10, 2)
    with torch.no_grad():
        logits = network.forward_exits(torch.from_numpy(images))
    for k, temperature in enumerate((2.0, 0.5)):
        shares = torch.softmax(logits[k].double() / temperature, dim=1).numpy()
        np.testing.assert_allclose(trace.confidence[:, k], shares.max(axis=1), atol=1e-6)
        np.testing.assert_allclose(trace.entropy[:, k], -(shares * np.log(shares)).sum(axis=1), atol=1e-6)
        assert np.array_equal(trace.prediction[:, k], shares.argmax(axis=1))
    assert trace.payload_bytes == (3 * SIDE * SIDE, 4 * 8 * 8 * 4, 0)
    assert trace.label.tolist() == labels.tolist()
    assert trace.card == "mobilenet_v2-ffffffffffff@2.0000,0.5000,1.0000,1.0000,1.0000"


class _TwoExits:
    """A card cut down to the two exits of `tiny_network`."""

    def __init__(self, card: Card) -> None:
        self.model, self.identity, self.temperatures = card.model, card.identity, card.temperatures[:2]


def small_trace() -> ExitTrace:
    return ExitTrace(
        confidence=np.array([[0.5, 0.9], [0.6, 0.8]], dtype=np.float32),
        prediction=np.array([[0, 1], [1, 1]], dtype=np.int16),
        entropy=np.array([[0.7, 0.3], [0.6, 0.5]], dtype=np.float32),
        label=np.array([1, 1], dtype=np.int16),
        payload_bytes=(3072, 100, 0),
        classes=("cat", "dog"),
        card="some card",
    )


def test_a_trace_survives_being_written_and_the_same_trace_gives_the_same_bytes(tmp_path: Path) -> None:
    trace = small_trace()
    assert trace.accuracy() == (0.5, 1.0)
    trace.save(tmp_path / "one.npz")
    trace.save(tmp_path / "folder" / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "folder" / "two.npz").read_bytes()
    read = ExitTrace.load(tmp_path / "one.npz")
    for name in ("confidence", "prediction", "entropy", "label"):
        assert np.array_equal(getattr(read, name), getattr(trace, name)), name
    assert (read.payload_bytes, read.classes, read.card) == (trace.payload_bytes, trace.classes, trace.card)


@pytest.mark.parametrize(("changes", "message"), [
    ({"confidence": np.array([[0.5, 1.9], [0.6, 0.8]])}, "confidence must lie in 0..1"),
    ({"confidence": np.array([[0.5, np.nan], [0.6, 0.8]])}, "confidence must lie in 0..1"),
    ({"confidence": np.zeros((0, 2))}, "at least 1 x 1"),
    ({"prediction": np.array([[0, 2], [1, 1]])}, "prediction and label must lie in 0..1"),
    ({"label": np.array([1, -1])}, "prediction and label must lie in 0..1"),
    ({"label": np.array([1, 1, 1])}, "disagree about the number"),
    ({"payload_bytes": np.array([3072, 100])}, "payload_bytes must be 3 sizes"),
    ({"card": None}, "array card is missing"),
    ({"classes": np.array([{}, []], dtype=object)}, "not a readable trace"),
    ({"confidence": np.array([["a", "b"], ["c", "d"]])}, "arrays of the wrong kind"),
])  # fmt: skip
def test_a_trace_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "trace.npz"
    small_trace().save(path)
    with np.load(path) as content:
        arrays = {**content, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(TraceError, match=f"trace.npz: .*{message}"):
        ExitTrace.load(path)


def test_a_trace_that_is_missing_or_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        ExitTrace.load(tmp_path / "trace.npz")
    (tmp_path / "trace.npz").write_bytes(b"PK\x03\x04 but not really")
    with pytest.raises(TraceError, match="not a readable trace"):
        ExitTrace.load(tmp_path / "trace.npz")


def test_the_bundled_trace_belongs_to_the_bundled_network() -> None:
    weights = resolve("mobilenetv2-cifar10")
    trace = ExitTrace.load(weights.with_name("mobilenetv2-cifar10-sample.trace.npz"))
    card = Card.load(weights.with_suffix(".json"))
    assert trace.card == card.identity and trace.classes == card.model.classes
    assert (len(trace), trace.exits) == (1000, 5)
    assert trace.payload_bytes[0] == 3 * 32 * 32
    assert card.test is not None and trace.accuracy() == pytest.approx(card.test.accuracy, abs=0.03)


def test_a_card_says_when_the_number_of_epochs_was_changed_on_the_way() -> None:
    history = [{"epoch": n, "epochs_planned": planned} for n, planned in enumerate((9, 9, 5, 5, 5), start=1)]
    assert changes_of_plan(history) == "resumed with another --epochs: 9 in epochs 1-2, 5 in epochs 3-5"
    assert changes_of_plan(history[:2]) == ""


@pytest.mark.parametrize("text", ["", "1", "1:a", "1:2:3:4", "x:4:2"])
def test_a_bottleneck_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(CardError, match="allowed is CUT:CHANNELS:STRIDE"):
        parse_bottleneck(text)


def write_images(path: Path, count: int, seed: int = 0, folders: tuple[str, str] = ("blue", "red")) -> Path:
    images, labels = coloured(count, seed)
    with zipfile.ZipFile(path, "w") as archive:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG")
            archive.writestr(f"{folders[label]}/{index:03d}.png", buffer.getvalue())
    return path


def invoke(*words: str | Path) -> int:
    """Run a command as the command line would; a UserError comes through."""
    return said(*words)[0]


def said(*words: str | Path) -> tuple[int, str]:
    """The same, and what it said, on standard output and error."""
    app = typer.Typer()
    learn.register(app)
    simulate.register(app)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def named_next(output: str) -> list[list[str]]:
    """The words of the commands that a command says one might type next."""
    lines = [line.partition("mdi-exit ")[2] for line in output.splitlines() if line.startswith(("Next: ", "  or: "))]
    assert lines, output
    return [shlex.split(line) for line in lines]


TRAINING = (
    *("--batch-size", "18", "--lr", "0.03", "--seed", "3", "--image-size", str(SIDE), "--name", "net"),
    *("--bottleneck", "1:4:2", "--device", "cpu", "--threads", "1"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.zip, test.zip and the outcome of a two-epoch training in net/."""
    folder = tmp_path_factory.mktemp("learn")
    data, test = write_images(folder / "data.zip", 40), write_images(folder / "test.zip", 12, seed=3)
    assert invoke("train", "--data", data, "--out", folder / "net", *TRAINING, "--epochs", "2", "--test", test) == 0
    return folder


def test_train_leaves_a_checkpoint_figures_and_curves(trained: Path) -> None:
    network, card = checkpoint.load(trained / "net" / "net")
    assert network.exits == 5 and "1" in network.bottlenecks and not card.provisional
    assert (card.data, card.data_images, card.epochs, card.seed) == ("data.zip", 40, 2, 3)
    assert card.validation is not None and card.validation.images == 4 and "held-out" in card.validation.data
    assert card.test is not None and card.test.images == 12 and "test" in card.test.data
    assert str(trained) not in card.to_json()
    metrics = json.loads((trained / "net" / "metrics.json").read_text())
    assert len(metrics["history"]) == 2 and metrics["seed"] == 3
    with Image.open(trained / "net" / "training.png") as picture:
        assert picture.width > 400


@pytest.mark.parametrize("epochs", ["1", "2"])
def test_a_finished_run_says_how_to_train_on_and_its_card_keeps_its_epochs(
    epochs: str, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "net", tmp_path / "net")
    before = (tmp_path / "net" / "net.safetensors").read_bytes()
    words = ["train", "--data", str(trained / "data.zip"), "--out", str(tmp_path / "net"), *TRAINING]
    status, output = said(*words, "--epochs", epochs)
    assert status == 0 and "epoch 1" not in output and "training " not in output
    assert f"{tmp_path / 'net'}: this run is finished, nothing was trained; " in output
    assert "more --epochs than 2" in output
    assert Card.load(tmp_path / "net" / "net.json").epochs == 2
    assert (tmp_path / "net" / "net.safetensors").read_bytes() == before


def test_each_command_names_one_that_can_be_typed_next(trained: Path, tmp_path: Path) -> None:
    """From the training to a run, by what was printed alone."""
    out, data = tmp_path / "a folder", str(trained / "data.zip")
    status, output = said("train", "--data", data, "--out", out, *TRAINING, "--epochs", "1")
    assert status == 0 and f"Results in {out}: net.safetensors, net.json, metrics.json, training.png\n" in output
    (calibrating,) = named_next(output)
    status, output = said(*calibrating)
    assert status == 0 and f"Results in {out / 'calibrated'}: net.safetensors, net.json, calibration.json," in output
    running, tracing = named_next(output)
    status, output = said(*(str(trained / "test.zip") if word == "OTHER-IMAGES" else word for word in tracing))
    assert status == 0 and (out / "calibrated" / "trace.npz").exists()
    assert named_next(output) == [[word.replace("data.zip", "test.zip") for word in running]]
    assert running[:2] == ["run", "own-data"] and running[2::2] == ["--set"] * 3
    experiment = load_experiment("own-data", dict(parse_setting(setting) for setting in running[3::2]))
    assert experiment.model == str(out / "calibrated" / "net.safetensors") and experiment.dataset == data


def test_what_is_typed_next_names_a_bundled_network_by_its_name(tmp_path: Path) -> None:
    words = ("mobilenetv2-cifar10", "--data", "sample", "--images", "1", "--out", tmp_path / "trace.npz")
    simulating, running = named_next(said("trace", *words)[1])
    assert running[:2] == ["run", "own-data"] and "model=mobilenetv2-cifar10" in running
    status, output = said(*simulating, "--set", "duration_s=1", "--out", tmp_path)
    assert status == 0 and "Summary" in output and (tmp_path / "report.json").exists(), output


def test_curves_of_one_epoch_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_write", lambda figure, path: drawn.append(figure))
    plots.plot_history([{"epoch": 1, "loss": 2.0, "validation_accuracy": [0.2, 0.5]}], tmp_path / "training.png")
    canvas: Any = FigureCanvasAgg(drawn[0])  # its methods have no types
    lines = [line for axes in drawn[0].axes for line in axes.lines]
    for line in lines:
        canvas.draw()
        with_it = np.array(canvas.buffer_rgba())
        line.set_visible(False)
        canvas.draw()
        assert not np.array_equal(with_it, np.array(canvas.buffer_rgba()))
    assert len(lines) == 3


def test_training_can_start_from_a_checkpoint_and_add_an_autoencoder(trained: Path, tmp_path: Path) -> None:
    options = [word for word in TRAINING if word not in ("--bottleneck", "1:4:2")]
    base, _ = checkpoint.load(trained / "net" / "net")
    words: tuple[str | Path, ...] = ("train", "--data", trained / "data.zip", *options, "--epochs", "1")
    words = (*words, "--init", trained / "net" / "net")
    slow = ("--lr", "1e-6", "--ema-decay", "0", "--bottleneck", "2:4:2")  # next to nothing is learnt
    assert invoke(*words, *slow, "--out", tmp_path / "more") == 0
    network, card = checkpoint.load(tmp_path / "more" / "net")
    assert list(network.bottlenecks) == ["2"] and list(base.bottlenecks) == ["1"]
    before, after = dict(base.segments[0].named_parameters()), dict(network.segments[0].named_parameters())
    assert all(torch.allclose(before[name], after[name], atol=2e-3) for name in before)
    assert card.model.mean == checkpoint.load(trained / "net" / "net")[1].model.mean
    for option, value in (("--model", "b_alexnet"), ("--image-size", "64")):
        with pytest.raises(UserError, match=rf"{option} {value}: --init .* is a network of {option}"):
            invoke(*words, "--out", tmp_path / "other", option, value)
    with pytest.raises(UserError, match="none"):
        invoke(*words[:-1], tmp_path / "none", "--out", tmp_path / "other")


def test_a_card_says_what_its_network_started_from(trained: Path, tmp_path: Path) -> None:
    """And where what is held out was held out there, too, and where not."""
    base = trained / "net" / "net"
    sha = Card.load(base.with_suffix(".json")).weights_sha256
    words = ("train", "--data", trained / "data.zip", *TRAINING, "--epochs", "1", "--init")
    flatters = "trained on other data or another split: what is held out here may have been trained on there"

    def remarks(name: str, *more: str | Path) -> tuple[str, bool]:
        status, output = said(*words, *(more or (base,)), "--out", tmp_path / name)
        assert status == 0
        latest = Card.load(tmp_path / name / "latest.json").remarks
        final = Card.load(tmp_path / name / "net.json").remarks
        assert final.startswith(latest)
        return final, f"mdi-exit: warning: --init {base}: {flatters}" in output

    assert remarks("same") == (f"starts from net ({sha[:12]})", False)
    other = write_images(tmp_path / "other.zip", 40, seed=9)
    others: list[tuple[str, str | Path]] = [("--seed", "4"), ("--validation-share", "0.2"), ("--data", other)]
    for number, changed in enumerate(others):
        told, warned = remarks(f"{number}", base, *changed)
        assert told == f"starts from net ({sha[:12]}), {flatters}" and warned
    longer, _ = remarks("same", base, "--epochs", "2")
    assert longer == f"starts from net ({sha[:12]}); resumed with another --epochs: 1 in epochs 1-1, 2 in epochs 2-2"
    again, warned = remarks("again", tmp_path / "0" / "net", "--seed", "4")
    assert again.endswith(f"; of that its card says: starts from net ({sha[:12]}), {flatters}") and not warned


def test_a_run_from_before_runs_could_tell_goes_on(tmp_path: Path) -> None:
    """Its state file knows neither bf16 nor init: it computed in fp32 on processors, from fresh weights."""
    path = tmp_path / "state.pt"
    run(settings(epochs=1), path)
    state = torch.load(path, weights_only=True)
    for key in ("bf16", "init"):
        del state["fingerprint"][key]
    torch.save(state, path)
    with pytest.raises(fit.TrainingError, match=r"\(bf16: False -> True, init: none -> abc\)"):
        run(settings(epochs=1, bf16=True, init="abc"), path)
    run(settings(epochs=2), path)
    again = torch.load(path, weights_only=True)
    assert (again["epochs_done"], again["fingerprint"]["bf16"], again["fingerprint"]["init"]) == (2, False, "")
    del again["fingerprint"]["cutout"]  # what nobody can know is no "none"
    torch.save(again, path)
    with pytest.raises(fit.TrainingError, match=r"\(cutout: not told -> 4\)"):
        run(settings(epochs=2), path)


def test_who_does_not_say_which_arithmetic_goes_on_with_that_of_the_run(tmp_path: Path) -> None:
    """As on another device than before; a new run is fp32 on a processor."""

    def computed(name: str) -> bool:
        return bool(torch.load(tmp_path / name, weights_only=True)["fingerprint"]["bf16"])

    run(settings(epochs=1, bf16=None), tmp_path / "new.pt")
    run(settings(epochs=1, bf16=True), tmp_path / "bf16.pt")
    run(settings(epochs=2, bf16=None), tmp_path / "bf16.pt")
    assert (computed("new.pt"), computed("bf16.pt")) == (False, True)
    with pytest.raises(fit.TrainingError, match="bf16: True -> False"):
        run(settings(epochs=3, bf16=False), tmp_path / "bf16.pt")


def test_bf16_is_another_run_whose_weights_are_close(tmp_path: Path) -> None:
    short: dict[str, Any] = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    exact, rounded = (run(settings(bf16=bf16, **short), tmp_path / f"{bf16}.pt") for bf16 in (False, True))
    pairs = [*zip(exact.parameters(), rounded.parameters(), strict=True)]
    assert all(a.dtype == b.dtype == torch.float32 for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert max(float((a - b).abs().max()) for a, b in pairs) < 0.05
    with pytest.raises(fit.TrainingError, match="bf16: False -> True"):
        run(settings(bf16=True, **short), tmp_path / "False.pt")


def test_resnet_50_can_be_trained_with_a_bottleneck_too(tmp_path: Path) -> None:
    torch.set_num_threads(2)  # the fixture sets it back
    data, out = write_images(tmp_path / "data.zip", 40), tmp_path / "net"
    words = ("--epochs", "1", "--batch-size", "18", "--lr", "0.01", "--image-size", "32", "--device", "cpu")
    assert invoke("train", "--model", "resnet50", "--data", data, "--out", out, *words, "--bottleneck", "1:16:2") == 0
    network, card = checkpoint.load(out / "network")
    assert network.exits == card.model.exits == 4 and list(network.bottlenecks) == ["1"] and not card.provisional
    assert (card.model.architecture, card.model.image_size, card.data_images) == ("resnet50", 32, 40)
    logits = evaluate.exit_logits(network, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert logits.shape == (4, 1, 2) and np.isfinite(logits).all()
    shutil.rmtree(out)  # half a gigabyte, which pytest would keep


def test_calibrate_fits_to_exactly_what_was_held_out(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[NDArray[np.int64]] = []
    fitting = calibrate.fit_temperatures

    def spy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, ...]:
        seen.append(labels)
        return fitting(logits, labels)

    monkeypatch.setattr(calibrate, "fit_temperatures", spy)
    net, out = trained / "net" / "net", tmp_path / "calibrated"
    assert invoke("calibrate", net, "--data", trained / "data.zip", "--out", out) == 0
    assert [len(labels) for labels in seen] == [4]
    before, after = Card.load(net.with_suffix(".json")), Card.load(out / "net.json")
    assert before.validation is not None and after.validation is not None
    assert after.validation.accuracy == before.validation.accuracy
    assert "temperatures fitted to these" in after.validation.data and "fitted" not in before.validation.data
    assert after.temperatures != before.temperatures and after.weights_sha256 == before.weights_sha256
    assert before.test is not None and after.test is None, "the figures of other temperatures were kept"
    checkpoint.load(out / "net")
    summary = json.loads((out / "calibration.json").read_text())
    assert tuple(summary["temperatures"]) == after.temperatures
    with Image.open(out / "reliability.png") as picture:
        assert picture.width > 400


def test_calibrate_warns_of_temperatures_that_mean_little(trained: Path, tmp_path: Path) -> None:
    logits, labels = honest_logits(1000)
    random = np.roll(logits, 1, axis=0)  # of other images: the best is to be sure of nothing
    temperatures = calibrate.fit_temperatures(np.stack([logits, 50 * random]), labels)
    assert calibrate.doubts(temperatures[:1], 1000) == []
    (at_bound,) = calibrate.doubts(temperatures, 1000)
    assert "20.08" in at_bound and "of exit 2;" in at_bound
    (few,) = calibrate.doubts(temperatures[:1], 999)
    assert "fitted to 999 images" in few
    words = ("calibrate", trained / "net" / "net", "--data", trained / "data.zip", "--out", tmp_path)
    warnings = [line for line in said(*words)[1].splitlines() if line.startswith("mdi-exit: warning: ")]
    assert "fitted to 4 images" in warnings[-1]


def test_calibrate_refuses_data_whose_held_out_part_is_not_the_trainings(trained: Path, tmp_path: Path) -> None:
    net, other = trained / "net" / "net", trained / "test.zip"
    with pytest.raises(UserError, match=r"test\.zip: its 12 images are not the 40 that .*--separate"):
        invoke("calibrate", net, "--data", other, "--out", tmp_path)
    with pytest.raises(UserError, match=r"--seed 9: .* that of the training's seed, 3"):
        invoke("calibrate", net, "--data", trained / "data.zip", "--out", tmp_path, "--seed", "9")
    assert invoke("calibrate", net, "--data", other, "--out", tmp_path, "--separate") == 0
    validation = Card.load(tmp_path / "net.json").validation
    assert validation is not None and validation.images == 12


def test_calibrate_refuses_other_images_of_the_same_number(trained: Path, tmp_path: Path) -> None:
    """As many images of the same classes, in another order: the held-out part would be of what was trained on."""
    net, other = trained / "net" / "net", write_images(tmp_path / "other.zip", 40, seed=9)
    with pytest.raises(UserError, match=r"other\.zip: its 40 images are not the 40 that .*--separate") as error:
        invoke("calibrate", net, "--data", other, "--out", tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_calibrate_takes_a_card_from_before_cards_had_a_sum(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes((trained / "net" / "net.safetensors").read_bytes())
    card = json.loads((trained / "net" / "net.json").read_text())
    assert len(card.pop("data_sum")) == 17
    (tmp_path / "net.json").write_text(json.dumps(card))
    assert invoke("calibrate", tmp_path / "net", "--data", trained / "data.zip", "--out", tmp_path / "out") == 0


def test_data_with_other_classes_are_refused(trained: Path, tmp_path: Path) -> None:
    cats = write_images(tmp_path / "cats.zip", 8, folders=("cat", "dog"))
    for verb in ("calibrate", "trace"):
        with pytest.raises(UserError, match=r"cats\.zip: its classes are cat, dog; the checkpoint's are blue, red"):
            invoke(verb, trained / "net" / "net", "--data", cats, "--out", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_a_disk_that_is_full_ends_a_training_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.pt.part").symlink_to("/dev/full")
    with pytest.raises(fit.TrainingError, match=r"^[^\n]*state\.pt\.part: cannot be written \([^\n]+$"):
        run(settings(epochs=1), tmp_path / "state.pt")
    assert not (tmp_path / "state.pt").exists()


def test_a_trace_does_not_take_the_place_of_a_device_and_says_when_the_disk_is_full(
    trained: Path, tmp_path: Path
) -> None:
    words = ("trace", trained / "net" / "net", "--data", trained / "test.zip", "--out")
    with pytest.raises(UserError, match=r"--out /dev/full: is no file; allowed: "):
        invoke(*words, "/dev/full")
    (tmp_path / "full.npz.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"full\.npz(\.part)?: cannot be written \(No space left on device\)"):
        invoke(*words, tmp_path / "full.npz")


def test_trace_records_all_images_or_a_seeded_part(trained: Path, tmp_path: Path) -> None:
    words = ("trace", trained / "net" / "net", "--data", trained / "test.zip", "--out")
    assert invoke(*words, tmp_path / "all.npz") == 0
    assert invoke(*words, tmp_path / "part.npz", "--images", "5", "--seed", "1") == 0
    assert invoke(*words, tmp_path / "same.npz", "--images", "5", "--seed", "1") == 0
    whole, part = ExitTrace.load(tmp_path / "all.npz"), ExitTrace.load(tmp_path / "part.npz")
    assert (len(whole), len(part)) == (12, 5)
    assert whole.payload_bytes == (768, 4 * 4 * 4 * 4, 32 * 4 * 4 * 4, 64 * 2 * 2 * 4, 96 * 2 * 2 * 4, 0)
    assert (tmp_path / "part.npz").read_bytes() == (tmp_path / "same.npz").read_bytes()
    card = Card.load(trained / "net" / "net.json")
    assert card.test is not None and whole.accuracy() == pytest.approx(card.test.accuracy)


def test_a_trace_of_the_training_data_is_warned_of(trained: Path, tmp_path: Path) -> None:
    words = ("trace", trained / "net" / "net", "--out", tmp_path / "trace.npz", "--images", "5", "--data")
    for data, flatters in (("data.zip", True), ("test.zip", False)):
        status, output = said(*words, trained / data)
        warnings = [line for line in output.splitlines() if line.startswith("mdi-exit: warning: ")]
        assert status == 0 and len(warnings) == flatters and output.count("flatters") == 1
        assert all(f"{trained / data} is what the network was trained on" in line for line in warnings)


def test_an_interruption_says_how_to_go_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "fit", interrupted)
    words = ["train", "--data", str(trained / "data.zip"), "--out", str(tmp_path / "out"), "--image-size", str(SIDE)]
    app = typer.Typer()
    learn.register(app)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 130
    assert "run the same command again to go on" in result.output


@pytest.mark.parametrize(("words", "message"), [
    (("--model", "vgg"), "model.architecture is 'vgg'; allowed are mobilenet_v2, resnet50, b_alexnet"),
    (("--device", "tpu"), "--device tpu: allowed here are auto, cpu"),
    (("--bottleneck", "9:4"), "cut 9; allowed is each of 1 to 4 once"),
    (("--early-crop", "24"), "--early-crop 24: allowed are 0 and 8 to 16 pixels"),
    (("--padding", "16"), "--padding 16: allowed is less than the image size, 16"),
])  # fmt: skip
def test_options_that_cannot_be_met_are_refused_in_one_line(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    """And before any image is looked for."""
    with pytest.raises(UserError, match=message) as error:
        invoke("train", "--data", tmp_path / "nowhere", "--out", tmp_path / "out", "--image-size", str(SIDE), *words)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_test_images_are_refused_before_the_training(trained: Path, tmp_path: Path) -> None:
    words = ("train", "--data", trained / "data.zip", "--out", tmp_path / "out", "--image-size", str(SIDE), "--test")
    with pytest.raises(UserError, match="nowhere: no such data set"):
        invoke(*words, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cats\.zip: its classes are cat, dog; "):
        invoke(*words, write_images(tmp_path / "cats.zip", 4, folders=("cat", "dog")))
    assert not (tmp_path / "out").exists()


def test_the_command_in_a_card_keeps_folders_but_those_of_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "--data", "/home/me/train.zip", "--lr", "0.1", "--out=runs/net", "--test=/home/me/test.zip"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mdi-exit", *words])
    assert command_line() == "mdi-exit train --data train.zip --lr 0.1 --out=runs/net --test=test.zip"
