"""What the source reads: datum d's image, and its true label in the numbering of the network's classes."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from mdi_exit import assembly
from mdi_exit.config import Experiment
from mdi_exit.dataset import DatasetError, ImageDataset
from mdi_exit.models.card import Card

# Decoded images kept, since a run goes through its data again and again: 20,000 of 32x32, 400 of 224x224. More would
# crowd a small device.
_KEPT_BYTES_MAX = 64 << 20
_AHEAD = 4  # images decoded before they are asked for
_SHORT_S = 0.002  # what takes no longer is decoded when it is asked for: handing it to another thread costs time too


class Images:
    """The data set of an experiment, in the order of its seed. `label` may be asked for any datum.

    Photographs take tens of milliseconds to decode, in which a node's loop would answer nobody. So the next ones are
    decoded by a thread. For one thread otherwise.
    """

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
        self._reader = ThreadPoolExecutor(1, "images")  # whose thread starts when it is first needed
        self._ahead: dict[int, Future[NDArray[np.uint8]]] = {}  # by datum
        self._latest = -1  # datum asked for
        self._took_s = 0.0  # to decode the last one

    def label(self, data_id: int) -> int:
        """The true class of datum d."""
        return self._labels[self._index(data_id)]

    def image(self, data_id: int) -> NDArray[np.uint8]:
        """The image of datum d, not to be written to; raises UnreadableImage."""
        index, coming = self._index(data_id), self._ahead.pop(data_id, None)
        self._read_ahead(data_id)
        if (kept := self._kept.get(index)) is not None:
            return kept
        # What the thread has not begun is sooner decoded here.
        image = self._read(index) if coming is None or coming.cancel() else coming.result()
        if self._kept_bytes + image.nbytes <= _KEPT_BYTES_MAX:
            self._kept[index] = image
            self._kept_bytes += image.nbytes
        return image

    def close(self) -> None:
        """Decode nothing more ahead."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _index(self, data_id: int) -> int:
        return assembly.datum_index(self._experiment, data_id, len(self._labels))

    def _read(self, index: int) -> NDArray[np.uint8]:
        began_s = time.monotonic()
        try:
            return self._images.image(index)
        finally:
            self._took_s = time.monotonic() - began_s

    def _read_ahead(self, data_id: int) -> None:
        """Have those after datum d decoded, and forget those before it that were shed."""
        if data_id <= self._latest:  # submitted again
            return
        self._latest = data_id
        for shed in [waiting for waiting in self._ahead if waiting < data_id]:
            self._ahead.pop(shed).cancel()
        if self._took_s <= _SHORT_S:
            return
        for coming in range(data_id + 1, data_id + 1 + _AHEAD):
            if coming not in self._ahead and (index := self._index(coming)) not in self._kept:
                self._ahead[coming] = self._reader.submit(self._read, index)
