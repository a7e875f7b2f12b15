"""Run a slice of a network. `prepare` once in the launcher, `open_runner` in every worker.

Importing this imports neither torch nor ONNX Runtime; a worker that runs ONNX never imports torch at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdi_exit.compute.base import ComputeError, SegmentRunner, readings
from mdi_exit.compute.prepare import BACKENDS, PreparedNet, prepare

# ONNX Runtime reports its use to its maker unless told otherwise, and is told when it is imported, which is after this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
_KEPT_BYTES = 32 << 20  # of freed memory; the most that mallopt takes

__all__ = [
    "BACKENDS",
    "ComputeError",
    "PreparedNet",
    "SegmentRunner",
    "on_processor",
    "open_runner",
    "prepare",
    "readings",
]


def open_runner(prepared: PreparedNet, hosted: Sequence[int], threads: int = 1, device: str = "cpu") -> SegmentRunner:
    """Open the hosted segments and run each once, so that what cannot work is known before the first task.

    `device` is "cpu", or for the backend torch also "cuda", "cuda:NUMBER" or "auto", which is the GPU if there is
    one. Raises ComputeError.
    """
    runner = _open(prepared, hosted, threads, device)
    for k in runner.hosted:
        dtype = prepared.features.dtype(k - 1)
        runner.run(k, np.zeros((1, *prepared.features.shape(k - 1)), dtype))
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc has these
        c_library = ctypes.CDLL(None)
        # What loading took and freed stays with the process otherwise: 20 MB with MobileNetV2.
        c_library.malloc_trim(0)
        # Every group takes and frees its intermediate results. What the system is given back each time, it hands out
        # again page by page, zeroed: in some runs, as thresholds had come to stand, 200 pages and 0.6 ms per image.
        c_library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        c_library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    return runner


def on_processor(device: str) -> bool:
    """Whether `open_runner` computes on the processor for this `device`, one that it takes."""
    if device != "auto":
        return device == "cpu"
    from mdi_exit.compute.torch_runner import device_of

    return device_of(device).type == "cpu"


def _open(prepared: PreparedNet, hosted: Sequence[int], threads: int, device: str) -> SegmentRunner:
    temperatures = prepared.card.temperatures
    if prepared.backend == "onnx":
        from mdi_exit.compute.onnx_runner import OnnxRunner

        if device != "cpu":
            raise ComputeError(f"device is {device!r}; the backend onnx runs on cpu, the backend torch on cuda too")
        models = {k: prepared.models[k - 1] for k in hosted}
        contents = {k: prepared.carried.get(path.name, path) for k, path in models.items()}
        return OnnxRunner(contents, prepared.features, temperatures, threads)
    from mdi_exit.compute.torch_runner import TorchRunner

    if not prepared.carried:
        return TorchRunner(prepared.weights, prepared.features, temperatures, hosted, threads, device)
    with tempfile.TemporaryDirectory(prefix="mdi-exit-") as folder:
        weights = Path(folder) / prepared.weights.name
        for name, content in prepared.carried.items():
            weights.with_name(name).write_bytes(content)
        prepared.card.save(weights.with_suffix(".json"))
        return TorchRunner(weights, prepared.features, temperatures, hosted, threads, device)
