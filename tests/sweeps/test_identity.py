"""What changes a result makes another job; how it is written, or what may change at a resume, does not."""

from pathlib import Path

import pytest

from mobilenet_train.config.saved import INTRODUCED, Introduced
from mobilenet_train.sweeps.folder import Manifest, find_sweep, write_manifest
from mobilenet_train.sweeps.jobs import identity, make_job
from tests.conftest import TINY, configure
from tests.sweeps.conftest import TINY_SWEEP, Run

IMAGES = ("dataset=folder", "dataset.root=images")


@pytest.mark.parametrize("word", ["dataset.workers=3", "dataset.cache=off", "dataset.cache_dir=elsewhere"])
def test_how_images_are_held_does_not_make_another_job(word: str) -> None:
    assert make_job(configure(*IMAGES, word), {}).hash == make_job(configure(*IMAGES), {}).hash


def test_a_new_key_with_the_value_of_before_it_makes_no_finished_job_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_job(configure(*TINY), {}).hash
    monkeypatch.setitem(INTRODUCED, "label_smoothing", Introduced("9.0", 0.0))
    listed = make_job(configure(*TINY), {}).hash
    assert listed != before, "the listed key is left out"
    assert make_job(configure(*TINY, "label_smoothing=0.1"), {}).hash != listed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["optim.lr=0.1", "epochs=3", "seed=1,2"], ["seed=1,2,3", "epochs=3", "optim.lr=1e-1"]),
        (["model.width_mult=1,2", "optim.lr=0.1,0.2"], ["optim.lr=0.3,0.2", "model.width_mult=2,1"]),
        (["max_steps=5", "seed=1,2"], ["max_updates=5.0", "seed=1,2"]),
        (["optim.lr=0.1", "optim.lr=0.3,0.2"], ["optim.lr=0.3,0.2"]),
        ([*IMAGES, "seed=1,2"], [*IMAGES, "dataset.workers=2", "device.threads=1", "slots=2", "seed=1,2"]),
    ],
)
def test_two_commands_for_the_same_are_one_sweep(one: list[str], other: list[str], tmp_path: Path) -> None:
    assert identity(one) == identity(other)
    write_manifest_in(tmp_path / "by_hand", one)
    assert find_sweep(tmp_path, other) == tmp_path / "by_hand"


def test_another_fixed_value_is_another_sweep_and_a_named_one_is_found_by_its_name_alone(tmp_path: Path) -> None:
    write_manifest_in(tmp_path / "one", ["epochs=3", "seed=1,2"])
    write_manifest_in(tmp_path / "named", ["sweep=named", "epochs=4", "seed=1,2"])
    assert find_sweep(tmp_path, ["epochs=3", "seed=1,2"]) == tmp_path / "one"
    assert find_sweep(tmp_path, ["epochs=4", "seed=1,2"]) == tmp_path / "epochs-4_by_seed"


def write_manifest_in(folder: Path, words: list[str]) -> None:
    folder.mkdir()
    write_manifest(folder, Manifest(words, []))


def test_one_value_written_twice_is_one_job(run_sweep: Run, tmp_path: Path) -> None:
    first = run_sweep(*TINY_SWEEP, "max_updates=1", "optim.clip_norm=1,1.0,1e0")
    assert first.wait() == 0, first.text()
    assert first.text().count("started") == 1
    again = run_sweep(*TINY_SWEEP, "max_updates=1", "optim.clip_norm=1.0,1")
    assert again.wait() == 0, again.text()
    assert "started" not in again.text()
    assert len(list((tmp_path / "outputs/s").glob("*/summary.json"))) == 1
