"""Where a checkpoint's files are, without torch, so that whoever runs an exported network need not load it.

A checkpoint is NAME.safetensors (weights) and NAME.json (the card) side by side; some are bundled with the package.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from mdi_exit.errors import UserError
from mdi_exit.models.card import Card

SUFFIX = ".safetensors"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or not of the network its card describes."""


def resolve(name_or_path: str | Path) -> Path:
    """Find the weights' file of a path (suffix optional) or of a bundled checkpoint's bare name."""
    weights = weights_path(name_or_path)
    if weights.is_file():
        return weights
    assets = _assets()
    if weights.name == str(weights) and (assets / weights.name).is_file():
        return assets / weights.name
    bundled = ", ".join(sorted(path.stem for path in assets.glob(f"*{SUFFIX}"))) or "none"
    raise CheckpointError(f"{name_or_path}: no such checkpoint ({weights} is missing); bundled are: {bundled}")


def files_of(weights: Path, card: Card) -> list[Path]:
    """All files that hold a checkpoint's weights: its own, and its base's where the card names one, which lies beside
    it or is bundled. What is in both is the first one's."""
    if not card.base:
        return [weights]
    beside = weights.with_name(card.base + SUFFIX)
    return [weights, beside if beside.is_file() else resolve(card.base)]


def lay_beside(weights: Path, folder: Path) -> None:
    """Copy a checkpoint to the folder of those that name it as their base, unless it lies there or is bundled."""
    if weights.parent.resolve() in (folder.resolve(), _assets().resolve()):
        return
    for file in (weights, weights.with_suffix(".json")):
        shutil.copy2(file, folder)


def weights_path(path: str | Path) -> Path:
    """The weights' file that `path` means, whether it names the pair, the weights or the card."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (SUFFIX, ".json") else path
    return stem.with_name(stem.name + SUFFIX)


def _assets() -> Path:
    return Path(str(resources.files("mdi_exit") / "assets"))
