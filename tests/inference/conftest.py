"""The commands inside the tests, and a finished run of their own."""

from tests.tools import run, tool

__all__ = ["run", "tool"]
