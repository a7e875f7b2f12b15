"""From a checkpoint to something every worker can open: what the launcher does once, before any worker starts.

With a warm cache nothing here imports torch. A worker on another machine has no such cache; `carrying` puts the files
it needs into the value that is sent to it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mdi_exit.cachefolder import CACHE_VARIABLE, cache_folder
from mdi_exit.compute import cache
from mdi_exit.compute.base import ComputeError, FeatureShapes
from mdi_exit.models.card import Card
from mdi_exit.models.files import files_of, resolve

BACKENDS = ("onnx", "torch")
# Raise when `export` writes something else for the same checkpoint.
EXPORT_VERSION = 1


@dataclass(frozen=True, slots=True)
class PreparedNet:
    """A checkpoint that `open_runner` can open without asking anybody; small unless it carries files."""

    backend: str
    card: Card
    weights: Path
    models: tuple[Path, ...]  # of segments 1..K as ONNX; empty for torch
    features: FeatureShapes
    carried: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # file name: content

    def carrying(self, hosted: Sequence[int]) -> PreparedNet:
        """The same with the files of a slice inside, for a worker on a machine that does not have them."""
        files = [self.models[k - 1] for k in hosted] if self.backend == "onnx" else files_of(self.weights, self.card)
        return dataclasses.replace(self, carried={path.name: path.read_bytes() for path in files})


def prepare(checkpoint: str | Path, backend: str = "onnx", cache_dir: Path | None = None) -> PreparedNet:
    """Find a checkpoint (path or bundled name) and, for "onnx", its exported segments, exporting what is missing.

    Raises CheckpointError or CardError for the checkpoint, ComputeError for an unknown backend, a cache that cannot
    be written, or a network that cannot be exported.
    """
    if backend not in BACKENDS:
        raise ComputeError(f"backend is {backend!r}; allowed are {', '.join(BACKENDS)}")
    weights = resolve(checkpoint)
    card = Card.load(weights.with_suffix(".json"))
    if backend == "torch":
        from mdi_exit.compute.torch_runner import feature_shapes
        from mdi_exit.models.checkpoint import load

        network, card = load(weights)
        return PreparedNet(backend, card, weights, (), feature_shapes(network, card.model.image_size))
    root = (cache_dir or cache_folder()) / "networks"
    folder = root / _key(weights, card)
    about = cache.find(folder)
    if about is None:
        _export(weights, folder)
        about = cache.find(folder)
        if about is None:
            raise ComputeError(f"{folder}: damaged as soon as it is written; name another {CACHE_VARIABLE}")
    features = FeatureShapes(tuple(tuple(shape) for shape in about["shapes"]))
    models = tuple(folder / _model_name(k) for k in range(1, features.exits + 1))
    return PreparedNet(backend, card, weights, models, features)


def _key(weights: Path, card: Card) -> str:
    """A name for exactly what an export depends on; the temperatures are not in it, they are applied to logits."""
    made_of = {
        "weights": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files_of(weights, card)],
        "card": card.weights_sha256,  # weights beside the wrong card are never found, and refused when loaded
        "model": dataclasses.asdict(card.model),
        "torch": importlib.metadata.version("torch"),
        "export": EXPORT_VERSION,
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return f"{card.model.architecture}-{digest[:32]}"


def _model_name(k: int) -> str:
    return f"segment-{k}.onnx"


def _export(weights: Path, folder: Path) -> None:
    from mdi_exit.compute.export import export_segments
    from mdi_exit.compute.torch_runner import feature_shapes
    from mdi_exit.models.checkpoint import load

    network, card = load(weights)
    features = feature_shapes(network, card.model.image_size)
    segments = export_segments(network, features)
    files = {_model_name(k): content for k, content in enumerate(segments, start=1)}
    about = {"checkpoint": weights.stem, "shapes": features.shapes}
    try:
        cache.keep(folder, files, about)
        cache.prune(folder.parent)
    except OSError as error:
        raise ComputeError(
            f"{folder.parent}: exported networks cannot be kept there ({error.strerror}); name a folder that can be "
            f"written in {CACHE_VARIABLE}"
        ) from error
