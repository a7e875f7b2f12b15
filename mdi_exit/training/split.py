"""Hold out a validation part of the training data.

The split follows from the labels, the share and the seed alone, so `calibrate` finds again what `train` held out.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from mdi_exit.errors import UserError
from mdi_exit.models.card import Card


def data_sum(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """Tell one data set from another: CRC-32 of the decoded images and of the labels, in their order."""
    return "-".join(f"{zlib.crc32(np.ascontiguousarray(array).data):08x}" for array in (images, labels))


def stratified_split(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (training, validation), both ascending; each class gives `share` of itself, at least one image.

    Raises UserError when no class has an image to spare.
    """
    generator = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held.append(generator.permutation(members)[:count])
    validation = np.sort(np.concatenate(held))
    if len(validation) == 0:
        raise UserError(f"{len(labels)} images are too few to hold any out: a class needs at least 2")
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def training_split(
    card: Card, images: NDArray[np.uint8], labels: NDArray[np.int64], source: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (trained on, held out) of the data that a network was trained on; UserError if `source` is other data."""
    if len(labels) != card.data_images or (card.data_sum and card.data_sum != data_sum(images, labels)):
        raise UserError(
            f"{source}: its {len(labels)} images are not the {card.data_images} that the network was trained on, so "
            "what was held out cannot be told; allowed: its training data"
        )
    return stratified_split(labels, card.validation_share, card.seed)
