"""Files of tensors and plain values, read without running their code and within bounds that their own size sets.

A file may come from anyone. What torch.load(weights_only=True) allows can still ask for more memory or time than there
is: compressed members, one list named a million times, a tensor that repeats one number. So the zip's directory and the
pickle are looked through before torch builds anything, and what was built before anyone walks through it.
"""

import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mobilenet_train.disk import regular

NEEDED = re.compile(  # the names that tensors and plain values need; of torch's others some allocate what they are told
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (\w+Storage|Size|device|bool|(bfloat|float|int|uint|complex)\d+)"
)
NAMING = ("GLOBAL", "STACK_GLOBAL", "INST")
DEEPEST = 64  # levels of dicts, lists and tuples; a checkpoint has 6
SHARED = 16  # names that one tensor may have in a file
LONGEST_INTEGER = 1024  # bits
LEGACY_PICKLES = 4  # of torch's format before it was a zip: a number, its version, the machine and the contents
Weight = tuple[int, int]  # values that a tuple holds in all, and how deep they lie


def read(path: Path) -> Any:
    """What torch.save wrote, on the CPU.

    Raises pickle.UnpicklingError for what could run code, ValueError for what would grow beyond the file's size,
    OSError if it cannot be read, and whatever torch raises for a damaged file.
    """
    with open(path, "rb", opener=regular) as file:
        size = os.fstat(file.fileno()).st_size
        _check_pickles(file, size)
        file.seek(0)
        saved = torch.load(file, map_location="cpu", weights_only=True)
    _check_built(saved, size)
    return saved


def _check_pickles(file: IO[bytes], size: int) -> None:
    if not zipfile.is_zipfile(file):
        file.seek(0)
        for _ in range(LEGACY_PICKLES):
            _check_pickle(file, size)
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise ValueError("it is compressed, and unpacks to more than its own size")
        for member in members:
            if member.filename.lower().endswith("data.pkl"):
                with archive.open(member) as data:
                    _check_pickle(data, size)


def _check_pickle(data: IO[bytes], size: int) -> None:
    """Follows the pickle's stack as far as names and tuples go; Python walks through a tuple to use it as a key."""
    stack: list[Weight | None] = []  # None is a mark
    memo: dict[Any, Weight | None] = {}
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in NAMING and not NEEDED.fullmatch(str(argument)):
            raise pickle.UnpicklingError(f"it names {argument}")
        if opcode.name.endswith("PUT"):
            memo[argument] = stack[-1]
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif opcode.name.endswith("GET"):
            stack.append(memo[argument])
        elif opcode.name == "MARK":
            stack.append(None)
        else:
            parts = _take(stack, opcode)
            weight = 1 + sum(n for n, _ in parts), 1 + max((depth for _, depth in parts), default=0)
            held = weight if "TUPLE" in opcode.name else (1, 1)
            _check_size(*held, size)
            stack += [held] * len(opcode.stack_after)


def _take(stack: list[Weight | None], opcode: pickletools.OpcodeInfo) -> list[Weight]:
    """Takes what an operation consumes off the stack."""
    below = list(opcode.stack_before)
    parts: list[Weight] = []
    if pickletools.markobject in below:
        below = below[: below.index(pickletools.markobject)]
        while (part := stack.pop()) is not None:
            parts.append(part)
    for _ in below:
        part = stack.pop()
        parts.append(part or (1, 1))
    return parts


def _check_built(saved: Any, size: int) -> None:
    """Walks through what was built, counting shared parts as often as they are met."""
    values, tensor_bytes, waiting = 0, 0, [(saved, 1)]
    while waiting:
        node, depth = waiting.pop()
        values += 1
        _check_size(values, depth, size)
        if isinstance(node, Mapping):
            waiting += [(part, depth + 1) for entry in node.items() for part in entry]
        elif isinstance(node, list | tuple):
            waiting += [(part, depth + 1) for part in node]
        elif isinstance(node, Tensor):
            tensor_bytes += node.nbytes
        elif isinstance(node, int) and node.bit_length() > LONGEST_INTEGER:
            raise ValueError(f"it holds a number of {node.bit_length()} bits")
        if tensor_bytes > SHARED * size:
            raise ValueError(f"its {size:,} bytes stand for tensors of {tensor_bytes:,} bytes or more")


def _check_size(values: int, depth: int, size: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if values > size:
        raise ValueError(f"its {size:,} bytes stand for more than {size:,} values")
