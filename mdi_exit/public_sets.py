"""Public data sets by name: fetched once, checked against a known sum, kept in a cache.

The binary releases are read, not the Python ones: those are pickles, and nothing from outside is ever unpickled.
Without a network, put the archive into the cache folder (environment variable MDI_EXIT_CACHE) yourself.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mdi_exit.cachefolder import CACHE_VARIABLE, cache_folder
from mdi_exit.errors import UserError

PARTS = ("train", "test")
_SIDE = 32


class DatasetError(UserError):
    """The data set cannot be used as it is, or cannot be had."""


@dataclass(frozen=True, slots=True)
class _Release:
    """One archive; a record is `label_bytes` bytes, the last of which is the label, then 3 x 32 x 32 pixels."""

    url: str
    md5: str
    label_bytes: int
    files: dict[str, tuple[str, ...]]
    classes_file: str


_BATCHES = tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6))
_RELEASES = {
    "cifar10": _Release(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        1,
        {"train": _BATCHES, "test": ("cifar-10-batches-bin/test_batch.bin",)},
        "cifar-10-batches-bin/batches.meta.txt",
    ),
    "cifar100": _Release(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        2,
        {"train": ("cifar-100-binary/train.bin",), "test": ("cifar-100-binary/test.bin",)},
        "cifar-100-binary/fine_label_names.txt",
    ),
}
NAMES = tuple(_RELEASES)


@dataclass(frozen=True, slots=True, eq=False)
class PublicImages:
    """A public set's part, held in memory."""

    members: list[str]
    classes_of: list[str]
    _pixels: NDArray[np.uint8]
    _row: dict[str, int]

    def size(self, name: str) -> tuple[int, int]:
        return _SIDE, _SIDE

    def pixels(self, name: str) -> Image.Image:
        return Image.fromarray(self._pixels[self._row[name]].transpose(1, 2, 0))


def known(name: str) -> bool:
    """Whether `name` is a public set, with or without its part ("cifar10", "cifar10-test")."""
    return _split(name) is not None


def _split(name: str) -> tuple[str, str | None] | None:
    if name in _RELEASES:
        return name, None
    base, dash, part = name.rpartition("-")
    return (base, part) if dash and base in _RELEASES and part in PARTS else None


def fetch(name: str, part: str, cache: Path | None = None) -> PublicImages:
    """Load a part of a public set; the part in the name, if any, wins.

    Raises DatasetError, in one line that says where to put the archive, when it cannot be had.
    """
    import pooch  # brings a whole HTTP client, which only this needs

    split = _split(name)
    assert split is not None, name
    release = _RELEASES[split[0]]
    folder = cache or cache_folder()
    file_name = release.url.rpartition("/")[2]
    try:
        archive = pooch.retrieve(release.url, f"md5:{release.md5}", fname=file_name, path=folder)
    except Exception as error:  # requests, urllib3 and pooch each have their own; the way out is the same
        raise DatasetError(
            f"{name}: cannot be fetched ({type(error).__name__}); put {file_name} (from {release.url}, md5 "
            f"{release.md5}) into {folder}, or name its folder in {CACHE_VARIABLE}"
        ) from error
    return _read(Path(archive), release, split[1] or part)


def _read(archive: Path, release: _Release, part: str) -> PublicImages:
    with tarfile.open(archive) as tar:

        def content(member: str) -> bytes:
            stream = tar.extractfile(member)
            assert stream is not None, member
            return stream.read()

        names = content(release.classes_file).decode().split()
        raw = b"".join(content(member) for member in release.files[part])
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, release.label_bytes + 3 * _SIDE * _SIDE)
    classes_of = [names[label] for label in records[:, release.label_bytes - 1]]
    members = [f"{label}/{row:05d}" for row, label in enumerate(classes_of)]
    pixels = records[:, release.label_bytes :].reshape(-1, 3, _SIDE, _SIDE)
    return PublicImages(members, classes_of, pixels, {member: row for row, member in enumerate(members)})
