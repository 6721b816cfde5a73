"""The commands inside the tests, and a finished run of their own."""

from tests.exported_once import exported_once
from tests.tools import run, tool

__all__ = ["exported_once", "run", "tool"]
