"""Settings in an experiment file's stead, `--set KEY=VALUE`: how they are read, laid over it and complained of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mdi_exit import public_sets
from mdi_exit.dataset import SAMPLE
from mdi_exit.errors import UserError
from mdi_exit.yamlfile import ConfigError, Place, describe, parse

SET = "--set"
_POLICIES = ("exit", "offloading", "admission", "arrivals")
REFERENCES = (
    "model",
    "dataset",
    "topology",
    "devices",
    "arrivals.file",
    "exit.decision.file",
    "links.bandwidth_trace",
)  # settings that may hold a path


def parse_setting(text: str) -> tuple[str, Any]:
    """A `key.path=value` of the command line, the value read as YAML; raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise Place(SET).refuse(f"{text!r} is no setting", "KEY=VALUE, such as admission.rule=always")
    try:
        return key.strip(), parse(value)
    except (yaml.YAMLError, RecursionError) as error:
        raise Place(SET, (key.strip(),)).refuse(f"{value!r} is not valid YAML") from error


def override(content: Mapping[str, Any], dotted: str, value: Any, place: Place) -> dict[str, Any]:
    """A copy of `content` with one dotted key set; the short form of a policy is spelt out on the way."""
    keys = dotted.split(".")
    changed: dict[str, Any] = copy.deepcopy(dict(content))
    inner = changed
    for depth, key in enumerate(keys[:-1]):
        if depth == 0 and key in _POLICIES and isinstance(inner.get(key), str):
            inner[key] = {"rule": inner[key]}
        if inner.get(key) is None:
            inner[key] = {}
        if not isinstance(inner[key], dict):
            raise place.at(*keys[: depth + 1]).refuse(f"is {describe(inner[key])}, so {dotted} cannot be set")
        inner = inner[key]
    inner[keys[-1]] = value
    return changed


def from_here(dotted: str, value: Any) -> Any:
    """A path given as a setting, or within one, made independent of the file that it overrides."""
    if isinstance(value, Mapping):
        return {key: from_here(f"{dotted}.{key}", inner) for key, inner in value.items()}
    if not isinstance(value, str) or not any(dotted == key or dotted.startswith(f"{key}.") for key in REFERENCES):
        return value
    if _is_name(dotted, value):
        return value
    try:
        return str(Path(value).expanduser().absolute())
    except RuntimeError:  # ~ of nobody
        return value


def _is_name(dotted: str, value: str) -> bool:
    """Whether a word means something that is shipped or public, not a file; a folder of images is often a bare word."""
    if dotted == "dataset":
        return value == SAMPLE or (public_sets.known(value) and not there(Path(value)))
    return "/" not in value and (not Path(value).suffix or (dotted == "model" and not there(Path(value))))


def blame(
    error: ConfigError, file: str, settings: Mapping[str, Any], load_file_alone: Callable[[], object]
) -> ConfigError:
    """A refusal of `file` with `settings` laid over it, as one of what is wrong: the file, a setting, or both together.

    A setting is wrong where it holds what is refused, and the file where it is refused alone in the same words.
    """
    place = error.place
    paths = {tuple(key.split(".")): key for key in settings}
    inside = [key for path, key in paths.items() if place.keys[: len(path)] == path]
    if place.file != file or not settings:
        return error
    if inside:
        return Place(SET, place.keys).refuse(error.what + _as_a_list(inside[-1], settings[inside[-1]]))
    try:
        load_file_alone()
    except UserError as of_file:
        if str(of_file) == str(error):
            return error
    else:
        if any(path[: len(place.keys)] == place.keys for path in paths):
            return Place(SET, place.keys).refuse(error.what)
    return Place(f"{file} with {SET} {', '.join(settings)}", place.keys).refuse(error.what)


def _as_a_list(key: str, value: object) -> str:
    """How to write a list, for whoever gave numbers with commas between them."""
    numbers = value.split(",") if isinstance(value, str) else []
    if len(numbers) < 2 or not all(number.strip().replace(".", "", 1).isdigit() for number in numbers):
        return ""
    return f"; a list is written {SET} '{key}=[{', '.join(number.strip() for number in numbers)}]'"


def there(path: Path) -> bool:
    """Whether there is such a file or folder; no text, however odd, is an error."""
    try:
        return path.expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL in it, ~ of nobody
        return False
