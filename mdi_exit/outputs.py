"""Where commands leave their results: what cannot be written to is told of before any long work, and in one line."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mdi_exit.errors import UserError


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


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # it lies in a file, or nobody may look
        return False
