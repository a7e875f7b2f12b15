"""Networks cut into segments, their cards and checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mdi_exit.models import checkpoint
from mdi_exit.models.build import build
from mdi_exit.models.card import BottleneckConfig, Card, CardError, Figures, ModelConfig
from mdi_exit.models.files import CheckpointError, resolve
from mdi_exit.models.multi_exit import Bottleneck, ExitHead, MultiExitNetwork, attach_exits

TOLERANCE = 1e-5


def config(architecture: str, image_size: int = 32, bottlenecks: tuple[BottleneckConfig, ...] = ()) -> ModelConfig:
    return ModelConfig(architecture, image_size, ("a", "b", "c"), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), bottlenecks)


@functools.cache
def network_of(settings: ModelConfig) -> MultiExitNetwork:
    """Untrained and shared between tests, which leave it alone.

    It has batch statistics of its own, so that a normalisation left out would show.
    """
    torch.manual_seed(1)
    network = build(settings)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def images(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@functools.cache
@torch.no_grad()
def whole(network: MultiExitNetwork, count: int, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and travelling features, computed from the parts without the code under test."""
    feature = images(count, size)
    logits, travelling = [], [feature]
    for k in range(1, network.exits + 1):
        feature = network.segments[k - 1](feature)
        logits.append(network.heads[k - 1](feature))
        if str(k) in network.bottlenecks:
            bottleneck = network.bottlenecks[str(k)]
            assert isinstance(bottleneck, Bottleneck)
            travelling.append(bottleneck.encoder(feature))
            feature = bottleneck.decoder(travelling[-1])
        else:
            travelling.append(feature)
    return logits, travelling


@pytest.mark.parametrize("bottlenecks", [(), (BottleneckConfig(1, 4, 2), BottleneckConfig(3, 8, 1))])
@pytest.mark.parametrize(("architecture", "size", "count"), [
    ("mobilenet_v2", 32, 3), ("mobilenet_v2", 224, 1), ("resnet50", 32, 1), ("resnet50", 224, 1),
])  # fmt: skip
def test_every_slice_equals_its_part_of_the_whole(
    architecture: str, size: int, count: int, bottlenecks: tuple[BottleneckConfig, ...]
) -> None:
    """Each slice on the whole network's own features; by induction every way of slicing composes to the whole."""
    network = network_of(config(architecture, size, bottlenecks))
    expected, travelling = whole(network, count, size)
    for first in range(1, network.exits + 1):
        for last in range(first, network.exits + 1):
            with torch.no_grad():
                logits, carried = network.slice(first, last)(travelling[first - 1])
            assert len(logits) == last - first + 1
            for found, wanted in zip(logits, expected[first - 1 : last], strict=True):
                torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE)
            if last == network.exits:
                assert carried is None
            else:
                assert carried is not None
                torch.testing.assert_close(carried, travelling[last], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("cuts", range(16))
def test_every_way_of_slicing_mobilenet_gives_the_same_exits(cuts: int) -> None:
    network = network_of(config("mobilenet_v2", 32, (BottleneckConfig(2, 8, 2),)))
    batch = images(2, 32)
    expected, _ = whole(network, 2, 32)
    ends = [k for k in range(1, 5) if cuts >> (k - 1) & 1] + [5]
    found: list[Tensor] = []
    carried: Tensor | None = batch
    with torch.no_grad():
        for first, last in zip([1] + [end + 1 for end in ends[:-1]], ends, strict=True):
            assert carried is not None
            logits, carried = network.slice(first, last)(carried)
            found.extend(logits)
        for one, other, wanted in zip(found, network.forward_exits(batch), expected, strict=True):
            torch.testing.assert_close(one, wanted, rtol=0, atol=TOLERANCE)
            torch.testing.assert_close(other, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("architecture", "size", "count", "shapes"), [
    ("mobilenet_v2", 32, 3, [(24, 16, 16), (32, 8, 8), (64, 4, 4), (96, 4, 4)]),
    ("mobilenet_v2", 224, 1, [(24, 56, 56), (32, 28, 28), (64, 14, 14), (96, 14, 14)]),
    ("resnet50", 32, 1, [(256, 32, 32), (512, 16, 16), (1024, 8, 8)]),
    ("resnet50", 224, 1, [(256, 56, 56), (512, 28, 28), (1024, 14, 14)]),
])  # fmt: skip
def test_features_have_the_published_shapes(
    architecture: str, size: int, count: int, shapes: list[tuple[int, ...]]
) -> None:
    """The 224x224 rows follow from the published tables; they are what travels without a bottleneck."""
    network = network_of(config(architecture, size))
    _, travelling = whole(network, count, size)
    assert [tuple(feature.shape[1:]) for feature in travelling[1:-1]] == shapes


def test_the_autoencoder_of_the_paper_shrinks_the_first_feature_two_hundredfold() -> None:
    network = network_of(config("resnet50", 224, (BottleneckConfig(1, 16, 8),)))
    with torch.no_grad():
        _, code = network.run_segment(1, images(1, 224))
    assert code is not None and tuple(code.shape) == (1, 16, 7, 7)


def test_a_slice_outside_the_network_is_refused() -> None:
    network = network_of(config("mobilenet_v2"))
    for first, last in ((0, 1), (3, 2), (5, 6)):
        with pytest.raises(ValueError, match=r"not within segments 1\.\.5"):
            network.slice(first, last)


def own_model() -> nn.Sequential:
    layers: dict[str, nn.Module] = {
        "first": nn.Conv2d(3, 8, 3, 2, 1), "act": nn.ReLU(), "second": nn.Conv2d(8, 12, 3, 2, 1),
        "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "classify": nn.Linear(12, 4),
    }  # fmt: skip
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def test_exits_attached_to_a_users_model_leave_its_answer_alone() -> None:
    torch.manual_seed(0)
    model = own_model().eval()
    image = torch.rand(2, 3, 16, 16)
    network = attach_exits(model, ["act", "second"], classes=4, image_shape=(3, 16, 16))
    assert network.exits == 3 and not network.training
    with torch.no_grad():
        logits = network.forward_exits(image)
        torch.testing.assert_close(logits[-1], model(image), rtol=0, atol=TOLERANCE)
        first, feature = network.slice(1, 1)(image)
        rest, _ = network.slice(2, 3)(feature)
    for found, wanted in zip((*first, *rest), logits, strict=True):
        assert found.shape == (2, 4)
        torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("cuts", "message"), [
    (["nowhere"], "'nowhere' is not a child of the model; its children are first, act"),
    (["second", "act"], "in the model's order"),
    (["act", "act"], "distinct"),
    (["classify"], "leave at least one layer"),
    ([], "leave at least one layer"),
    (["flat"], r"after 'flat' has shape \(1, 12\)"),
])  # fmt: skip
def test_impossible_cuts_are_refused(cuts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attach_exits(own_model(), cuts, classes=4, image_shape=(3, 16, 16))


def test_attaching_keeps_the_training_mode_and_leaves_batch_statistics_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2)).train()
    network = attach_exits(model, ["1"], classes=2, image_shape=(3, 8, 8))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.num_batches_tracked is not None
    assert network.training and norm.training and int(norm.num_batches_tracked) == 0


