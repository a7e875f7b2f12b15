"""YAML files of a user's, and the one line that says what is wrong with them.

Every refusal reads `FILE: key.path: what is wrong; allowed: ...`. Scalars follow YAML 1.2: PyYAML's 1.1 would make a
worker called `no` a truth value, `1:30` the number 90 and `1e-3` a text. A key given twice is refused, because
whichever of the two won, it would be the wrong one for somebody.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from mdi_exit.errors import UserError

if TYPE_CHECKING:  # workers, which only refuse, need not carry it
    import pydantic

NUMBERS_MAX = 1_000_000  # lines of a file of numbers: what is read is held in memory
_NAMED_MAX = 3  # fields of one relation; more are a list of fields that have nothing to do with each other
STRICT: pydantic.ConfigDict = {"strict": True, "extra": "forbid", "frozen": True, "allow_inf_nan": False}


class ConfigError(UserError):
    """A file, or a setting given in its place, that says what cannot be."""

    place: Place  # that is refused
    what: str  # is wrong there


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: the file (or what is named in its stead) and the keys that lead to it."""

    file: str
    keys: tuple[str | int, ...] = ()

    def at(self, *keys: str | int) -> Place:
        return Place(self.file, self.keys + keys)

    def refuse(self, what: str, allowed: str | Iterable[str] = "") -> ConfigError:
        """The error to raise about this place, as one line."""
        path = ""
        for key in self.keys:
            path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
        allowed = allowed if isinstance(allowed, str) else ", ".join(allowed)
        what += f"; allowed: {allowed}" if allowed else ""
        error = ConfigError(" ".join(": ".join(part for part in (self.file, path, what) if part).split()))
        error.place, error.what = self, what
        return error

    def unknown(self, what: str, name: object, allowed: Iterable[str]) -> ConfigError:
        """Refuse a name that is not among `allowed`, with the one that was probably meant."""
        known = list(allowed)
        return self.refuse(f"unknown {what} {name!r}{meant(name, known)}", known or "none")


