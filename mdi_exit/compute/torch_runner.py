"""Run segments with torch: the reference that exports are held against, and the path to an accelerator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mdi_exit.compute.base import ComputeError, FeatureShapes, NetRunner
from mdi_exit.models.checkpoint import load
from mdi_exit.models.multi_exit import MultiExitNetwork


class TorchRunner(NetRunner):
    """The network as it was trained, on `device`; segments not hosted are dropped from memory.

    Sets torch's thread count, which belongs to the whole process. Raises ComputeError for a device that is not there,
    and what `checkpoint.load` raises.
    """

    def __init__(
        self,
        weights: Path,
        features: FeatureShapes,
        temperatures: Sequence[float],
        hosted: Sequence[int],
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        super().__init__(hosted, features, temperatures)
        self._device = device_of(device)
        if self._device.type == "cpu":
            torch.set_num_threads(threads)
        else:
            # TensorFloat-32 would move logits by more than backends may differ, for little on networks this small.
            torch.backends.cudnn.allow_tf32 = False
        network, _ = load(weights)
        for k in range(1, network.exits + 1):
            if k not in self.hosted:
                network.segments[k - 1] = network.heads[k - 1] = nn.Identity()
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _infer(self, k: int, batch: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        try:
            with torch.inference_mode():
                # Copied, because what came over a link is read-only memory and torch wants to own what it holds.
                feature = torch.tensor(batch, device=self._device)
                if feature.dim() == 4:
                    feature = feature.contiguous(memory_format=torch.channels_last)
                logits, carried = self._network.run_segment(k, feature)
                return logits.cpu().numpy(), None if carried is None else carried.contiguous().cpu().numpy()
        except RuntimeError as error:  # out of memory, a device lost; the task is tried elsewhere
            reason = str(error).strip().partition("\n")[0]
            raise ComputeError(f"segment {k}: torch failed on {self._device} ({reason})") from error


def feature_shapes(network: MultiExitNetwork, image_size: int) -> FeatureShapes:
    """The shapes between the segments of a network in evaluation mode, found by running one black image."""
    carried = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
    shapes = [tuple(carried.shape[1:])]
    with one_thread(), torch.inference_mode():
        for k in range(1, network.exits):
            _, feature = network.run_segment(k, carried)
            assert feature is not None
            carried = feature
            shapes.append(tuple(carried.shape[1:]))
    return FeatureShapes(tuple(shapes))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run an image or two with one thread: on busy cores, more of them make it ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def device_of(name: str) -> torch.device:
    """The device of that name, which may be "auto". Raises ComputeError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ComputeError(f"device is {name!r}; allowed are cpu, cuda, cuda:NUMBER and auto") from error
    if device.type not in ("cpu", "cuda"):
        raise ComputeError(f"device is {name!r}; allowed are cpu, cuda, cuda:NUMBER and auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ComputeError(f"device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices here")
    return device