def test_segments_exits_and_bottlenecks_have_to_match() -> None:
    parts = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)]
    with pytest.raises(ValueError, match="2 segments need as many exits, not 1"):
        MultiExitNetwork(parts, [ExitHead(4, 8, 2)])
    with pytest.raises(ValueError, match="bottleneck after cut 2"):
        MultiExitNetwork(parts, [ExitHead(4, 8, 2), ExitHead(4, 8, 2)], {2: Bottleneck(4, 2)})


@pytest.mark.parametrize(("changes", "message"), [
    ({"architecture": "vgg"}, "model.architecture is 'vgg'; allowed are mobilenet_v2, resnet50, b_alexnet"),
    ({"image_size": 8}, "allowed are 16 to 1024"),
    ({"classes": ("one",)}, "at least 2"),
    ({"std": (0.0, 1.0, 1.0)}, "model.std"),
    ({"bottlenecks": (BottleneckConfig(5, 4),)}, "cut 5; allowed is each of 1 to 4 once"),
    ({"bottlenecks": (BottleneckConfig(1, 4), BottleneckConfig(1, 8))}, "cut 1"),
    ({"bottlenecks": (BottleneckConfig(1, 0),)}, "at least 1"),
])  # fmt: skip
def test_a_configuration_that_cannot_be_built_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CardError, match=message):
        dataclasses.replace(config("mobilenet_v2"), **changes)  # type: ignore[arg-type]


def full_card() -> Card:
    figures = Figures("held out", 10, (0.5,) * 5, (0.1,) * 5, (0.05,) * 5)
    model = config("mobilenet_v2", bottlenecks=(BottleneckConfig(1, 4, 2),))
    return Card(model, 3, "pictures", "9 and 1", 0.1, 7, (1.5,) * 5, 100, figures, None, "mdi-exit train", "a machine")


def test_a_card_survives_being_written_and_read(tmp_path: Path) -> None:
    full_card().save(tmp_path / "card.json")
    assert Card.load(tmp_path / "card.json") == full_card()


@pytest.mark.parametrize(("path", "value", "message"), [
    (("colour",), "red", "unknown key colour; allowed are model, seed"),
    (("model", "architecture"), 5, "model.architecture is 5; allowed is a value of type str"),
    (("model", "mean"), [0.5, 0.5], "model.mean must have 3 entries, not 2"),
    (("temperatures",), [1.0], "5 positive numbers"),
    (("temperatures",), [1.0, 1.0, 0.0, 1.0, 1.0], "5 positive numbers"),
    (("temperatures",), 1.0, "temperatures must be a list"),
    (("seed",), True, "seed is True; allowed is a value of type int"),
    (("schema",), 99, "schema is 99; this version reads 1"),
    (("validation",), [1], "validation must be an object"),
    (("model", "bottlenecks"), [{"cut": 1}], r"key model.bottlenecks\[0\].channels is missing"),
])  # fmt: skip
def test_a_wrong_card_names_its_file_and_key(
    tmp_path: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    content = json.loads(full_card().to_json())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = tmp_path / "card.json"
    file.write_text(json.dumps(content))
    with pytest.raises(CardError, match=f"card.json: .*{message}"):
        Card.load(file)


def test_a_card_that_is_no_json_or_no_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    with pytest.raises(CardError, match="no such file"):
        Card.load(file)
    file.write_bytes(b"{\xff")
    with pytest.raises(CardError, match="not a readable JSON card"):
        Card.load(file)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, MultiExitNetwork]:
    settings = config("mobilenet_v2")
    network = network_of(settings)
    card = Card(settings, 0, "none", "none", 0.1, 0, (1.0,) * 5)
    checkpoint.save(tmp_path / "net", network, card)
    return tmp_path / "net.safetensors", network


