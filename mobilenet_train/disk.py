"""Files that are never lost or half written: synced, replaced atomically, and a full disk is a clear message."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilenet_train.errors import RunError


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into a RunError that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder; what the block writes there becomes `path` atomically.

    Raises RunError, with the old file untouched, if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces the whole file atomically. Raises RunError if it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str, before: Callable[[], str]) -> None:
    """Adds to the file's end; if someone deleted the file, `before()` gives what was in it."""
    with writing(path):
        lost = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            file.write(before() + text if lost else text)
