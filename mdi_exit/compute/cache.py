"""Exported networks on disk: one folder per network, named by the hash of all it was made from.

A folder appears whole or not at all (it is written aside and renamed), so two processes may export at once. A manifest
holds the sum of every file: what was damaged since is not found, and is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# A project has a handful of networks in use; the rest are checkpoints of trainings that went on. 32 take 0.3 GB as
# MobileNetV2 and 3 GB as ResNet-50, and what was dropped comes back in a second or two.
NETWORKS_MAX = 32
# A folder being written is finished within seconds; one this old was left behind by a process that died.
ABANDONED_S = 3600.0

_MANIFEST = "manifest.json"
_ASIDE = ".aside-"


def find(folder: Path) -> dict[str, Any] | None:
    """What `keep` was told of the files in `folder`, or None when it is not there or any of it is damaged."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        sums: dict[str, str] = manifest["sha256"]
        intact = all(_sum((folder / name).read_bytes()) == wanted for name, wanted in sums.items())
        about = manifest["about"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever is wrong with it, the way out is to write it again
    if not intact or not isinstance(about, dict):
        return None
    with contextlib.suppress(OSError):  # a cache that is only readable is fine; its entries do not age
        os.utime(folder)
    return about


def keep(folder: Path, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Write `files` as `folder`, in place of a damaged one; leave an intact one that another process wrote.

    Raises OSError when the place cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=folder.parent, ignore_cleanup_errors=True) as aside:
        ready = Path(aside) / "ready"
        ready.mkdir()
        for name, content in files.items():
            (ready / name).write_bytes(content)
        manifest = {"about": about, "sha256": {name: _sum(content) for name, content in files.items()}}
        (ready / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if find(folder) is None:
            with contextlib.suppress(FileNotFoundError):  # nothing there, or another process moved it away
                folder.rename(Path(aside) / "damaged")
            with contextlib.suppress(OSError):  # another process was first; its copy is as good
                ready.rename(folder)


def prune(root: Path, networks_max: int = NETWORKS_MAX) -> None:
    """Remove the networks that were not used for the longest time, and what died half written."""
    now = time.time()
    networks: list[tuple[float, Path]] = []
    for folder in root.iterdir():
        with contextlib.suppress(OSError):  # another process removed it meanwhile
            used_at = folder.stat().st_mtime
            if not folder.name.startswith(_ASIDE):
                networks.append((used_at, folder))
            elif now - used_at > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
    for _, folder in sorted(networks, reverse=True)[networks_max:]:
        shutil.rmtree(folder, ignore_errors=True)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
