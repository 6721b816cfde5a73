"""Findings 20 and 24: a wrong command line is one clear line that says what to type, and leaves nothing behind."""

from pathlib import Path

import pytest

from tests.attack.fuzz import as_process, fuzz, in_process

pytestmark = pytest.mark.usefixtures("empty_folder")


LINES = {
    "run_dir=runs/lr=0.1": "\"run_dir='runs/lr=0.1'\"",
    "resume=/d/best(1).pt": "\"resume='/d/best(1).pt'\"",
    "dataset.root=~/data": "\"dataset.root='~/data'\"",
    "dataset.classes=[a,b": "dataset.classes=[a,b cannot be read: a bracket",
    "model=v2,": "model=v2, ends with a comma",
    "epochs=3)": "epochs=3) is not allowed: null (with a budget) or a whole number",
    "run_dir='~nobody-at-all/x'": "there is no user 'nobody-at-all'",
    "epochs:3": "epochs=3",
    "augment.resized_crop=${seed}": "augment.resized_crop=0 is not allowed",
    "ema=${seed}": "ema=0 is not allowed",
    "ema=${eval}": "ema=EvalConfig",
    "model=custom model.factory=a:b model.args=${seed}": "model.args=0 is not allowed",
    "--epochs 3": "epochs=3",
    "--resume X": "resume=X",
    "--dry-run": "dry_run=VALUE",
    "--cfg jobs": "--cfg jobs is not allowed: one of job",
    "--experimental-rerun x": "--experimental-rerun is not an option",
    "dataset=/photos/x": "dataset=folder dataset.root=/photos/x",
    "device=gpu": "did you mean 'cuda'?",
    "model=3": "model=3 is not allowed",
    "model=null": "model=null is not allowed",
    "=3": "=3 has no key",
    "resume=???": "resume=??? is not allowed",
    "optim={lr:???}": "optim.lr=??? is not allowed",
    f"epochs={'9' * 5000}": "epochs=999",
    "model=v2 -cd nowhere": "-cd nowhere is not a folder",
    "-m optim.schedule.final=interval(0,1)": "optim.schedule.final=interval(0,1) is not allowed: a grid takes",
    "model=v2 -m model.width_mult=0.25,x": "job 2 of 2 (model.width_mult=x)",
    "-m epochs=1,2 hydra/sweeper=basic": "hydra/sweeper=basic is not allowed",
    "-m epochs=1,2 hydra/launcher=basic": "hydra/launcher=basic is not allowed",
    "hydra.run.dir=x": "hydra.run.dir cannot be set",
    "hydra.output_subdir=x": "hydra.output_subdir cannot be set",
    "hydra={run:{dir:x}}": "hydra cannot be set",
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:40])
def test_a_wrong_command_line_says_what_to_type_and_leaves_nothing(line: str, tmp_path: Path) -> None:
    outcome = in_process(tuple(line.split()), tmp_path)
    assert outcome.code == 2
    assert outcome.faults() == []
    assert outcome.left == ()
    assert LINES[line] in outcome.errors


def test_a_run_folder_alone_says_resume(tmp_path: Path) -> None:
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN/config.yaml").touch()
    assert f"resume={tmp_path}/RUN continues it" in in_process((f"{tmp_path}/RUN",), tmp_path).errors


def test_m_is_found_anywhere_in_the_line(tmp_path: Path) -> None:
    assert in_process(("model=v2", "-m", "model.width_mult=0.25,0.5"), tmp_path).code == 0


# --- random command lines


def test_random_command_lines_compose_or_end_in_one_clear_line() -> None:
    outcomes = fuzz(in_process, "suite", range(25))
    assert [(outcome.words, outcome.errors, faults) for outcome in outcomes if (faults := outcome.faults())] == []


def test_random_commands_train_a_step_or_end_in_one_clear_line() -> None:
    outcomes = fuzz(as_process, "suite process", range(3))
    assert [(outcome.words, outcome.errors, faults) for outcome in outcomes if (faults := outcome.faults())] == []
