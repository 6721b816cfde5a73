"""An option is said once: a line in the schema and a value in conf/ are all that a new one needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mobilenet_train
from mobilenet_train.config.fields import Option, number, one_of, options, text, whole
from mobilenet_train.config.place import conf_dir
from mobilenet_train.config.schema import OPTIONS

PACKAGE = Path(mobilenet_train.__file__).parent
OLD = Path(__file__).parents[1] / "old_runs/52a255a"


def option_of(field: object) -> Option:
    return field.metadata["option"]  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which two places were touched to add the option `warm_restarts`."""
    copy = tmp_path_factory.mktemp("patched")
    shutil.copytree(PACKAGE, copy / "mobilenet_train", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(conf_dir(), copy / "conf")
    schema, values = copy / "mobilenet_train/config/schema/run.py", copy / "conf/train.yaml"
    line = '    warm_restarts: int = whole("how often the schedule starts again", 0, 9)\n    log_every: int ='
    schema.write_text(schema.read_text().replace("    log_every: int =", line, 1))
    values.write_text(values.read_text().replace("log_every:", "warm_restarts: 0 # for the test\nlog_every:", 1))
    return copy


def run(patched: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`mnet-train ARGUMENTS` of the patched copy, as far as it goes without torch."""
    environment = {**os.environ, "PYTHONPATH": str(patched)}
    command = [sys.executable, "-m", "mobilenet_train", *arguments]
    return subprocess.run(command, cwd=patched, env=environment, capture_output=True, text=True, check=False)


def test_an_option_that_is_added_in_two_places_is_helped_checked_and_composed(patched: Path) -> None:
    assert "  warm_restarts=0                  how often the schedule starts again\n" in run(patched, "--help").stdout
    assert "warm_restarts: 3\n" in run(patched, "--cfg", "job", "warm_restarts=3").stdout
    refused = run(patched, "warm_restarts=10")
    assert (refused.returncode, refused.stderr) == (
        2,
        "mnet-train: warm_restarts=10 is not allowed: a whole number from 0 to 9\n",
    )
    assert "did you mean 'warm_restarts'?" in run(patched, "warm_restart=1").stderr


def test_an_old_run_has_the_added_options_default_and_refuses_another_value(patched: Path) -> None:
    shutil.copytree(OLD / "sgd", patched / "old")
    refused = run(patched, "resume=old", "warm_restarts=2")
    assert refused.returncode == 2
    assert (
        "warm_restarts=2 cannot be given when a run is resumed: it was started with warm_restarts=0" in refused.stderr
    )


def test_every_option_has_a_help_of_one_line() -> None:
    for key, found in OPTIONS.items():
        for option in found:
            assert option.help, key
            assert "\n" not in option.help


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        (whole("", 2, why="norms need two"), "a whole number from 2 (norms need two)"),
        (whole("", 1, 9, null="null (all)"), "null (all) or a whole number from 1 to 9"),
        (whole("", 1, typed_most=5), "a whole number from 1 to 5"),
        (number("", least=0, most=1), "a number from 0 to 1"),
        (number("", above=0, most=1000), "a number above 0, at most 1000"),
        (number("", least=0, below=1), "a number from 0, below 1"),
        (number("", above=0, below=1, null="null"), "null or a number above 0, below 1"),
        (one_of("", "a", "b"), "a or b"),
        (one_of("", "a", "b", "c", null="null"), "null or one of a, b, c"),
        (text("", "a name", str.isalpha), "a name"),
    ],
)
def test_a_rule_says_what_it_allows(field: object, allowed: str) -> None:
    rule = option_of(field).rule
    assert rule is not None
    assert rule.allowed == allowed


def test_a_rule_takes_its_bounds_as_it_says_them() -> None:
    closed, half_open = (option_of(f).rule for f in (number("", least=0, most=1), number("", above=0, below=1)))
    assert closed is not None
    assert half_open is not None
    assert [closed.fits(v) for v in (-0.1, 0, 0.5, 1, 1.1, True, None, "1")] == [
        *(False, True, True, True, False),
        *(False, False, False),
    ]
    assert [half_open.fits(v) for v in (0, 0.001, 0.999, 1)] == [False, True, True, False]
    narrow = option_of(whole("", 1, typed_most=5)).rule
    assert narrow is not None
    assert (narrow.fits(6), narrow.fits_typed(6), narrow.fits_typed(5)) == (True, False, True)


def test_options_of_a_class_and_of_an_instance_are_the_same() -> None:
    from mobilenet_train.config.schema import SgdConfig

    assert dict(options(SgdConfig)) == dict(options(SgdConfig()))
