"""Where things are kept that can be had again: downloads, and networks exported for this machine (`networks/`)."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "MDI_EXIT_CACHE"


def cache_folder() -> Path:
    """$MDI_EXIT_CACHE, else $XDG_CACHE_HOME/mdi-exit, else ~/.cache/mdi-exit."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if not shared.is_absolute():  # the XDG specification: a relative path is to be ignored
        shared = Path("~/.cache").expanduser()
    return shared / "mdi-exit"
