"""An experiment file made of another one: the same content with some keys changed, to lie in another folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mdi_exit.config.load import read_experiment
from mdi_exit.config.settings import REFERENCES, there
from mdi_exit.dataset import SAMPLE
from mdi_exit.models.files import weights_path
from mdi_exit.resources import is_path


def rewritten(path: str | Path, overrides: Mapping[str, Any], changes: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The content of an experiment's file with settings laid over it and `changes` in place of what it says. Paths of
    files in it lead from the folder `out` to where they lead now. Raises ConfigError as `load_experiment` does.
    """
    content, base = read_experiment(path, overrides)
    for dotted in REFERENCES:
        _move(content, dotted.split("."), base, out)
    devices = content.get("devices")
    for worker in devices if isinstance(devices, Mapping) else ():
        _move(content, ["devices", worker], base, out)
        _move(content, ["devices", worker, "profile"], base, out)
    return {**content, **changes}


def as_yaml(content: Mapping[str, Any], remark: str) -> str:
    """A YAML file of it, headed by a remark."""
    head = "".join(f"# {line}\n" for line in remark.splitlines())
    text: str = yaml.safe_dump(_plain(content), sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return head + text


def _move(content: dict[str, Any], keys: list[str], base: Path, out: Path) -> None:
    """Let a path that is there now lead there from another folder."""
    inner: Any = content
    for key in keys[:-1]:
        inner = inner.get(key) if isinstance(inner, dict) else None
    value = inner.get(keys[-1]) if isinstance(inner, dict) else None
    if not isinstance(value, str) or value.startswith("~") or Path(value).is_absolute():
        return
    file = weights_path(base / value) if keys == ["model"] else base / value
    a_name = keys[0] in ("topology", "devices") and not is_path(value)  # of something shipped, whatever else is there
    if there(file) and value != SAMPLE and not a_name:
        inner[keys[-1]] = os.path.relpath(file.absolute(), out.absolute())


def _plain(value: Any) -> Any:
    """Tuples, which reading made of lists, as lists again."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
