"""The command in a child process that starts at once and can be killed often."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.children import Child, mnet_train


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Child]:
    """Starts the command in an empty folder. `prepare` runs in the child first."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments: str, **options: Any) -> Child:
        return Child(tmp_path / "output", mnet_train(*arguments, **options))

    return start
