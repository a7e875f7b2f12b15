"""Where commands leave their results: what cannot be written to is told of before any long work, and in one line."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mdi_exit.errors import UserError

_NUMBERED_MAX = 1000  # results of so many runs of one name that nobody has cleared up


def check_folder(path: Path) -> None:
    """Find out whether files can be created in the folder of `--out`, which need not be there yet.

    By doing it, because permissions do not tell (a read-only or a virtual file system, another user's folder); nothing
    of it stays. Raises UserError.
    """
    missing = [folder for folder in (path, *path.parents) if not _there(folder)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".mdi-exit-"):
            pass
    except OSError as error:
        allowed = "a folder, new or old, that can be written to"
        raise UserError(f"--out {path}: cannot be written to ({error.strerror}); allowed: {allowed}") from error
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[Path]:
    """Make the folder, or else PATH-2, PATH-3, ...: the first not there yet; it goes again if nothing is left in it.

    For a folder that nobody named, so that older results are not lost by it, nor those of a run that has just begun:
    also an empty folder may be another's. Raises UserError.
    """
    missing = [folder for folder in path.parents if not _there(folder)]
    try:
        found = _claim(path)
    except OSError as error:
        allowed = "another folder, by --out"
        raise UserError(f"{path}: cannot be written to ({error.strerror}); allowed: {allowed}") from error
    try:
        yield found
    finally:
        for folder in (found, *missing):
            with contextlib.suppress(OSError):
                folder.rmdir()


def check_file(path: Path) -> None:
    """The same for a file of `--out`, new or to be replaced. A device is no file: it would be replaced by one."""
    if _there(path) and not path.is_file():
        raise UserError(f"--out {path}: is no file; allowed: a file, new or to be replaced")
    check_folder(path.parent)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn a write that fails within (a full disk) into a UserError; of `place` where the system names no file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or place}: cannot be written ({error.strerror or error})") from error


def _claim(path: Path) -> Path:
    """Making it decides who has it: no look at what is there could."""
    for number in range(1, _NUMBERED_MAX + 1):
        found = path if number == 1 else path.with_name(f"{path.name}-{number}")
        found.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(
            FileExistsError, FileNotFoundError
        ):  # who made the parent may have taken it away again
            found.mkdir()
            return found
    raise UserError(f"{path}: it and {_NUMBERED_MAX - 1} numbered ones are there; allowed: fewer, or a folder by --out")


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # it lies in a file, or nobody may look
        return False
