"""An interpolation that cannot be resolved is one line with the key that has it, for a run, a resume and a sweep."""

from pathlib import Path

import pytest

from tests.attack.fuzz import in_process

BROKEN = ("${.nope}", "${model}", "${oc.env:NOT_SET}", "${a:b,c}")


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("key", ["max_steps", "resume", "optim.backbone_lr", "+seexd"])
@pytest.mark.parametrize("sweep", [(), ("-m",)], ids=["run", "sweep"])
def test_a_broken_interpolation_is_one_line_with_its_key(
    key: str, value: str, sweep: tuple[str, ...], tmp_path: Path
) -> None:
    outcome = in_process((f"{key}={value}", *sweep), tmp_path)
    assert outcome.code == 2
    assert outcome.faults() == []
    assert key.removeprefix("+") in outcome.errors.splitlines()[-1].replace("max_updates", "max_steps")


@pytest.mark.parametrize("word", ["resume=1_0", "resume='${seed}'"])
def test_a_resume_of_what_is_not_a_run_says_so_under_its_key(word: str, tmp_path: Path) -> None:
    outcome = in_process((word,), tmp_path)
    assert outcome.errors.startswith("mnet-train: resume=")
    assert outcome.faults() == []
