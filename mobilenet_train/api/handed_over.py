"""A network and a data set that are Python objects, as the factories of `model=custom` and `dataset=custom`."""

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mobilenet_train.factory import HANDED_OVER


@dataclass(frozen=True)
class HandedOver:
    """The words that choose them, and the functions that have no import path, by the path that stands for one."""

    words: tuple[str, ...]
    functions: Mapping[str, Callable[..., Any]]


def hand_over(**parts: Any) -> HandedOver:
    """Of `model` and `dataset`, each None, a function or class, or the object itself, of which copies are trained.

    A function that can be imported is named by its import path, so that the run can be resumed without this process.
    """
    words: list[str] = []
    functions: dict[str, Callable[..., Any]] = {}
    for group, part in parts.items():
        if part is None:
            continue
        path = _import_path(part)
        if path is None:
            path = f"{HANDED_OVER}:{group}"
            functions[path] = part if callable(part) and not isinstance(part, nn.Module) else _copies(part)
        words += [f"{group}=custom", f"{group}.factory={path}"]
    return HandedOver(tuple(words), functions)


def _import_path(part: Any) -> str | None:
    module, name = getattr(part, "__module__", None), getattr(part, "__name__", None)
    found = getattr(sys.modules.get(str(module)), str(name), None)
    return f"{module}:{name}" if found is part and module != "__main__" else None


def _copies(part: Any) -> Callable[..., Any]:
    """A function whatever it is called with; a network's weights are where training starts, and stay as they are."""
    return lambda **_: copy.deepcopy(part) if isinstance(part, nn.Module) else part