def meant(name: object, known: Iterable[str]) -> str:
    """The name that was probably meant, in brackets, if any comes close."""
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# ---- reading


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars, refusing duplicated keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's name; filled below, for this class alone

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def parse(text: str) -> Any:
    """The value of a piece of YAML; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a file that must hold a mapping (or nothing: everything is defaulted). Raises ConfigError."""
    place = Place(str(path))
    try:
        content = _frozen(parse(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise place.refuse("no such file") from error
    except IsADirectoryError as error:
        raise place.refuse("is a folder", "a YAML file") from error
    except UnicodeDecodeError as error:
        raise place.refuse("is not text", "a YAML file, in UTF-8") from error
    except OSError as error:
        raise place.refuse(f"cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise place.refuse("nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise place.refuse(f"{line}not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise place.refuse(f"not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise place.refuse(f"holds {describe(content)}", "a mapping, lines of `key: value`")
    return content


def read_numbers(path: Path, place: Place, line: str, columns: int) -> list[tuple[Place, tuple[float, ...]]]:
    """The lines of a text file that `place` names, each of `columns` finite numbers, with their places.

    # starts a comment. `line` says in words what belongs into a line. Raises ConfigError, about the line that is wrong.
    """
    allowed = f"a text file with {line} in each line"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise place.refuse(f"{path} cannot be read ({error})", allowed) from error
    rows: list[tuple[Place, tuple[float, ...]]] = []
    for number, whole in enumerate(lines, start=1):
        words = whole.partition("#")[0].split()
        if not words:
            continue
        inside = Place(f"{path} line {number}")
        try:
            row = tuple(map(float, words))
        except ValueError:
            row = ()
        if len(row) != columns or not all(map(math.isfinite, row)):
            raise inside.refuse(f"is {describe(' '.join(words))}", line)
        rows.append((inside, row))
        if len(rows) > NUMBERS_MAX:
            raise place.refuse(f"{path} has too many lines", f"at most {NUMBERS_MAX}")
    return rows


# ---- checking

Model = TypeVar("Model", bound="pydantic.BaseModel")
Record = TypeVar("Record")


def check(model: type[Model], content: object, place: Place) -> Model:
    """Validate a mapping against a pydantic model without models inside; raises ConfigError for the first mistake."""
    import pydantic

    if not isinstance(content, Mapping):
        raise place.refuse(f"is {describe(content)}", "a mapping with " + ", ".join(_keys_of(model)))
    for key in content:
        if not isinstance(key, str) or key not in _keys_of(model):
            raise place.unknown("key", key, _keys_of(model))
    try:
        return model.model_validate(_frozen(content))
    except pydantic.ValidationError as error:
        first, *others = error.errors(include_url=False)
        keys = tuple(key for key in first["loc"] if not isinstance(key, str) or "[" not in key)
        missing = [str(other["loc"][0]) for other in others if other["type"] == "missing"]
        raise _translate(place.at(*keys), first, missing) from error


def build(record: type[Record], content: Mapping[str, Any], place: Place) -> Record:
    """Make a frozen dataclass from a mapping of its fields; raises ConfigError for unknown keys and bad values.

    Goes by way of a pydantic model with the same fields, because pydantic validates a plain dataclass neither
    strictly nor against unknown keys.
    """
    import pydantic

    assert dataclasses.is_dataclass(record)
    hints = typing.get_type_hints(record, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        fields[field.name] = (hints[field.name], ... if required else None)
    model = pydantic.create_model(record.__name__, __config__=STRICT, **fields)
    checked = check(model, content, place)
    try:
        return record(**{name: getattr(checked, name) for name in content})
    except ValueError as error:
        raise refusal(record, content, place, str(error)) from error


def refusal(record: type[Any], content: Mapping[str, Any], place: Place, what: str) -> ConfigError:
    """The refusal of `content`, of which `record` says what is wrong: of one field, if that alone is to blame, and with
    the values of the others that `what` speaks of."""
    fields = {field.name: content.get(field.name, field.default) for field in dataclasses.fields(record)}
    named = [name for name in fields if re.search(rf"\b{name}\b", what)]
    blamed = [name for name in named if name in content and _fine(record, content, name, what)]
    if len(one := blamed if len(named) > 1 else named) == 1:
        place, said = place.at(one[0]), re.match(rf"{one[0]} ((is|are|has) .*)", what)
        what = said[1] if said else f"is {describe(fields[one[0]])}, but {what}"
        named = [] if len(named) > _NAMED_MAX else [name for name in named if name not in one]
    values = ", ".join(f"{name} is {describe(fields[name])}" for name in named)
    return place.refuse(f"{what} ({values})" if values else what)


def _fine(record: type[Any], content: Mapping[str, Any], name: str, what: str) -> bool:
    """Whether `what` is no longer wrong once a field has its default."""
    try:
        record(**{key: value for key, value in content.items() if key != name})
    except ValueError as error:
        return str(error) != what
    except TypeError:  # it has none
        return False
    return True


def describe(value: object) -> str:
    """A value of a file in words that fit into a line."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_of(model: type[pydantic.BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _frozen(value: Any) -> Any:
    """Lists as tuples: what is read is not changed afterwards."""
    if isinstance(value, Mapping):
        return {key: _frozen(entry) for key, entry in value.items()}
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list | tuple) else value


_ALLOWED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "string_too_short": "text that is not empty",
    "literal_error": "{expected}",
}


def _translate(place: Place, error: Any, missing: list[str]) -> ConfigError:
    """pydantic's account of a mistake, in the words of a YAML file; `missing` are further keys that are."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return place.refuse(", and so is ".join(["is missing", *missing]))
    if kind == "value_error":
        return place.refuse(str(context["error"]))
    allowed = _ALLOWED.get(kind, "").format(**context) or str(error["msg"])
    return place.refuse(f"is {describe(error['input'])}", allowed.replace("True", "true").replace("False", "false"))
