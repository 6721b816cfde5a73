"""Fixtures shared with other folders."""

from tests.tools import tool

__all__ = ["tool"]
