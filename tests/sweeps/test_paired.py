"""Two sweeps over the same seeds: the difference, its interval and its p-value, as a textbook has them."""

from pathlib import Path

import pytest

from mobilenet_train.errors import RunError
from mobilenet_train.sweeps.paired import compare
from tests.sweeps.made import make_sweep

BEFORE = {(0.1, 0): 90.0, (0.1, 1): 91.0, (0.1, 2): 92.0, (0.1, 3): 95.0}
AFTER = {(0.1, 0): 91.0, (0.1, 1): 92.5, (0.1, 2): 92.5, (0.1, 4): 99.0}


def test_the_seeds_of_both_are_compared_pair_by_pair(tmp_path: Path) -> None:
    (found,) = compare(make_sweep(tmp_path / "a", BEFORE), make_sweep(tmp_path / "b", AFTER, "label_smoothing=0.1"))
    assert (found.seeds, found.a, found.b, found.measured_on) == ([0, 1, 2], 91.0, 92.0, "test")
    assert found.difference.mean == 1.0
    assert found.difference.std == 0.5
    assert found.difference.interval == pytest.approx(1.2421, abs=1e-4)  # 4.30265 x 0.5 / sqrt(3)
    assert found.p == pytest.approx(0.07418, abs=1e-5)  # t = 1 / (0.5 / sqrt(3)) = 3.4641 with 2 degrees of freedom


def test_equal_results_are_no_difference(tmp_path: Path) -> None:
    (found,) = compare(make_sweep(tmp_path / "a", BEFORE), make_sweep(tmp_path / "b", BEFORE, "optim=adam"))
    assert (found.difference.mean, found.p) == (0.0, 1.0)


def test_the_hold_out_images_count_where_there_are_some(tmp_path: Path) -> None:
    a, b = (make_sweep(tmp_path / name, runs, held_out=True) for name, runs in (("a", BEFORE), ("b", AFTER)))
    (found,) = compare(a, b)
    assert (found.measured_on, found.a, found.b) == ("hold-out", 88.0, 89.0)


def test_configurations_are_matched_by_what_is_swept(tmp_path: Path) -> None:
    runs = {(width, seed): 60.0 + seed + width for width in (0.1, 0.25) for seed in (0, 1)}
    more = {**runs, (0.5, 0): 1.0, (0.5, 1): 2.0}
    found = compare(make_sweep(tmp_path / "a", runs), make_sweep(tmp_path / "b", more, "epochs=3"))
    assert [one.label for one in found] == ["width_mult=0.1", "width_mult=0.25"]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = make_sweep(tmp_path / "one", {(0.1, 0): 60.0, (0.1, 1): 61.0})
    with pytest.raises(RunError, match=r"have 1 finished seeds of width_mult=0\.1 in common"):
        compare(one, make_sweep(tmp_path / "two", {(0.1, 1): 60.0, (0.1, 2): 61.0}))
    wide = make_sweep(tmp_path / "wide", {(0.5, 0): 60.0, (0.75, 0): 61.0})
    with pytest.raises(RunError, match="no configuration in common"):
        compare(one, wide)


@pytest.mark.parametrize("word", ["dataset.split_seed=1", "dataset.val_fraction=0.2"])
def test_a_difference_of_the_hold_out_images_does_not_pass_for_one_of_the_configurations(
    tmp_path: Path, word: str
) -> None:
    held = ("dataset.val_fraction=0.1", "dataset.split_seed=0")
    a = make_sweep(tmp_path / "a", BEFORE, *held, held_out=True)
    with pytest.raises(RunError, match=r"different hold-out images: dataset\.\w+ is 0(\.1)? and (1|0\.2);"):
        compare(a, make_sweep(tmp_path / "b", AFTER, *held, word, held_out=True))


def test_another_split_is_refused_where_it_makes_other_test_images(tmp_path: Path) -> None:
    a = make_sweep(tmp_path / "a", BEFORE)
    other = ("dataset.split_seed=1",)
    assert compare(a, make_sweep(tmp_path / "same", AFTER, *other))[0].seeds == [0, 1, 2]
    decoded = make_sweep(tmp_path / "decoded", AFTER, *other, fingerprint="0f {'size': 37}")  # as image files have it
    assert compare(a, decoded)[0].seeds == [0, 1, 2]
    with pytest.raises(RunError, match=r"different test images: dataset\.split_seed is 0 and 1;"):
        compare(a, make_sweep(tmp_path / "other", AFTER, *other, fingerprint="0a"))
