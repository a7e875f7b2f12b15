"""The receiving end of analog links: what a neighbour sent as symbols arrives with the noise of the link between us.

Only codes of an analog link are symbols (mdi_exit.channel): the features handed on after its cut. All else that crosses
a link, images, other features, results, is digital and arrives as it was sent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mdi_exit.channel import Channel, received
from mdi_exit.wire import Tensor


class Receiver:
    """Noise by an injected generator, each task a transmission of its own, which fades for itself."""

    def __init__(self, channels: Mapping[str, Channel], cut: int | None, generator: np.random.Generator) -> None:
        """`channels` are those from noisy neighbours, by their names; `cut` is the analog link's, None without one."""
        self._channels, self._cut, self._generator = channels, cut, generator

    def hear(self, sender: str, k: int, tensors: list[Tensor]) -> list[Tensor]:
        """The payloads of tasks for segment k as they arrive: new tensors, with the SNR written into each code."""
        channel = self._channels.get(sender)
        if channel is None or k - 1 != self._cut:
            return tensors
        return [self._noisy(channel, tensor) for tensor in tensors]

    def _noisy(self, channel: Channel, code: Tensor) -> Tensor:
        snr_db = channel.draw_snr_db(1, self._generator)
        arrived: Tensor = received(code[np.newaxis], snr_db, self._generator)[0]
        return arrived


def no_noise() -> Receiver:
    """For workers that hear everything as it was sent."""
    return Receiver({}, None, np.random.default_rng(0))
