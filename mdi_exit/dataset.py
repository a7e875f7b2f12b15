"""Labelled images: one folder per class, as a folder or a zip, or a public set by name.

Torch-free, because workers and the source of a run import it. Zips are read in place and never extracted, images are
decoded one at a time when asked for, and one bad image is an `UnreadableImage` that names it, so that a run can count
it as failed and go on.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mdi_exit import public_sets
from mdi_exit.public_sets import DatasetError as DatasetError  # also this module's own error

SAMPLE = "sample"  # the name of the bundled 1,000 images
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm")
# Only these decoders run, whatever a file claims to be: some of the others start programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM")
# A photograph is a few MB. What claims to be more is refused unread: a zip's member can inflate a thousandfold.
MEMBER_BYTES_MAX = 64 * 2**20
# Reading every header of 50,000 members takes longer than decoding what a run needs; the rest is checked on access.
HEADERS_CHECKED_MAX = 1000
_LYING = (5, 6, 7, 8)  # EXIF orientations in which height and width change places
# What a decoder can trip over in damaged bytes. Some derive from Exception alone (zlib.error, struct.error), and some
# look like mistakes of a program (IndexError, TypeError): they come of tables and headers that contradict themselves.
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    UnidentifiedImageError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    Image.DecompressionBombError,
    NotImplementedError,
    RuntimeError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
)


class UnreadableImage(DatasetError):
    """One image cannot be decoded or has the wrong size; the others may be fine."""


class Images(Protocol):
    """Where an `ImageDataset` gets its pixels: files in a folder, members of a zip, or an array."""

    def size(self, name: str) -> tuple[int, int]:
        """Height and width, from the header where there is one."""

    def pixels(self, name: str) -> Image.Image:
        """The decoded image; raises OSError or ValueError when it cannot be read."""


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        found = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        self.members = sorted(path.relative_to(root).as_posix() for path in found)

    def size(self, name: str) -> tuple[int, int]:
        with Image.open(self.root / name, formats=FORMATS) as image:
            return _size(image)

    def pixels(self, name: str) -> Image.Image:
        with Image.open(self.root / name, formats=FORMATS) as image:
            return _rgb(image)


class _Zip:
    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except _DECODING_ERRORS as error:
            raise DatasetError(f"{path}: not a readable zip file ({error})") from error
        infos = {info.filename: info for info in self.archive.infolist() if not info.is_dir()}
        self.infos = {name: info for name, info in infos.items() if name.lower().endswith(SUFFIXES)}
        self.members = sorted(self.infos)

    def _open(self, name: str) -> Image.Image:
        info = self.infos[name]
        if info.file_size > MEMBER_BYTES_MAX:
            raise ValueError(f"{info.file_size} bytes, the most allowed is {MEMBER_BYTES_MAX}")
        return Image.open(io.BytesIO(self.archive.read(info)), formats=FORMATS)

    def size(self, name: str) -> tuple[int, int]:
        with self._open(name) as image:
            return _size(image)

    def pixels(self, name: str) -> Image.Image:
        with self._open(name) as image:
            return _rgb(image)


def _size(image: Image.Image) -> tuple[int, int]:
    """Height and width of the picture the right way up; cameras store it as they were held."""
    turned = image.getexif().get(ExifTags.Base.Orientation) in _LYING
    return (image.width, image.height) if turned else (image.height, image.width)


def _rgb(image: Image.Image) -> Image.Image:
    """The picture the right way up, 8 bits per channel; raises ValueError where what is white is not known."""
    upright: Image.Image = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):  # Pillow would clip to 255 and make nearly all of it white
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {upright.mode} have no known white; allowed are 8 or 16 bits per channel")
    converted: Image.Image = upright.convert("RGB")
    return converted


def _visible(member: str) -> bool:
    """Leave out what archivers and desktops add: __MACOSX, .DS_Store, dot files."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(member).parts)


