"""Where a checkpoint's files are, without torch, so that whoever runs an exported network need not load it.

A checkpoint is NAME.safetensors (weights) and NAME.json (the card) side by side; some are bundled with the package.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from mdi_exit.errors import UserError

SUFFIX = ".safetensors"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or not of the network its card describes."""


def resolve(name_or_path: str | Path) -> Path:
    """Find the weights' file of a path (suffix optional) or of a bundled checkpoint's bare name."""
    weights = weights_path(name_or_path)
    if weights.is_file():
        return weights
    assets = Path(str(resources.files("mdi_exit") / "assets"))
    if weights.name == str(weights) and (assets / weights.name).is_file():
        return assets / weights.name
    bundled = ", ".join(sorted(path.stem for path in assets.glob(f"*{SUFFIX}"))) or "none"
    raise CheckpointError(f"{name_or_path}: no such checkpoint ({weights} is missing); bundled are: {bundled}")


def weights_path(path: str | Path) -> Path:
    """The weights' file that `path` means, whether it names the pair, the weights or the card."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (SUFFIX, ".json") else path
    return stem.with_name(stem.name + SUFFIX)