def test_a_checkpoint_holds_halves_of_weights_and_all_of_the_statistics(saved: tuple[Path, MultiExitNetwork]) -> None:
    path, network = saved
    stored = load_file(path)
    parameters = dict(network.named_parameters())
    assert set(stored) == set(network.state_dict())
    for name, tensor in network.state_dict().items():
        convolution_or_linear = name in parameters and parameters[name].dim() >= 2
        assert stored[name].dtype == (torch.float16 if convolution_or_linear else tensor.dtype), name
    loaded, card = checkpoint.load(path)
    assert not loaded.training and next(loaded.parameters()).dtype == torch.float32
    assert card.parameters == sum(parameter.numel() for parameter in network.parameters())
    batch = images(2, 32)
    with torch.no_grad():
        for found, wanted in zip(loaded.forward_exits(batch), network.forward_exits(batch), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, stored[name].to(tensor.dtype), rtol=0, atol=0)


def test_a_checkpoint_in_full_precision_is_exact(tmp_path: Path) -> None:
    settings = config("mobilenet_v2")
    network = network_of(settings)
    checkpoint.save(tmp_path / "net", network, Card(settings, 0, "none", "none", 0.1, 0, (1.0,) * 5), half=False)
    loaded, _ = checkpoint.load(tmp_path / "net.json")
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_changed_weights_do_not_match_the_card(saved: tuple[Path, MultiExitNetwork]) -> None:
    path, _ = saved
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"net\.safetensors: damaged, or not the weights of net\.json"):
        checkpoint.load(path)


def rewrite(path: Path, content: bytes) -> None:
    """Replace the weights and make the card agree, so that only the content itself can be refused."""
    path.write_bytes(content)
    card = path.with_suffix(".json")
    fields = json.loads(card.read_text())
    fields["weights_sha256"] = hashlib.sha256(content).hexdigest()
    card.write_text(json.dumps(fields))


def test_weights_that_are_no_safetensors_are_refused(saved: tuple[Path, MultiExitNetwork]) -> None:
    rewrite(saved[0], b"nothing of the kind")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        checkpoint.load(saved[0])


@pytest.mark.parametrize(("change", "message"), [
    ("reshape", r"tensor heads\.0\.classify\.bias has shape \(7,\) instead of \(3,\)"),
    ("remove", r"tensor heads\.0\.classify\.bias is missing"),
    ("add", "tensor zzz is unknown"),
])  # fmt: skip
def test_weights_of_another_network_name_the_first_tensor(
    saved: tuple[Path, MultiExitNetwork], change: str, message: str
) -> None:
    path, _ = saved
    tensors = load_file(path)
    if change == "reshape":
        tensors["heads.0.classify.bias"] = torch.zeros(7)
    elif change == "remove":
        del tensors["heads.0.classify.bias"]
    else:
        tensors["zzz"] = torch.zeros(1)
    save_file(tensors, path)
    rewrite(path, path.read_bytes())
    with pytest.raises(CheckpointError, match=f"does not fit the mobilenet_v2 of its card: {message}"):
        checkpoint.load(path)


def test_a_missing_checkpoint_lists_the_bundled_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint .*bundled are: .*mobilenetv2-cifar10"):
        checkpoint.load(tmp_path / "nothing")


def test_a_bare_name_is_looked_for_here_first_then_among_the_bundled(
    saved: tuple[Path, MultiExitNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved[0].parent)
    assert resolve("net") == Path("net.safetensors")
    assert resolve("mobilenetv2-cifar10").parent.name == "assets"
    with pytest.raises(CheckpointError):
        resolve("folder/mobilenetv2-cifar10")


def test_the_bundled_network_is_final_and_keeps_its_promises() -> None:
    """Small enough to ship, calibrated, each exit better than the one before on the test images its card reports."""
    path = resolve("mobilenetv2-cifar10")
    network, card = checkpoint.load(path)
    assert not card.provisional, "train the network to the end before shipping it"
    assert path.stat().st_size <= 6_000_000
    assert network.exits == 5 and card.model.image_size == 32 and len(card.model.classes) == 10
    assert card.test is not None and min(card.temperatures) != 1.0
    assert list(card.test.accuracy) == sorted(card.test.accuracy) and card.test.accuracy[-1] >= 0.86
    assert max(card.test.ece_after) <= 0.03
