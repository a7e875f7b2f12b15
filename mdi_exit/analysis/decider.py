"""Fit the learned transmission decision: two probabilities from what the exit said and the SNR (ours; papers.md 4.3).

Fitted to images that the network was not trained on: of those it was, an exit is surer than it should be. Torch-free:
a few hundred weights are found by L-BFGS with the gradient written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from mdi_exit.analysis.transmission import Sent
from mdi_exit.policies.transmission import LearnedTransmission, inputs

HIDDEN = 16
_DECAY = 1e-4  # of squared weights; beside cross-entropies of some tenths it only keeps them finite
_ITERATIONS_MAX = 300

Floats = NDArray[np.float64]


def fit_decider(sent: Sequence[Sent], classes: int, seed: int, hidden: int = HIDDEN) -> LearnedTransmission:
    """Minimise the cross-entropy of both probabilities: that the far side is right, and that the exit is.

    Every transmission of every recording is one row, at the SNR that it met. The same seed gives the same weights.
    """
    known = np.concatenate([_known(one, classes) for one in sent])
    right = np.concatenate([_right(one) for one in sent])
    wide = known.shape[1]
    generator = np.random.default_rng(seed)
    first = generator.normal(0.0, wide**-0.5, (wide + 1, hidden))
    second = generator.normal(0.0, hidden**-0.5, (hidden + 1, 2))
    cut = first.size

    def loss(flat: Floats) -> tuple[float, Floats]:
        one, two = flat[:cut].reshape(first.shape), flat[cut:].reshape(second.shape)
        units = np.maximum(known @ one[:-1] + one[-1], 0.0)
        said = units @ two[:-1] + two[-1]
        # cross-entropy of sigmoid(said): log(1 + e^said) - right * said
        value = float((np.logaddexp(0.0, said) - right * said).mean()) + _DECAY * float(flat @ flat)
        slope = (expit(said) - right) / said.size
        back = (slope @ two[:-1].T) * (units > 0)
        gradients = (known.T @ back, back.sum(0)[None], units.T @ slope, slope.sum(0)[None])
        return value, np.concatenate([part.ravel() for part in gradients]) + 2 * _DECAY * flat

    start = np.concatenate([first.ravel(), second.ravel()])
    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS_MAX})
    weights = found.x.round(5)
    return LearnedTransmission(_rows(weights[:cut].reshape(first.shape)), _rows(weights[cut:].reshape(second.shape)))


def _known(sent: Sent, classes: int) -> Floats:
    return np.array(
        [
            inputs(reading, snr_db, classes)
            for row in sent.snr_db.tolist()
            for reading, snr_db in zip(sent.readings, row, strict=True)
        ]
    )


def _right(sent: Sent) -> Floats:
    early = np.broadcast_to(sent.early_right, sent.far_right.shape)
    return np.stack([sent.far_right, early], axis=-1).reshape(-1, 2).astype(np.float64)


def _rows(weights: Floats) -> tuple[tuple[float, ...], ...]:
    """A row per unit, its bias last, as the policy has them."""
    return tuple(tuple(row) for row in weights.T.tolist())
