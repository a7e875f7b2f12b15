"""The network in two halves by torch.distributed.pipelining over gloo: a process per half, no exits.

A stage's shapes are fixed and each micro-batch goes through all stages, so nothing can leave early. The halves are cut
by hand (the documentation's "option 1"), run forward only with `schedule.eval`, one thread each. Both ends are told how
many groups are to come; the last one has the answers and says when it had them.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MICRO_BATCHES = 16  # of a step for throughput: fewer leave the second half waiting at the beginning of each
_LOOK_S = 0.1  # between looks at whether the halves live
_WARM = 2  # steps before the clock is read


@dataclass(frozen=True, slots=True)
class Work:
    """A number of steps of some micro-batches each, with a pause before each step for latency."""

    group: int  # images in a micro-batch
    micro_batches: int
    steps: int
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Piped:
    """What came of it."""

    rate_per_s: float
    latencies_s: list[float]
    predictions: NDArray[np.int64]  # of each image of each step but the warming ones


def pipe(checkpoint: str, cut: int, images: NDArray[Any], work: Work) -> Piped:
    """Run the work on two processes of their own; image i of all steps is images[i % N]."""
    from torch.multiprocessing.spawn import start_processes

    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = start_processes(  # type: ignore[no-untyped-call]
        _end, (checkpoint, cut, images, work, port, said), nprocs=2, join=False, start_method="spawn"
    )
    answers: dict[int, Any] = {}
    while len(answers) < len(processes.processes):
        if not said.empty():
            answers.update([said.get()])
        elif processes.join(_LOOK_S) and said.empty():  # raises what ended one of them
            raise RuntimeError("the halves ended without an answer")
    processes.join()
    sent_s, (answered_s, predictions) = answers[0], answers[1]
    count = work.group * work.micro_batches * (work.steps - _WARM)
    took = [there - then for then, there in zip(sent_s, answered_s, strict=True)][_WARM:]
    return Piped(count / (answered_s[-1] - answered_s[_WARM - 1]), took, predictions)


def _end(rank: int, checkpoint: str, cut: int, images: NDArray[Any], work: Work, port: int, said: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    from mdi_exit.models.checkpoint import load

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network, _ = load(checkpoint)
    stage = PipelineStage(_half(network, rank, cut), rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, work.micro_batches)
    size = work.group * work.micro_batches
    times_s: list[float] = []
    predictions: list[NDArray[np.int64]] = []
    with torch.inference_mode():
        for step in range(work.steps):
            if rank == 0:
                at = np.arange(step * size, (step + 1) * size) % len(images)
                batch = torch.from_numpy(images[at])
                time.sleep(work.pause_s)
                times_s.append(time.monotonic())
                schedule.eval(batch)
            else:
                predictions.append(schedule.eval().argmax(dim=1).numpy())
                times_s.append(time.monotonic())
    said.put((rank, times_s if rank == 0 else (times_s, np.concatenate(predictions[_WARM:]))))
    dist.destroy_process_group()


def _half(network: Any, rank: int, cut: int) -> Any:
    """A slice as pipelining wants it: a module of one tensor in, one tensor out."""
    import torch

    class Half(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, carried: torch.Tensor) -> Any:
            logits, feature = self.inner(carried)
            return logits[-1] if feature is None else feature

    return Half(network.slice(1, cut) if rank == 0 else network.slice(cut + 1, network.exits))
