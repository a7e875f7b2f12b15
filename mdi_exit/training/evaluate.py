"""Logits of every exit over a set of images, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdi_exit.analysis.calibrated import expected_calibration_error
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.softmax import softmax


@torch.no_grad()
def exit_logits(
    network: MultiExitNetwork,
    images: Tensor,
    batch_size: int = 250,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Logits (K, N, classes) of every exit for uint8 images (N, 3, H, W); the network's mode is restored."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    batches: list[NDArray[np.float32]] = []
    for start in range(0, len(images), batch_size):
        logits = network.forward_exits(images[start : start + batch_size].to(device))
        batches.append(torch.stack(logits).float().cpu().numpy())
        if progress is not None:
            progress(min(start + batch_size, len(images)))
    network.train(training)
    return np.concatenate(batches, axis=1)


def accuracies(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, ...]:
    """Share of right answers of each exit, for logits (K, N, classes)."""
    return tuple(float(share) for share in (logits.argmax(axis=-1) == labels).mean(axis=1))


def calibration_errors(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperatures: tuple[float, ...]
) -> tuple[float, ...]:
    """Expected calibration error of each exit with its temperature, for logits (K, N, classes)."""
    errors: list[float] = []
    for exit_logits_, temperature in zip(logits, temperatures, strict=True):
        confidence = softmax(exit_logits_, temperature).max(axis=1)
        errors.append(expected_calibration_error(confidence, exit_logits_.argmax(axis=1) == labels))
    return tuple(errors)
