"""Checkpoints that are never half-written, and that are refused when they are damaged."""

import hashlib
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilenet_train import tensor_files
from mobilenet_train.disk import new_file, sync
from mobilenet_train.errors import RunError

FORMAT = 1
LONGEST_REASON = 200  # characters of torch's own message


class DamagedCheckpointError(RunError):
    """A file that is torn, changed, or not a checkpoint of ours."""


def save(folder: Path, contents: Mapping[str, Any], best: bool) -> None:
    """Writes `folder`/last.pt; the one before it becomes previous.pt, and best.pt follows if `best`.

    The new file is complete on disk before it becomes last.pt, and is last.pt before the one before it takes the place
    of previous.pt, whether that one is still whole or not: the newest file that verifies is never removed.
    Raises RunError if the disk is full or the folder cannot be written; the old files then stay.
    """
    temporary = folder / "last.pt.tmp"
    payload = {"format": FORMAT, **contents}
    try:
        with new_file(temporary) as file:
            torch.save({**payload, "digest": digest(payload)}, file)
        last, before = folder / "last.pt", folder / "previous.pt.new"
        if last.exists():
            _link(last, before)
        if best:
            _link(temporary, folder / "best.pt")
        temporary.replace(last)
        if before.exists():
            before.replace(folder / "previous.pt")
        sync(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"the checkpoint could not be written to {folder} ({error.strerror or error}): free some space or choose "
            "another folder; the checkpoint before it is untouched"
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, without running any code from it.

    Raises DamagedCheckpointError if the file is torn, altered or not a checkpoint, RunError if its format is newer.
    """
    try:
        saved = tensor_files.read(path)
        found = digest({key: value for key, value in saved.items() if key != "digest"}) if _is_ours(saved) else None
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        reason = "is damaged, or holds more than tensors and plain values, which is refused since it could run code"
        raise DamagedCheckpointError(f"{path} {reason}") from error
    except Exception as error:
        raise DamagedCheckpointError(f"{path} is damaged or not a checkpoint: {_first_line(error)}") from error
    if not _is_ours(saved):
        raise DamagedCheckpointError(f"{path} is not a checkpoint of mnet-train")
    if saved["format"] != FORMAT:
        raise RunError(f"{path} has checkpoint format {saved['format']}; this version reads format {FORMAT}")
    if saved.pop("digest", None) != found:
        raise DamagedCheckpointError(f"{path} is damaged: its contents do not match their checksum")
    return saved


def find_latest(folder: Path) -> tuple[dict[str, Any], str | None] | None:
    """What `load_latest` returns, or None if no checkpoint was written yet."""
    return load_latest(folder) if written(folder) else None


def written(folder: Path) -> bool:
    """True once there is a checkpoint, whole or not."""
    return any((folder / name).exists() for name in ("last.pt", "previous.pt"))


def set_aside(path: Path) -> None:
    """Takes a damaged file out of the way of the next save, which would put it in the place of a whole one."""
    if path.exists():
        path.replace(path.with_name(f"damaged_{path.name}"))


def load_latest(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The newest whole checkpoint, and a warning if that is not last.pt.

    Raises RunError if neither last.pt nor previous.pt can be used.
    """
    try:
        return load(folder / "last.pt"), None
    except DamagedCheckpointError as error:
        first = error
    try:
        return load(folder / "previous.pt"), f"{first}; resuming from {folder / 'previous.pt'}"
    except DamagedCheckpointError as second:
        raise RunError(f"no usable checkpoint: {first}; {second}") from second


def digest(tree: Any) -> str:
    """A checksum over keys, types, shapes and bytes of nested dicts, lists, tensors and plain values."""
    state = hashlib.blake2b(digest_size=16)
    _add(state, tree)
    return state.hexdigest()


def _is_ours(saved: Any) -> bool:
    return isinstance(saved, dict) and isinstance(saved.get("format"), int)


def _add(state: Any, node: Any) -> None:
    if isinstance(node, Mapping):
        state.update(f"dict {len(node)}".encode())
        for key, value in node.items():
            _add(state, key)
            _add(state, value)
    elif isinstance(node, list | tuple):
        state.update(f"list {len(node)}".encode())
        for value in node:
            _add(state, value)
    elif isinstance(node, Tensor):
        state.update(f"tensor {node.dtype} {tuple(node.shape)}".encode())
        state.update(node.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    else:
        state.update(repr(node).encode())


def _link(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, replacing what was there atomically."""
    temporary = target.with_suffix(".pt.new")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        shutil.copy2(source, temporary)
    temporary.replace(target)


def _first_line(error: Exception) -> str:
    """Short, since two of them stand in one message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:60]
