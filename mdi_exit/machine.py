"""What a measurement was made on, and by which command."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

from mdi_exit.compiled import is_compiled


def machine() -> dict[str, str | int | None]:
    """Processor, cores this process may use, whether mdi-exit is compiled, and the versions that matter; None for what
    is not installed."""
    return {
        "cpu": _processor(),
        "cores": cores(),
        "compiled": is_compiled(),
        "python": platform.python_version(),
        "ray": _version("ray"),
        "torch": _version("torch"),
        "onnxruntime": _version("onnxruntime"),
    }


def cores() -> int | None:
    """Processors that this process may use, as far as the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def command_line(program: str = "mdi-exit") -> str:
    """The command as typed, but of absolute paths the last part alone: the folders exist on this machine only."""
    return f"{program} {shlex.join(map(_portable, sys.argv[1:]))}".rstrip()


def _portable(word: str) -> str:
    before, equals, after = word.rpartition("=")  # --out=/path, --set dataset=/path
    return f"{before}{equals}{Path(after).name}" if after.startswith("/") else word


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
