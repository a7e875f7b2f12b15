"""Checkpoints and images that the tests of running slices share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from mdi_exit.models import checkpoint
from mdi_exit.models.build import build
from mdi_exit.models.card import ARCHITECTURES, BottleneckConfig, Card, ModelConfig
from mdi_exit.models.files import resolve

BUNDLED = "mobilenetv2-cifar10"


def save_untrained(
    path: Path, architecture: str = "mobilenet_v2", bottlenecks: tuple[BottleneckConfig, ...] = (), size: int = 32
) -> Path:
    """A checkpoint with random weights and batch statistics of its own, so that folding them shows."""
    model = ModelConfig(architecture, size, ("a", "b", "c"), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), bottlenecks)
    torch.manual_seed(1)
    network = build(model)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    temperatures = tuple(0.5 + k for k in range(ARCHITECTURES[architecture]))
    checkpoint.save(path, network, Card(model, 1, "nothing", "none", 0.0, 0, temperatures))
    return resolve(path)


def noise(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
