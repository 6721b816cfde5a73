"""What a folder of prepared images holds, and the removal of what is not needed any more. Imports no torch.

Only what bears a cache's own name and holds nothing but a cache's own files is ours to remove.
"""

import fcntl
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenet_train.data.trusted import check_found
from mobilenet_train.disk import own, read_text
from mobilenet_train.errors import RunError

NAME = re.compile(r"[0-9a-f]{32}(\.partial|\.shard\.npz|\.bad\.txt)?")
KINDS = {None: "images", ".partial": "unfinished", ".shard.npz": "index of a shard", ".bad.txt": "list of bad images"}
INDEX, JOURNAL, IMAGES = "index.json", "journal", "pictures.u8"
FILES = (INDEX, ".index.json.tmp", JOURNAL, "digests.u8", IMAGES)  # a cache's, in the order in which they are removed


@dataclass(frozen=True)
class Kept:
    """Something that runs keep in `dataset.cache_dir`: prepared images, or a file beside them."""

    name: str  # a digest, and an ending for all but whole caches
    kind: str
    bytes: int  # on the disk
    images: int | None  # None where it does not say, as in the next line
    root: str | None  # the folder that the images come from; 0.1.0 did not write it down
    made: float  # seconds since 1970
    last_used: float
    in_use: bool

    @property
    def short_name(self) -> str:
        """For people, and as `find_kept` takes it: the digest begins like no other."""
        digest, dot, ending = self.name.partition(".")
        return f"{digest[:8]}{dot}{ending}"


def kept_in(folder: Path) -> list[Kept]:
    """All that runs keep in `folder`, the largest first; nothing if there is no such folder.

    Raises RunError if it cannot be read.
    """
    try:
        paths = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and not path.is_symlink()]
        return sorted(map(_described, paths), key=lambda kept: (-kept.bytes, kept.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{error.filename} cannot be read: {error.strerror}") from error


def _described(path: Path) -> Kept:
    match = NAME.fullmatch(path.name)
    assert match is not None
    states = [file.lstat() for file in (path.iterdir() if path.is_dir() else [path])]
    made = max((state.st_mtime for state in states), default=0.0)
    count, root = (_about(path).get(key) for key in ("count", "root"))
    return Kept(
        name=path.name,
        kind=KINDS[match[1]] if match[1] or (path / IMAGES).exists() else "digests",
        bytes=sum(512 * state.st_blocks for state in states),
        images=count if isinstance(count, int) else None,
        root=root if isinstance(root, str) else None,
        made=made,
        last_used=max(made, path.lstat().st_mtime),
        in_use=_in_use(path),
    )


def _about(path: Path) -> dict[str, Any]:
    """What the index says, or the first line of the journal while there is none."""
    for name in (INDEX, JOURNAL):
        with suppress(OSError, ValueError, RecursionError):
            text = read_text(path / name)
            values = json.loads(text if name == INDEX else text.partition("\n")[0])
            return values if isinstance(values, dict) else {}
    return {}


def _in_use(path: Path) -> bool:
    try:
        with _unused(path):
            return False
    except BlockingIOError:
        return True
    except OSError:  # it cannot be opened for writing, so not be removed either
        return False


@contextmanager
def _unused(path: Path) -> Iterator[None]:
    """Keeps other processes from a cache. Raises BlockingIOError if one prepares it or has its images open."""
    with ExitStack() as held:
        for lock in (path.with_suffix(".lock"), path / IMAGES) if path.is_dir() else ():
            with suppress(FileNotFoundError):
                fcntl.flock(held.enter_context(open(lock, "r+b", opener=own)), fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def find_kept(folder: Path, names: Sequence[str]) -> list[Path]:
    """What names stand for, whose digests may be cut short.

    Raises RunError for one that stands for nothing or for several things, and for what is not a cache of ours.
    """
    there = sorted(path for path in folder.iterdir() if path.suffix != ".lock") if folder.is_dir() else []
    return [_checked(_only(folder, name, there)) for name in names]


def _only(folder: Path, name: str, there: Sequence[Path]) -> Path:
    begin, _, ending = name.partition(".")
    found = [path for path in there if path.name.startswith(begin) and path.name.partition(".")[2] == ending]
    if len(found) != 1:
        raise RunError(f"{len(found)} things in {folder} are called {name}: mnet-cache lists them, --json in full")
    return found[0]


def _checked(path: Path) -> Path:
    if not NAME.fullmatch(path.name):
        raise RunError(f"{path} is not a cache of mnet-train: nothing is removed")
    check_found(path)
    foreign = sorted(file.name for file in path.iterdir() if file.name not in FILES) if path.is_dir() else []
    if foreign:
        raise RunError(f"{path} holds {foreign[0]}, which does not belong to a cache: nothing is removed")
    return path


def remove(path: Path) -> None:
    """Removes what `find_kept` found. A kill leaves it whole or, as a preparation that is killed does, unfinished.

    Raises RunError if a process prepares it or has its images open, or if it cannot be removed.
    """
    try:
        if not path.is_dir():
            path.unlink()
            return
        open(path.with_suffix(".lock"), "ab", opener=own).close()  # a preparation would begin with it
        with _unused(path):
            unfinished = path.rename(path.with_suffix(".partial"))
            for name in FILES:
                (unfinished / name).unlink(missing_ok=True)
            unfinished.rmdir()
    except BlockingIOError as error:
        raise RunError(f"{path} is in use by a running process: it is not removed") from error
    except OSError as error:
        raise RunError(f"{path} cannot be removed: {error.strerror} ({error.filename})") from error
