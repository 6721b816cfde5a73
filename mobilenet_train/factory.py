"""Finds the user's own function from `package.module:function`, or one that was handed over in Python."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mobilenet_train.errors import ConfigError, RunError

HANDED_OVER = "python"  # in the place of a module's name: an object that only Python itself could hand over
Functions = Mapping[str, Callable[..., Any]]  # by path
_FUNCTIONS: ContextVar[Functions] = ContextVar("functions", default=MappingProxyType({}))


@contextmanager
def handed_over(functions: Functions) -> Iterator[None]:
    """Within, `load_factory` finds these functions under these paths."""
    token = _FUNCTIONS.set(functions)
    try:
        yield
    finally:
        _FUNCTIONS.reset(token)


def load_factory(key: str, path: str) -> Callable[..., Any]:
    """The function that `path` names; modules are looked for as Python does, and last in the current folder.

    Raises ConfigError naming `key` if the module or the function does not exist.
    """
    if path in _FUNCTIONS.get():
        return _FUNCTIONS.get()[path]
    module_name, _, function_name = path.partition(":")
    if module_name == HANDED_OVER:
        raise ConfigError(f"{key}={path} was handed over in Python and has no import path: hand it over again there")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: a random.py there must not be taken for Python's own
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is read
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{key}={path}: module {module_name!r} cannot be imported: {reason}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = ", ".join(name for name, value in vars(module).items() if callable(value) and name[0] != "_")
        place = getattr(module, "__file__", None) or module_name
        raise ConfigError(f"{key}={path}: {place} has no function {function_name!r}; it has: {names or 'none'}")
    return function


def call_factory(key: str, path: str, /, **arguments: Any) -> Any:
    """What the function that `path` names returns. Raises RunError with its own error in one line."""
    function = load_factory(key, path)
    try:
        return function(**arguments)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"{key}={path} failed with {reason} (HYDRA_FULL_ERROR=1 shows where)") from error
