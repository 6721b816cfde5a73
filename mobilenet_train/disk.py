"""Files that are never lost or half written: synced, replaced atomically, and a full disk is a clear message.

`regular` and `own` are openers for `open`: a named pipe or device must not hold a command up, and a folder that others
could write in must not lead to a file elsewhere.
"""

import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mobilenet_train.errors import RunError

ESCAPED = "backslashreplace"  # names of files and classes need not be text; so JSON reads them again as they were


def expanded(path: str | Path) -> Path:
    """The path with the home directory in the place of "~" or "~user". Raises RunError if it cannot be a path."""
    if str(path) == "" or "\0" in str(path):
        raise RunError(f"{str(path)!r} is not a path: it is empty or has a NUL character")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = str(path).partition("/")[0]
        raise RunError(f"{path}: {user} has no home directory here; give the whole path") from error


def regular(path: str, flags: int) -> int:
    """Opens a regular file, through links too. Raises OSError for anything else, and waits for nobody."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a regular file", path)


def own(path: str, flags: int) -> int:
    """Opens a file that we write ourselves, and that is therefore no link. Raises OSError for a link."""
    try:
        return regular(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed here: delete it", path) from None


def read_text(path: Path) -> str:
    """The file's text. Raises OSError, also for what is not a regular file, or ValueError if it is not UTF-8."""
    with open(path, encoding="utf-8", opener=regular) as file:
        return file.read()


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """The file's values. Raises RunError naming it if it cannot be read."""
    try:
        return json.loads(read_text(path))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"cannot read {path}: it is damaged ({error})") from error


def with_checksum(values: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
    """The values with a checksum of them and of `data`."""
    digest = hashlib.blake2b(json.dumps(values, sort_keys=True).encode() + data, digest_size=16)
    return {**values, "checksum": digest.hexdigest()}


def verified(values: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
    """The values without their checksum; an older version wrote none. Raises ValueError if they do not match it."""
    plain = {key: value for key, value in values.items() if key != "checksum"}
    if "checksum" in values and values["checksum"] != with_checksum(plain, data)["checksum"]:
        raise ValueError("its contents do not match their checksum")
    return plain


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into a RunError that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


class _Watched(io.FileIO):
    """A file that remembers the first write that failed."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            raise


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file for the block to write, on the disk afterwards.

    Raises OSError with the path if a write fails, whatever the block makes of that: torch says "unexpected pos 64".
    """
    raw = _Watched(path, "wb", opener=own)
    try:
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except Exception as error:
        if raw.error is None:
            raise
        raise OSError(raw.error.errno, raw.error.strerror, str(path)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder; what the block writes there becomes `path` atomically.

    Raises RunError, with the old file untouched, if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        temporary.unlink(missing_ok=True)  # perhaps a link to elsewhere
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces the whole file atomically. Raises RunError if it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=ESCAPED)


def append_text(path: Path, text: str, before: Callable[[], str]) -> None:
    """Adds to the file's end; if someone deleted the file, `before()` gives what was in it."""
    with writing(path):
        lost = not path.exists()
        with open(path, "a", encoding="utf-8", errors=ESCAPED, opener=own) as file:
            file.write(before() + text if lost else text)
