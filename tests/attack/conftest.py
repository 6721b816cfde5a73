"""What the tests of attacks share: a small run, and the command in a folder of its own."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attack.flips import TINY
from tests.children import Child, mnet_train


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny network; not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    child = Child(folder / "output", mnet_train(*TINY, f"run_dir={folder}/run"), folder)
    assert child.wait() == 0, child.text()
    return folder / "run"


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Child]]:
    """Starts `mnet-train ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    started: list[Child] = []

    def command(*arguments: str, prepare: Callable[[], None] | None = None) -> Child:
        started.append(Child(tmp_path / f"output{len(started)}", mnet_train(*arguments, prepare=prepare)))
        return started[-1]

    yield command
    for child in started:
        child.kill()
        child.wait()


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is empty, and there is no data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNET_DATA", "/nowhere")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
