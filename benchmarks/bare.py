"""The limit: the exported segments in a bare loop, with no queue, no link and no Ray, on one core.

Images come in groups; who is sure enough leaves, and the others wait until a group of them goes on together. Each
back end runs in a process of its own with one thread, so that none is in another's way, and answers when asked.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdi_exit import compute
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.runtime.images import Images

Array = NDArray[Any]
Segment = Callable[[Array], tuple[Array, Array | None]]  # a group (N, ...) to logits (N, classes) and what goes on
BACK_ENDS = ("onnx", "openvino", "torch")
_WARM_UP = 64  # images, so that no group is of a size that a back end has not seen


@dataclass(frozen=True, slots=True)
class Setting:
    """What a bare loop answers: the experiment's images in its order, each once."""

    experiment: Experiment
    back_end: str
    images: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of it."""

    rate_per_s: float  # by the clock
    rate_per_cpu_s: float  # by the processor time of the process, which others on the machine change less
    exits: tuple[int, ...]
    predictions: tuple[int, ...]


def installed() -> list[str]:
    """The back ends that can be measured here."""
    module = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
    return [name for name in BACK_ENDS if importlib.util.find_spec(module[name])]


def answer(
    segments: Sequence[Segment], temperatures: Sequence[float], threshold: float, images: Sequence[Array], group: int
) -> tuple[list[int], list[int]]:
    """Each image's prediction and exit (from 1)."""
    last = len(segments)
    predictions, exits = [-1] * len(images), [0] * len(images)
    waiting: list[list[tuple[int, Array]]] = [[] for _ in segments]
    begun = 0
    while True:
        ready = [k for k in range(last) if len(waiting[k]) >= group]
        if not ready and begun < len(images):
            upto = min(begun + group, len(images))
            waiting[0] += [(number, images[number]) for number in range(begun, upto)]
            begun, k = upto, 0
        else:
            k = ready[-1] if ready else next((k for k in range(last) if waiting[k]), last)
            if k == last:
                return predictions, exits
        chosen, waiting[k] = waiting[k][:group], waiting[k][group:]
        logits, feature = segments[k](np.stack([array for _, array in chosen]))
        shares = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperatures[k])
        leaves = (1 / shares.sum(axis=1) > threshold).tolist()
        said = logits.argmax(axis=1).tolist()
        for row, (number, _) in enumerate(chosen):
            if leaves[row] or k + 1 == last:
                predictions[number], exits[number] = said[row], k + 1
            else:
                assert feature is not None
                waiting[k + 1].append((number, feature[row]))


def _onnx(net: compute.PreparedNet) -> list[Segment]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def segment(path: Any) -> Segment:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(batch: Array) -> tuple[Array, Array | None]:
            logits, *feature = session.run(None, {name: batch})
            return logits, feature[0] if feature else None

        return run

    return [segment(path) for path in net.models]


def _openvino(net: compute.PreparedNet) -> list[Segment]:
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}

    def segment(path: Any) -> Segment:
        compiled = core.compile_model(core.read_model(str(path)), "CPU", options)
        request, outputs = compiled.create_infer_request(), len(compiled.outputs)

        def run(batch: Array) -> tuple[Array, Array | None]:
            request.infer({0: batch}, share_inputs=True)
            feature = request.get_output_tensor(1).data.copy() if outputs > 1 else None
            return request.get_output_tensor(0).data, feature

        return run

    return [segment(path) for path in net.models]


def _torch(net: compute.PreparedNet) -> list[Segment]:
    """Traced, frozen and fused by TorchScript, channels last; inductor takes minutes for its five segments."""
    import torch

    from mdi_exit.models.checkpoint import load

    torch.set_num_threads(1)
    network, _ = load(net.weights)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    class One(torch.nn.Module):
        def __init__(self, k: int) -> None:
            super().__init__()
            self.network, self.k = network, k

        def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(part for part in self.network.run_segment(self.k, batch) if part is not None)

    def segment(k: int) -> Segment:
        shape, dtype = net.features.shape(k - 1), net.features.dtype(k - 1)
        example = torch.from_numpy(np.zeros((2, *shape), dtype)).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            fused = torch.jit.optimize_for_inference(torch.jit.trace(One(k).eval(), example))  # type: ignore[no-untyped-call]

        def run(batch: Array) -> tuple[Array, Array | None]:
            with torch.inference_mode():
                carried = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
                logits, *feature = fused(carried)
                return logits.numpy(), feature[0].contiguous().numpy() if feature else None

        return run

    return [segment(k) for k in range(1, network.exits + 1)]


_OPEN: dict[str, Callable[[compute.PreparedNet], list[Segment]]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "torch": _torch,
}


def _serve(setting: Setting, connection: Connection) -> None:
    """In a process of its own: answer once for every group size that is asked for."""
    experiment = setting.experiment
    net = compute.prepare(experiment.model)
    source = Images(experiment, net.card)
    images = [source.image(number) for number in range(setting.images)]
    threshold, temperatures = experiment.thresholds[0], net.card.temperatures
    segments, warm = _OPEN[setting.back_end](net), set[int]()
    connection.send(None)
    while (group := connection.recv()) is not None:
        if group not in warm:
            answer(segments, temperatures, threshold, images[:_WARM_UP], group)
            warm.add(group)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        predictions, exits = answer(segments, temperatures, threshold, images, group)
        took_s, took_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        counts = tuple(exits.count(k) for k in range(1, len(segments) + 1))
        rates = (len(images) / took_s, len(images) / took_cpu_s)
        connection.send(Answered(*rates, counts, tuple(predictions)))


class Loops:
    """Bare loops that are up, by name."""

    def __init__(self, connections: dict[str, Connection]) -> None:
        self._connections = connections

    def run(self, name: str, group: int) -> Answered:
        """One pass of one loop."""
        return self.run_together([name], group)[0]

    def run_together(self, names: Sequence[str], group: int) -> list[Answered]:
        """A pass of several loops at the same time."""
        for name in names:
            self._connections[name].send(group)
        return [self._connections[name].recv() for name in names]


@contextmanager
def loops(settings: dict[str, Setting]) -> Iterator[Loops]:
    """Start bare loops, each in a process, one after the other; end them afterwards."""
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    processes = []
    try:
        for name, setting in settings.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(setting, theirs), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections[name] = ours
            ours.recv()
        yield Loops(connections)
    finally:
        for connection in connections.values():
            with suppress(BrokenPipeError):  # it ended before: what ended it is being raised
                connection.send(None)
        for process in processes:
            process.join(10)


def experiment_of(topology: str, seed: int, **settings: Any) -> Experiment:
    """What bare loops and workers both do: the sample's images, the shipped network, exits above 0.8, no emulation."""
    return load_experiment(None, {"topology": topology, "seed": seed, "thresholds": 0.8, **settings})