def _class_of(members: Sequence[str], origin: str) -> list[str]:
    """The folder that names each member's class; one folder around everything is allowed."""
    parts = [PurePosixPath(member).parts for member in members]
    if all(len(p) > 2 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    if loose := [m for m, p in zip(members, parts, strict=True) if len(p) < 2]:
        raise DatasetError(
            f"{origin}: {loose[0]} lies in no class folder; images belong in one sub-folder per class, "
            "such as cat/001.jpg"
        )
    return [p[0] for p in parts]


@dataclass(frozen=True, slots=True, eq=False)
class ImageDataset:
    """N labelled images of one size; `open` makes one."""

    origin: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    height: int
    width: int
    resized: bool
    _images: Images

    @classmethod
    def open(
        cls, source: str | Path, image_size: int | None = None, part: str = "test", cache: Path | None = None
    ) -> ImageDataset:
        """Open "sample", a folder, a zip or a public set's name, without decoding anything yet.

        `image_size` crops each image to a centred square and resizes it; without it all images must have one size.
        `part` ("train" or "test") and `cache` (where downloads are kept) only concern public sets.
        Raises DatasetError in one line that names the file and what is allowed.
        """
        if str(source) == SAMPLE:
            source = Path(str(resources.files("mdi_exit") / "assets" / "cifar10-sample.zip"))
        elif public_sets.known(str(source)) and not Path(source).exists():
            public = public_sets.fetch(str(source), part, cache)
            return cls._of(str(source), public, public.members, public.classes_of, image_size)
        path = Path(source)
        if not path.exists():
            raise DatasetError(
                f"{path}: no such data set; allowed are a folder with one sub-folder per class, a zip of such a "
                f"folder, {SAMPLE!r} (bundled), or one of {', '.join(public_sets.NAMES)}"
            )
        images = _Folder(path) if path.is_dir() else _Zip(path)
        members = [member for member in images.members if _visible(member)]
        if not members:
            raise DatasetError(f"{path}: no images in it; allowed are files ending in {', '.join(SUFFIXES)}")
        return cls._of(str(path), images, members, _class_of(members, str(path)), image_size)

    @classmethod
    def _of(
        cls,
        origin: str,
        images: Images,
        members: Sequence[str],
        class_of: Sequence[str],
        image_size: int | None,
    ) -> ImageDataset:
        classes = tuple(sorted(set(class_of)))
        number = {name: index for index, name in enumerate(classes)}
        labels = np.array([number[name] for name in class_of], dtype=np.int64)
        if image_size is None:
            height, width = _common_size(origin, images, members)
        else:
            height = width = image_size
        return cls(origin, classes, tuple(members), labels, height, width, image_size is not None, images)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode image `index` to uint8 (3, H, W), RGB, contiguous; raises UnreadableImage."""
        name = self.names[index]
        try:
            picture = self._images.pixels(name)
        except _DECODING_ERRORS as error:
            raise UnreadableImage(f"{self.origin}: {name} cannot be decoded ({error})") from error
        if self.resized and picture.size != (self.width, self.height):
            picture = ImageOps.fit(picture, (self.width, self.height), Image.Resampling.BILINEAR)
        if picture.size != (self.width, self.height):
            raise UnreadableImage(
                f"{self.origin}: {name} is {picture.height}x{picture.width}, "
                f"the other images are {self.height}x{self.width}"
            )
        return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))

    def arrays(self, progress: Callable[[int], None] | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Decode everything to (uint8 (N, 3, H, W), labels); `progress` is told how many are done."""
        pixels = np.empty((len(self), 3, self.height, self.width), dtype=np.uint8)
        for index in range(len(self)):
            pixels[index] = self.image(index)
            if progress is not None:
                progress(index + 1)
        return pixels, self.labels.copy()


def _common_size(origin: str, images: Images, members: Sequence[str]) -> tuple[int, int]:
    """The size that a spread sample of the images shares; unreadable ones are left to `image`."""
    first: tuple[str, tuple[int, int]] | None = None
    for member in members[:: max(1, len(members) // HEADERS_CHECKED_MAX)]:
        try:
            size = images.size(member)
        except _DECODING_ERRORS:
            continue
        if first is None:
            first = (member, size)
        elif size != first[1]:
            raise DatasetError(
                f"{origin}: images of different sizes ({first[0]} is {first[1][0]}x{first[1][1]}, {member} is "
                f"{size[0]}x{size[1]}); allowed: one size for all, or resize: true (image_size in Python)"
            )
    if first is None:
        raise DatasetError(f"{origin}: none of the images looked at can be read; allowed are {', '.join(SUFFIXES)}")
    return first[1]
