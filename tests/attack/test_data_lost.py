"""Findings 1 to 6: nothing that someone has is lost or overwritten by starting or resuming a run."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from mobilenet_train import checkpoint
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs import session
from mobilenet_train.runs.restore import Recovery
from tests.children import Child, mnet_train
from tests.records import points, rows

RUN = "dataset=digits model=v1 model.width_mult=0.03 model.stride_plan=2 dataset.resolution=16 dataset.max_per_class=16"
WORDS = (*RUN.split(), "batch_size=32", "optim=sgd", "device.threads=1", "log_every=1", "epochs=2")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """`mnet-train ARGUMENTS` in an empty folder: its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, prepare: Callable[[], None] | None = None) -> tuple[int, str]:
        child = Child(tmp_path.with_suffix(".txt"), mnet_train(*arguments, prepare=prepare))
        return child.wait(), child.text()

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    child = Child(folder / "said.txt", mnet_train(f"run_dir={folder}/run", *WORDS))
    assert child.wait() == 0, child.text()
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- 1


@pytest.mark.parametrize(
    "files",
    [
        {"checkpoints/last.pt": b"mine", "checkpoints/best.pt": b"mine too"},
        {"overrides.yaml": b"- mine\n"},
        {"notes.txt": b"mine", "lock": b""},
        {"config.yaml": b"mine: 1\n"},
        {"checkpoints": b"a file of that name"},
    ],
    ids=["checkpoints", "overrides.yaml", "notes", "config.yaml", "a file called checkpoints"],
)
def test_a_run_dir_that_is_not_ours_is_refused_by_what_is_in_it_and_left_alone(
    files: dict[str, bytes], tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    for name, data in files.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(data)
    code, said = command("run_dir=mine", *WORDS)
    assert code in (1, 2)
    last = said.strip().splitlines()[-1]
    assert last.startswith("mnet-train: ")
    assert next(iter(files)).partition("/")[0] in last
    assert contents(tmp_path / "mine") == files


def die_before_config() -> None:
    run_folder.write_config = lambda *_: os._exit(9)  # type: ignore[assignment]


def die_after_config() -> None:
    write = run_folder.write_config

    def write_and_die(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        os._exit(9)

    run_folder.write_config = write_and_die  # type: ignore[assignment]


@pytest.mark.parametrize("prepare", [die_before_config, die_after_config])
def test_a_start_that_was_killed_leaves_a_folder_that_the_same_command_uses(
    prepare: Callable[[], None], tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    assert command("run_dir=r", *WORDS, "max_updates=1", prepare=prepare)[0] == 9
    assert not (tmp_path / "r/overrides.yaml").exists()
    code, said = command("run_dir=r", *WORDS, "max_updates=1")
    assert code == 0, said
    assert len(rows(tmp_path / "r")) == 1


# --- 2


def without(run: Path, *names: str) -> dict[str, bytes]:
    for name in names:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    return contents(run)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["checkpoints/last.pt", "checkpoints/previous.pt"], "resume_from=best"),
        (["checkpoints"], "metrics.csv"),
        (["checkpoints/last.pt", "checkpoints/previous.pt", "checkpoints/best.pt"], "metrics.csv"),
    ],
    ids=["best.pt left", "no checkpoints", "no files"],
)
def test_a_resume_never_begins_at_the_start_where_a_result_exists(
    lost: list[str], said: str, run: Path, command: Callable[..., tuple[int, str]]
) -> None:
    before = without(run, *lost)
    code, printed = command(f"resume={run}")
    assert code == 1
    assert said in printed
    assert "train epoch" not in printed
    assert {name: data for name, data in contents(run).items() if name != "lock"} == {
        name: data for name, data in before.items() if name != "lock"
    }


def test_resume_from_best_trains_what_came_after_it_again(run: Path, command: Callable[..., tuple[int, str]]) -> None:
    whole = rows(run)
    best = checkpoint.load(run / "checkpoints/best.pt")["progress"]["epoch"]
    (run / "checkpoints/last.pt").unlink()
    (run / "checkpoints/previous.pt").unlink(missing_ok=True)
    code, said = command(f"resume={run}", "resume_from=best")
    assert code == 0, said
    assert f"at epoch {best}" in said
    assert rows(run) == whole
    assert yaml.safe_load((run / "config.yaml").read_text())["resume_from"] == "last"


def test_a_run_without_results_makes_its_checkpoints_folder_again(
    run: Path, command: Callable[..., tuple[int, str]]
) -> None:
    without(run, "checkpoints", "metrics.csv")
    code, said = command(f"resume={run}")
    assert code == 0, said
    assert (run / "checkpoints/last.pt").exists()


# --- 3


def small(step: int) -> dict[str, object]:
    return {"model": {"w": torch.full((4,), float(step))}, "progress": {"step": step}}


