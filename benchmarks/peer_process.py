"""One process alone, as most people would write it: torch, or ONNX Runtime, on the cores that it takes itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_stage import GOES_ON, Net, Stage


class OneProcess:
    """Answers at once; nothing is given ahead."""

    window = 1

    def __init__(self, run: Any) -> None:
        self._run = run

    def submit(self, batch: NDArray[Any]) -> NDArray[np.int64]:
        answers: NDArray[np.int64] = self._run(batch)
        return answers

    def collect(self, ticket: NDArray[np.int64]) -> NDArray[np.int64]:
        return ticket


@contextmanager
def onnx_process(net: Net) -> Iterator[OneProcess]:
    """Sessions with default options, so threads for all cores."""
    stage = Stage(net, range(1, net.exits + 1), threads=0)
    yield OneProcess(lambda batch: stage.run(batch)[0])


@contextmanager
def torch_process(net: Net, checkpoint: str) -> Iterator[OneProcess]:
    """The network as it was trained, in evaluation and inference mode, with torch's own number of threads."""
    import torch

    from mdi_exit.models.checkpoint import load

    network, _ = load(checkpoint)
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as torch does itself, unless the environment says otherwise

    def run(batch: NDArray[Any]) -> NDArray[np.int64]:
        with torch.inference_mode():
            carried: Any = torch.from_numpy(batch)
            answers = torch.full((len(batch),), GOES_ON)
            here = torch.arange(len(batch))
            for k in range(1, net.exits + 1):
                logits, carried = network.run_segment(k, carried)
                if k == net.exits:
                    answers[here] = logits.argmax(dim=1)
                    break
                confidence, said = (logits / net.temperatures[k - 1]).softmax(dim=1).max(dim=1)
                leaves = confidence > net.thresholds[k - 1]
                answers[here[leaves]] = said[leaves]
                here, carried = here[~leaves], carried[~leaves]
                if not len(here):
                    break
            return answers.numpy()

    yield OneProcess(run)
