"""A network's segments as ONNX models; the only place that exports, and the part of `compute` that wants torch.

Batch normalisation is folded into the convolutions before it is written. The whole network is traced once and then cut
at its features, which takes a third of a second instead of one per segment.

Why the TorchScript exporter: with torch 2.13 it takes 0.3 s for MobileNetV2 and 1.7 s for ResNet-50, the one built on
torch.export 7 s for either, and the first result of a fresh installation waits for it. It is deprecated since torch
2.9 and still there in 2.15. When it goes, `_whole` takes the other one (`dynamo=True`, and the package onnxscript);
nothing else changes. Because exporters differ between versions, what was written is run beside the original before
anybody gets it.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import torch
from torch import Tensor, nn

from mdi_exit.compute.base import ComputeError, FeatureShapes
from mdi_exit.compute.onnx_runner import infer, input_name, open_session, output_names
from mdi_exit.compute.torch_runner import one_thread
from mdi_exit.models.multi_exit import MultiExitNetwork

# 17 is what the oldest supported torch writes and the oldest supported ONNX Runtime reads; nothing newer is needed.
OPSET = 17
# Folded and fused convolutions add up in another order; measured differences are below 1e-5 of the largest logit.
TOLERANCE = 1e-3


class ExportError(ComputeError):
    """A network that cannot be written as ONNX, or comes out different."""


class _AllExits(nn.Module):
    """Image to (logits of exits 1..K, then features a_1..a_{K-1}), as one flat tuple, which is what ONNX has."""

    def __init__(self, network: MultiExitNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits: list[Tensor] = []
        features: list[Tensor] = []
        carried: Tensor | None = image
        for k in range(1, self.network.exits + 1):
            assert carried is not None
            reading, carried = self.network.run_segment(k, carried)
            logits.append(reading)
            if carried is not None:
                features.append(carried)
        return (*logits, *features)


def export_segments(network: MultiExitNetwork, features: FeatureShapes) -> list[bytes]:
    """ONNX models of segments 1..K of a network in evaluation mode, with a free batch dimension.

    Raises ExportError when the installed torch cannot, or when a model's logits differ from the network's.
    """
    assert not network.training
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, *features.shape(0)), dtype=torch.uint8, generator=generator)
    with one_thread(), torch.no_grad():
        whole = _whole(network, images)
        expected = [logits.numpy() for logits in network.forward_exits(images)]
    cutter = onnx.utils.Extractor(whole)
    exits = network.exits
    segments: list[bytes] = []
    for k in range(1, exits + 1):
        segment = cutter.extract_model([input_name(k)], output_names(k, exits))
        segment.ir_version = whole.ir_version  # the extractor writes onnx's newest, which ONNX Runtime may not know
        segments.append(segment.SerializeToString())
    _compare(segments, images.numpy(), expected)
    return segments


def _whole(network: MultiExitNetwork, images: Tensor) -> onnx.ModelProto:
    exits = network.exits
    outputs = [output_names(k, exits)[0] for k in range(1, exits + 1)]
    outputs += [input_name(k) for k in range(2, exits + 1)]
    with tempfile.TemporaryDirectory(prefix="mdi-exit-") as folder, warnings.catch_warnings():
        path = Path(folder) / "whole.onnx"
        # Both say that this exporter will go, which the module's docstring answers.
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        try:
            torch.onnx.export(
                _AllExits(network).eval(),  # the exporter puts back the mode it finds
                (images,),
                str(path),
                input_names=[input_name(1)],
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in (input_name(1), *outputs)},
                opset_version=OPSET,
                dynamo=False,
            )
        except (RuntimeError, TypeError, ValueError) as error:  # what exporters raise, and what a missing one does
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"torch {torch.__version__} cannot export the network as ONNX ({reason}); use the backend torch"
            ) from error
        return onnx.load(path)


def _compare(segments: list[bytes], images: np.ndarray, expected: list[np.ndarray]) -> None:
    carried: np.ndarray | None = images
    for k, (segment, wanted) in enumerate(zip(segments, expected, strict=True), start=1):
        assert carried is not None
        logits, carried = infer(open_session(segment, 1), k, len(segments), carried)
        difference = float(np.abs(logits - wanted).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise ExportError(
                f"segment {k} exported by torch {torch.__version__} differs from the network's by {difference:.2g} "
                "in a logit; use the backend torch"
            )
