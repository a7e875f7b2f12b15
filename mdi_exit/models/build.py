"""From a card's configuration to a network with fresh weights."""

from __future__ import annotations

from mdi_exit.models.analog import AnalogBottleneck
from mdi_exit.models.b_alexnet import b_alexnet
from mdi_exit.models.card import ModelConfig
from mdi_exit.models.mobilenet_v2 import mobilenet_v2
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.models.resnet import resnet50

_MAKERS = {"mobilenet_v2": mobilenet_v2, "resnet50": resnet50, "b_alexnet": b_alexnet}


def build(config: ModelConfig) -> MultiExitNetwork:
    """Build the network that `config` describes, in training mode, weights drawn from torch's global generator."""
    bottlenecks = {entry.cut: (entry.channels, entry.stride) for entry in config.bottlenecks}
    maker = _MAKERS[config.architecture]
    network = maker(config.image_size, len(config.classes), config.mean, config.std, bottlenecks)
    if (link := config.analog) is not None:
        over_db = (link.snr_low_db, link.snr_high_db)
        network.bottlenecks[str(link.cut)] = AnalogBottleneck(link.shape, link.uses, over_db)
    return network
