"""What becomes of frames in virtual time: links shaped as in real time, and faults that only a simulation has."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from mdi_exit.shaping import Medium, Shaper
from mdi_exit.topology import Topology


@dataclass(frozen=True, slots=True)
class Faults:
    """What a network may do to frames beside what its links' shapes say; TCP would hide it from a real worker."""

    loss: float = 0.0  # probability that a frame vanishes for good
    duplication: float = 0.0  # probability that it arrives twice
    jitter_s: float = 0.0  # a further delay, uniform up to this; frames may overtake each other


NO_FAULTS: Faults = Faults()


def shapers(
    topology: Topology, seed: int, media: Mapping[str, Medium], epoch: int = 0
) -> dict[tuple[str, str], Shaper]:
    """Both directions of every link (answers flow against a one-way link), as workers in this life have them.

    Those on one radio channel share its medium.
    """
    shapes = {(link.a, link.b): link.shape for link in topology.links}
    shapes.update({(link.b, link.a): link.shape for link in topology.links if not link.one_way})
    for link in topology.links:  # against a one-way link, unless another one leads that way
        shapes.setdefault((link.b, link.a), link.shape)
    return {
        (a, b): Shaper(shape, random.Random(f"{seed}/link {a} {b}/{epoch}"), media.get(shape.channel or ""))
        for (a, b), shape in shapes.items()
    }
