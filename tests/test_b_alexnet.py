"""B-AlexNet: the published layers, sliced, exported and trained like the other networks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdi_exit.compute import open_runner, prepare
from mdi_exit.models import checkpoint
from mdi_exit.models.b_alexnet import NeighbourNorm
from mdi_exit.models.build import build
from mdi_exit.models.card import BottleneckConfig, ModelConfig
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.training.evaluate import exit_logits
from mdi_exit.training.fit import TrainingError

from .networks import noise, save_untrained
from .test_training import invoke, write_images


def network_of(size: int = 32, bottlenecks: tuple[BottleneckConfig, ...] = ()) -> MultiExitNetwork:
    torch.manual_seed(1)
    classes = tuple("abcdefghij")
    return build(ModelConfig("b_alexnet", size, classes, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), bottlenecks)).eval()


def linears(module: nn.Module) -> list[tuple[int, int]]:
    return [(each.in_features, each.out_features) for each in module.modules() if isinstance(each, nn.Linear)]


def convolutions(module: nn.Module) -> list[tuple[int, int]]:
    return [(each.out_channels, each.kernel_size[0]) for each in module.modules() if isinstance(each, nn.Conv2d)]


def test_layers_are_the_published_ones() -> None:
    network = network_of()
    assert [convolutions(segment) for segment in network.segments] == [
        [(32, 5), (64, 5)],
        [(96, 3)],
        [(96, 3), (64, 3)],
    ]
    assert [convolutions(head) for head in network.heads] == [[(32, 3), (32, 3)], [(32, 3)], []]
    assert linears(network.segments) == [(1024, 256), (256, 128)]
    assert linears(network.heads) == [(512, 10), (128, 10), (128, 10)]


def test_normalisation_is_over_three_neighbours_with_the_published_constants() -> None:
    layer = NeighbourNorm()
    feature = 100 * torch.rand(1, 4, 1, 1, generator=torch.Generator().manual_seed(1))
    x = [0.0, *feature.flatten().tolist(), 0.0]
    wanted = [x[c] / (2 + 5e-5 * (x[c - 1] ** 2 + x[c] ** 2 + x[c + 1] ** 2)) ** 0.75 for c in range(1, 5)]
    assert sum(isinstance(each, NeighbourNorm) for each in network_of().modules()) == 4
    assert layer(feature).flatten().tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("size", [16, 32, 45, 224])
@torch.no_grad()
def test_slices_compose_to_the_whole_at_any_size_it_is_built_for(size: int) -> None:
    network = network_of(size)
    batch = torch.from_numpy(noise(2, size))
    expected = network.forward_exits(batch)
    first, carried = network.slice(1, 1)(batch)
    assert carried is not None and carried.shape == (2, 64, size // 2, size // 2)
    rest, end = network.slice(2, 3)(carried)
    assert end is None and (carried < 0).any(), "what travels is the convolution's output, before its activation"
    for found, wanted in zip((*first, *rest), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_branch_does_not_change_what_travels_on() -> None:
    network = network_of()
    batch = torch.from_numpy(noise(2))
    _, carried = network.run_segment(1, batch)
    torch.testing.assert_close(carried, network.segments[0](batch), rtol=0, atol=0)


def test_exported_segments_say_what_the_network_says(tmp_path: Path) -> None:
    weights = save_untrained(tmp_path / "net", "b_alexnet", (BottleneckConfig(1, 4, 2),))
    network, card = checkpoint.load(weights)
    runner = open_runner(prepare(weights, cache_dir=tmp_path / "cache"), range(1, 4))
    batch = noise(4)
    carried: np.ndarray | None = batch
    for k, logits in enumerate(exit_logits(network, torch.from_numpy(batch)), 1):
        assert carried is not None
        readings, carried = runner.run(k, carried)
        shares = torch.softmax(Tensor(logits) / card.temperatures[k - 1], 1)
        assert [r.prediction for r in readings] == shares.argmax(1).tolist()
        assert [r.confidence for r in readings] == pytest.approx(shares.max(1).values.tolist(), abs=1e-4)
    assert carried is None


def test_it_learns_from_the_command_line(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data.zip", 80)
    words = ("--epochs", "8", "--batch-size", "9", "--lr", "0.01", "--ema-decay", "0", "--device", "cpu")
    given = ("--model", "b_alexnet", "--data", data, "--image-size", "16", "--threads", "1")
    assert invoke("train", *given, *words, "--out", tmp_path / "net") == 0
    network, card = checkpoint.load(tmp_path / "net" / "network")
    assert (network.exits, card.model.architecture, card.epochs) == (3, "b_alexnet", 8)
    assert card.validation is not None
    assert min(card.validation.accuracy) > 0.9, "red and blue are easily told apart"
    assert math.isfinite(sum(card.validation.ece_before))


def test_training_on_smaller_crops_first_is_refused_before_any_image_is_read(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data.zip", 8)
    with pytest.raises(TrainingError, match="--early-crop 24: allowed with b_alexnet is 0"):
        invoke("train", "--model", "b_alexnet", "--data", data, "--out", tmp_path / "net", "--early-crop", "24")
