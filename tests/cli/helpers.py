"""Runs the console script inside the test's own process: a child would spend seconds on imports alone."""

import sys

import pytest

from mobilenet_train.cli.train import main


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What `mnet-train ARGUMENTS` exits with; output is left to capsys. Other exceptions would be tracebacks."""
    monkeypatch.setattr(sys, "argv", ["mnet-train", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def one_line(text: str) -> str:
    """The only line of `text`, which must be a message for people."""
    assert "Traceback" not in text
    assert text.startswith("mnet-train: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1, f"more than one line:\n{text}"
    return text
