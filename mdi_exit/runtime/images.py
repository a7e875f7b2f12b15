"""What the source reads: datum d's image, and its true label in the numbering of the network's classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdi_exit import assembly
from mdi_exit.config import Experiment
from mdi_exit.dataset import DatasetError, ImageDataset
from mdi_exit.models.card import Card

# Decoded images kept, since a run goes through its data again and again: 20,000 of 32x32, 400 of 224x224. More would
# crowd a small device.
_KEPT_BYTES_MAX = 64 << 20


class Images:
    """The data set of an experiment, in the order of its seed. `label` may be asked for any datum."""

    def __init__(self, experiment: Experiment, card: Card) -> None:
        """Open the data set without decoding anything.

        Raises DatasetError, also for a class that the network lacks, and unless the experiment says to resize them, for
        images that are not all of the network's size: cropping is a choice, which changes what is measured.
        """
        self._experiment = experiment
        side = card.model.image_size
        self._images = ImageDataset.open(experiment.dataset, side if experiment.resize else None)
        if (self._images.height, self._images.width) != (side, side):
            raise DatasetError(
                f"{experiment.dataset}: images are {self._images.height}x{self._images.width}, the network takes "
                f"{side}x{side}; allowed: that size, or resize: true"
            )
        number = {name: index for index, name in enumerate(card.model.classes)}
        if unknown := [name for name in self._images.classes if name not in number]:
            known = ", ".join(card.model.classes[:12])
            raise DatasetError(f"{experiment.dataset}: class {unknown[0]!r} is none of the network's; allowed: {known}")
        self._labels = [number[self._images.classes[label]] for label in self._images.labels]
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._kept_bytes = 0

    def label(self, data_id: int) -> int:
        """The true class of datum d."""
        return self._labels[assembly.datum_index(self._experiment, data_id, len(self._labels))]

    def image(self, data_id: int) -> NDArray[np.uint8]:
        """The image of datum d, not to be written to; raises UnreadableImage."""
        index = assembly.datum_index(self._experiment, data_id, len(self._labels))
        if (kept := self._kept.get(index)) is not None:
            return kept
        image = self._images.image(index)
        if self._kept_bytes + image.nbytes <= _KEPT_BYTES_MAX:
            self._kept[index] = image
            self._kept_bytes += image.nbytes
        return image