@pytest.mark.parametrize("kill_at", ["replace last", "replace previous", None])
def test_a_save_never_removes_the_newest_file_that_verifies(
    kill_at: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, small(step), best=False)
    (tmp_path / "last.pt").write_bytes(b"torn")
    assert checkpoint.load_latest(tmp_path)[0]["progress"]["step"] == 1
    replace = Path.replace

    def until_killed(self: Path, target: Path) -> Path:
        if kill_at == f"replace {target.stem}":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", until_killed)
    with suppress(KeyboardInterrupt):
        checkpoint.save(tmp_path, small(3), best=False)
    assert checkpoint.load_latest(tmp_path)[0]["progress"]["step"] == (1 if kill_at == "replace last" else 3)


def test_a_run_that_went_on_from_previous_keeps_it(run: Path, command: Callable[..., tuple[int, str]]) -> None:
    shutil.copy(run / "checkpoints/last.pt", run / "checkpoints/previous.pt")
    (run / "checkpoints/last.pt").write_bytes(b"torn")
    code, said = command(f"resume={run}", "resume_schedule=restart", "epochs=3")
    assert code == 0, said
    assert checkpoint.load(run / "checkpoints/previous.pt")["progress"]["epoch"] == 2
    assert checkpoint.load(run / "checkpoints/last.pt")["progress"]["epoch"] == 3
    assert (run / "checkpoints/damaged_last.pt").read_bytes() == b"torn"


# --- 4


def test_recovery_goes_further_back_on_a_repeated_failure_and_says_when_nothing_is_left(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for step, best in ((1, True), (2, False), (3, False)):
        checkpoint.save(checkpoints, small(step), best=best)
    recovery = Recovery(tmp_path, "mnet-train resume=run")
    assert "last.pt (update 3) is finite" in recovery.advice()
    steps = [recovery.choose()["progress"]["step"]]
    assert "previous.pt (update 2) is finite" in recovery.advice()
    steps += [recovery.choose()["progress"]["step"] for _ in range(3)]
    assert steps == [3, 2, 1, 1]
    assert recovery.advice().startswith("Training from every checkpoint that is left led to this again")
    (checkpoints / "last.pt").write_bytes(b"torn")
    assert Recovery(tmp_path, "mnet-train resume=run").choose()["progress"]["step"] == 2


# --- 5


def delete_events(run: Path) -> None:
    for path in run.glob("events.*"):
        path.unlink()


def delete_events_after_the_first_epoch() -> None:
    save = session.save

    def save_and_delete(parts: object, folder: Path) -> None:
        save(parts, folder)  # type: ignore[arg-type]
        if parts.state.epoch == 1 and parts.state.batch == 0:  # type: ignore[attr-defined]
            delete_events(folder)

    session.save = save_and_delete


def test_events_deleted_under_a_run_are_written_again(
    trained: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    code, said = command("run_dir=r", *WORDS, prepare=delete_events_after_the_first_epoch)
    assert code == 0, said
    epochs = {tag: values for tag, values in points(trained).items() if tag.startswith("test/")}
    assert {tag: values for tag, values in points(tmp_path / "r").items() if tag in epochs} == epochs


def test_events_deleted_between_two_sessions_are_written_again(
    trained: Path, run: Path, command: Callable[..., tuple[int, str]]
) -> None:
    delete_events(run)
    code, said = command(f"resume={run}", "epochs=3", "resume_schedule=restart")
    assert code == 0, said
    for tag, values in points(trained).items():
        if tag.startswith("test/"):
            assert points(run)[tag][:2] == values


# --- 6


@pytest.mark.parametrize(("key", "value"), [("model.width_mult", 0.05), ("epochs", 7), ("optim.lr", 0.3), ("seed", 4)])
def test_a_config_that_was_edited_by_hand_is_refused_by_the_key_and_both_values(
    key: str, value: float, run: Path, command: Callable[..., tuple[int, str]]
) -> None:
    edit(run, key, value)
    (run / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    code, said = command(f"resume={run}")
    assert code == 1
    last = said.strip().splitlines()[-1]
    assert f"{key}={value}" in last
    assert "the run was trained with" in last


def edit(run: Path, key: str, value: object) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    *parents, leaf = key.split(".")
    part = values
    for parent in parents:
        part = part[parent]
    part[leaf] = value
    (run / "config.yaml").write_text(yaml.safe_dump(values))


def test_a_free_key_may_be_edited_and_a_length_that_a_resume_recorded_is_no_difference(
    run: Path, command: Callable[..., tuple[int, str]]
) -> None:
    edit(run, "log_every", 3)
    assert command(f"resume={run}", "epochs=3", "resume_schedule=restart", prepare=die_after_config)[0] == 9
    code, said = command(f"resume={run}")
    assert code == 0, said
    assert len(rows(run)) == 3
