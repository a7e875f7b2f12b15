"""What logits say, for whoever asks in numpy: runners, calibration, traces. Along the last axis, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def log_softmax(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Logarithms of softmax(logits / temperature)."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    shares: NDArray[np.float64] = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    return shares


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax of logits / temperature."""
    shares: NDArray[np.float64] = np.exp(log_softmax(logits, temperature))
    return shares


def entropy(log_shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in nats, of what `log_softmax` gave; never below 0 by rounding."""
    nats: NDArray[np.float64] = np.maximum(-(np.exp(log_shares) * log_shares).sum(axis=-1), 0.0)
    return nats
