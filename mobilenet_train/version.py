"""The version of this package, as it stands in pyproject.toml."""

VERSION = "0.2.0"
