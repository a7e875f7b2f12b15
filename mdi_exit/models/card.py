"""What a checkpoint is: how to build its network, what it was trained on, how good it is.

Torch-free, so that a simulator or a worker that runs an exported slice can read a card alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mdi_exit.errors import UserError

SCHEMA = 1
ARCHITECTURES = {"mobilenet_v2": 5, "resnet50": 4, "b_alexnet": 3}  # name: exits
FIXED_SIZE = ("b_alexnet",)  # can run images of the size it was built for only


class CardError(UserError):
    """A card that is missing, damaged or says what cannot be."""


@dataclass(frozen=True, slots=True)
class BottleneckConfig:
    """An autoencoder across cut `cut`: `channels` of code, both sides shrunk by `stride`."""

    cut: int
    channels: int
    stride: int = 1


@dataclass(frozen=True, slots=True)
class AnalogConfig:
    """An analog link across cut `cut` (models.analog): B channel uses, trained from `snr_low_db` to `snr_high_db`."""

    cut: int
    shape: tuple[int, int, int]  # (C, H, W) of the feature that the encoder takes
    uses: int  # B, complex
    snr_low_db: float
    snr_high_db: float


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything `build` needs; raises CardError where it cannot be built."""

    architecture: str
    image_size: int  # pixels, both sides
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bottlenecks: tuple[BottleneckConfig, ...] = ()
    analog: AnalogConfig | None = None

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise CardError(f"model.architecture is {self.architecture!r}; allowed are {', '.join(ARCHITECTURES)}")
        if not 16 <= self.image_size <= 1024:
            raise CardError(f"model.image_size is {self.image_size}; allowed are 16 to 1024 pixels")
        if len(self.classes) < 2:
            raise CardError(f"model.classes names {len(self.classes)}; a classifier needs at least 2")
        if min(self.std) <= 0:
            raise CardError(f"model.std is {self.std}; allowed are positive numbers")
        cuts = [bottleneck.cut for bottleneck in self.bottlenecks]
        if wrong := [cut for cut in cuts if not 1 <= cut < self.exits or cuts.count(cut) > 1]:
            raise CardError(f"model.bottlenecks has cut {wrong[0]}; allowed is each of 1 to {self.exits - 1} once")
        if any(bottleneck.channels < 1 or bottleneck.stride < 1 for bottleneck in self.bottlenecks):
            raise CardError("model.bottlenecks: channels and stride are at least 1")
        if (link := self.analog) is not None:
            if not 1 <= link.cut < self.exits or link.cut in cuts:
                raise CardError(f"model.analog has cut {link.cut}; allowed is one of 1 to {self.exits - 1} of its own")
            if link.uses < 1 or not link.snr_low_db < link.snr_high_db:
                raise CardError("model.analog: uses is at least 1, snr_low_db below snr_high_db")

    @property
    def exits(self) -> int:
        """K."""
        return ARCHITECTURES[self.architecture]


@dataclass(frozen=True, slots=True)
class Figures:
    """How good each exit is on one set of images; the expected calibration error (ECE) uses 15 equal bins."""

    data: str  # which images, in words
    images: int
    accuracy: tuple[float, ...]
    ece_before: tuple[float, ...]  # with temperature 1
    ece_after: tuple[float, ...]  # with the card's temperatures


@dataclass(frozen=True, slots=True)
class Promise:
    """Exit thresholds chosen with a guarantee, and what is guaranteed (training.guarantee)."""

    thresholds: tuple[float, ...]  # one per exit but the last
    target: float  # at least this share of the answers does not go wrong ...
    risk: float  # ... but for draws of the images below that are as improbable as this
    against: str  # "labels": a wrong answer went wrong; "full": one that the last exit would have given rightly
    data: str  # the images they were chosen on, in words
    images: int
    found: float  # the share of these images that did not go wrong
    exits: tuple[float, ...]  # the share of these images that left at each exit


@dataclass(frozen=True, slots=True)
class Card:
    """A checkpoint's passport, NAME.json beside NAME.safetensors."""

    model: ModelConfig
    seed: int
    data: str  # the training data, in words
    split: str  # what was trained on and what was held out, in words
    validation_share: float  # with the seed, this re-derives the split
    epochs: int
    temperatures: tuple[float, ...]  # one per exit; 1.0 until calibrated
    data_images: int = 0  # in all, trained on and held out
    validation: Figures | None = None
    test: Figures | None = None
    command: str = ""
    machine: str = ""
    parameters: int = 0
    weights_sha256: str = ""
    remarks: str = ""  # what the command alone does not tell
    provisional: bool = False  # made only to work against; a release must not ship it
    data_sum: str = ""  # over all images and labels (training.split.data_sum); empty in cards from before there was one
    calibration: str = ""  # which kind of temperatures (training.calibrate.KINDS); empty when nobody said
    promise: Promise | None = None
    base: str = ""  # the checkpoint, beside this one or bundled, that holds all weights but those of model.analog
    base_sha256: str = ""  # of that checkpoint's weights
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise CardError(f"schema is {self.schema}; this version reads {SCHEMA}")
        if len(self.temperatures) != self.model.exits or min(self.temperatures) <= 0:
            raise CardError(f"temperatures is {self.temperatures}; {self.model.exits} positive numbers are needed")
        if self.base and not re.fullmatch(r"\w[\w.-]*", self.base):
            raise CardError(f"base is {self.base[:60]!r}; allowed: a checkpoint's name, without a folder")

    @property
    def identity(self) -> str:
        """A short name for exactly these weights and temperatures."""
        heat = ",".join(f"{temperature:.4f}" for temperature in self.temperatures)
        return f"{self.model.architecture}-{self.weights_sha256[:12] or 'unsaved'}@{heat}"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def save(self, path: Path) -> None:
        temporary = path.with_name(path.name + ".part")
        temporary.write_text(self.to_json(), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Card:
        """Read a card; raises CardError that names the file and the key."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CardError(f"{path}: no such file; a checkpoint is NAME.safetensors with NAME.json") from error
        except (OSError, ValueError) as error:
            raise CardError(f"{path}: not a readable JSON card ({error})") from error
        try:
            return _build(cls, content, "")
        except CardError as error:
            raise CardError(f"{path}: {error}") from error


_T = TypeVar("_T")


def _build(kind: type[_T], content: Any, key: str) -> _T:
    """Make a dataclass of plain JSON, checking every key and type."""
    if not isinstance(content, dict):
        raise CardError(f"{key or 'the card'} must be an object")
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := [name for name in content if name not in fields]:
        raise CardError(f"unknown key {_join(key, unknown[0])}; allowed are {', '.join(fields)}")
    required = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in content]
    if required:
        raise CardError(f"key {_join(key, required[0])} is missing")
    return kind(**{name: _convert(hints[name], value, _join(key, name)) for name, value in content.items()})


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _convert(hint: Any, value: Any, key: str) -> Any:
    if isinstance(hint, types.UnionType):  # Figures | None
        return None if value is None else _convert(typing.get_args(hint)[0], value, key)
    if typing.get_origin(hint) is tuple:
        arguments = typing.get_args(hint)
        if not isinstance(value, list):
            raise CardError(f"{key} must be a list")
        if Ellipsis not in arguments and len(value) != len(arguments):
            raise CardError(f"{key} must have {len(arguments)} entries, not {len(value)}")
        return tuple(_convert(arguments[0], entry, f"{key}[{i}]") for i, entry in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, key)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise CardError(f"{key} is {value!r}; allowed is a value of type {hint.__name__}")
    return value
