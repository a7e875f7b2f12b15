"""JSON files that a person can read and `diff` can compare: keys sorted, floats rounded, short lists on one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdi_exit.errors import UserError

_DIGITS = 6  # significant ones; nothing here is measured better


class FileError(UserError):
    """A file that cannot be read or written."""


def rounded(value: Any) -> Any:
    """The value with every float at six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write the file, in a new folder if need be; raises FileError. What is not a number (NaN) is our bug."""
    text = _text(rounded(value), "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from error


def read_json(path: Path) -> Any:
    """Read the file; raises FileError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise FileError(f"{path}: not JSON ({error})") from error


def _text(value: Any, indent: str) -> str:
    """JSON with objects spread over lines, and lists too unless they hold plain values only."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        lines = [f"{deeper}{_plain(key)}: {_text(value[key], deeper)}" for key in sorted(value)]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return "[\n" + ",\n".join(deeper + _text(entry, deeper) for entry in value) + f"\n{indent}]"
    return _plain(value)


def _plain(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
