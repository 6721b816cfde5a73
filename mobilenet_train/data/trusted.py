"""Whether a folder of prepared images is to be trusted: who could have put something into it."""

import os
import stat
from pathlib import Path

from mobilenet_train.errors import RunError


def check_folder(folder: Path) -> None:
    """Raises RunError if a user whom this one has no reason to trust could put images into a cache folder.

    Root, and a group that shares a cache, are trusted. Root itself may use any folder.
    """
    state = folder.stat()
    if os.getuid() == 0:
        return
    if state.st_mode & stat.S_IWOTH and not state.st_mode & stat.S_ISVTX:
        raise RunError(
            f"dataset.cache_dir: anyone can write in {folder}, and so put other images there: chmod o-w {folder}, or "
            "choose another folder"
        )
    if state.st_uid not in (os.getuid(), 0):
        raise RunError(f"dataset.cache_dir: {folder} belongs to another user; choose a folder of your own, or of root")


def check_found(home: Path) -> None:
    """Raises RunError if a cache was perhaps planted: where anyone may add folders, one has to be trusted itself."""
    state = home.lstat()
    if stat.S_ISLNK(state.st_mode):
        raise RunError(f"dataset.cache_dir: {home} is a symbolic link, which is not followed here: delete it")
    if state.st_mode & stat.S_IWOTH or home.parent.stat().st_mode & stat.S_IWOTH:
        check_folder(home)
