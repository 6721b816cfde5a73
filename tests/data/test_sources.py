"""The images of a run: real ones, shares of them, hold-out splits, and the digest that distinguishes them."""

import pickle
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mobilenet_train.config.schema import Cifar10Config, CustomDatasetConfig, DigitsConfig
from mobilenet_train.data import cifar10 as cifar10_files
from mobilenet_train.data.cifar10 import begin_reading
from mobilenet_train.data.images import (
    Dataset,
    ImageData,
    Split,
    channel_statistics,
    fingerprint,
    hold_out,
    make_split,
    stratified_sample,
)
from mobilenet_train.data.sources import load
from mobilenet_train.errors import ConfigError, RunError
from tests.data.images_for_tests import numbered

SHARES: dict[str, Any] = {
    "resolution": 32,
    "fraction": 1.0,
    "max_per_class": None,
    "val_fraction": 0.0,
    "split_seed": 0,
}
DIGITS = DigitsConfig(name="digits", mean=[0.3] * 3, std=[0.3] * 3, **SHARES)
UNEVEN = torch.tensor([0] * 100 + [1] * 40 + [2] * 10)[torch.randperm(150, generator=torch.Generator().manual_seed(0))]


@cache
def digits(seed: int = 0) -> Dataset:
    return load(replace(DIGITS, split_seed=seed))


def per_class(labels: Tensor) -> dict[int, int]:
    return dict(sorted(Counter(labels.tolist()).items()))


def equal(one: Split, two: Split) -> bool:
    return torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)


# --- samples and splits


def test_a_sample_has_the_same_share_of_every_class() -> None:
    index = stratified_sample(UNEVEN, seed=0, fraction=0.3)
    assert per_class(UNEVEN[index]) == {0: 30, 1: 12, 2: 3}
    assert torch.equal(index, index.unique())


def test_a_sample_has_at_most_so_many_images_of_a_class() -> None:
    assert per_class(UNEVEN[stratified_sample(UNEVEN, seed=0, max_per_class=20)]) == {0: 20, 1: 20, 2: 10}
    assert per_class(UNEVEN[stratified_sample(UNEVEN, seed=0, fraction=0.5, max_per_class=20)]) == {0: 20, 1: 20, 2: 5}


def test_even_the_smallest_share_has_an_image_of_every_class() -> None:
    assert per_class(UNEVEN[stratified_sample(UNEVEN, seed=0, fraction=0.001)]) == {0: 1, 1: 1, 2: 1}


def test_the_seed_decides_the_sample() -> None:
    one, again, other = (stratified_sample(UNEVEN, seed=seed, fraction=0.3) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_hold_out_split_is_disjoint_complete_and_stratified() -> None:
    images = numbered(150).images
    images[:, 0, 0, 0] = torch.arange(150, dtype=torch.uint8)  # the number of each image
    train, val = hold_out(Split(images, UNEVEN), seed=0, fraction=0.2)
    numbers = [set(part.images[:, 0, 0, 0].tolist()) for part in (train, val)]
    assert numbers[0] & numbers[1] == set()
    assert numbers[0] | numbers[1] == set(range(150))
    assert per_class(val.labels) == {0: 20, 1: 8, 2: 2}


def test_a_hold_out_split_that_takes_a_whole_class_is_a_wrong_configuration() -> None:
    with pytest.raises(ConfigError, match=r"val_fraction=0\.99"):
        hold_out(Split(numbered(150).images, UNEVEN), seed=0, fraction=0.99)


def test_channel_statistics_equal_numpys() -> None:
    images = numbered(30).images
    images[..., 1] //= 2
    mean, std = channel_statistics(images)
    values = images.numpy() / 255
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-9)


def test_images_of_one_colour_do_not_have_a_std_of_zero() -> None:
    assert min(channel_statistics(torch.full((2, 8, 8, 3), 7, dtype=torch.uint8))[1]) > 0


def test_the_fingerprint_changes_with_one_pixel_one_label_and_the_shape() -> None:
    split = numbered(10)
    before = fingerprint(split, split)
    assert fingerprint(numbered(10), numbered(10)) == before
    images, labels = split.images.clone(), split.labels.clone()
    images[4, 3, 2, 1] ^= 1
    labels[4] = 0
    others = [Split(images, split.labels), Split(split.images, labels), Split(split.images.view(10, 6, 24, 3), labels)]
    assert len({before, *(fingerprint(split, other) for other in others)}) == 4


# --- scikit-learn's digits


def test_all_digits_are_there_in_a_stratified_split() -> None:
    data = digits()
    assert len(data.train) + len(data.test) == 1797
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.class_names == tuple("0123456789")
    assert data.val is None
    counts = per_class(data.test.labels)
    assert list(counts) == list(range(10))
    assert set(counts.values()) <= {35, 36, 37}


def test_digits_are_grey_images_of_three_equal_channels() -> None:
    images = digits().train.images
    assert images.dtype == torch.uint8
    assert images.shape[1:] == (32, 32, 3)
    assert torch.equal(images[..., 0], images[..., 1])
    assert torch.equal(images[..., 0], images[..., 2])
    assert (int(images.min()), int(images.max())) == (0, 255)


def test_the_seed_decides_which_digits_are_for_testing() -> None:
    assert equal(load(DIGITS).test, digits(0).test)
    assert not equal(digits(1).test, digits(0).test)
    assert digits(1).fingerprint != digits(0).fingerprint


def test_the_shipped_mean_and_std_of_digits_are_theirs() -> None:
    mean, std = channel_statistics(digits().train.images)
    assert mean == pytest.approx([0.305] * 3, abs=2e-3)
    assert std == pytest.approx([0.324] * 3, abs=2e-3)


def test_fraction_takes_training_images_only_and_max_per_class_test_images_too() -> None:
    tenth, few = (load(replace(DIGITS, **change)) for change in ({"fraction": 0.1}, {"max_per_class": 5}))
    assert set(per_class(tenth.train.labels).values()) <= {14, 15}
    assert len(tenth.test) == 359
    assert set(per_class(few.train.labels).values()) == {5}
    assert set(per_class(few.test.labels).values()) == {5}
    assert tenth.fingerprint == few.fingerprint == digits().fingerprint  # of the images that were chosen from


def test_a_hold_out_split_comes_off_the_training_images() -> None:
    data = load(replace(DIGITS, val_fraction=0.25))
    assert data.val is not None
    assert len(data.train) + len(data.val) == 1438
    assert equal(data.test, digits().test)


def test_what_is_not_given_of_mean_and_std_is_measured_on_the_training_images() -> None:
    data = load(replace(DIGITS, mean=None, std=None, max_per_class=20))
    mean, std = channel_statistics(data.train.images.split(64))
    assert data.preprocessing.mean == mean
    assert data.preprocessing.std == std
    assert load(replace(DIGITS, mean=None)).preprocessing.std == (0.3, 0.3, 0.3)


# --- the user's own data


@pytest.mark.parametrize("shape", [(6, 10, 8), (6, 10, 8, 1), (6, 10, 8, 3)], ids=str)
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_own_images_may_be_grey_or_coloured_arrays_or_tensors(
    shape: tuple[int, ...], kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(6, dtype=np.int16) % 2
    source = ImageData(kind(values), kind(labels), kind(values), kind(labels), ["cat", "dog"])
    module = type(sys)("own_of_source_tests")
    vars(module)["load"] = lambda scale: source if scale == 2 else None
    monkeypatch.setitem(sys.modules, "own_of_source_tests", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    config = CustomDatasetConfig(
        name="custom", mean=None, std=None, factory="own_of_source_tests:load", args={"scale": 2}, **SHARES
    )
    data = load(config)
    expected = np.broadcast_to(values.reshape(6, 10, 8, -1), (6, 10, 8, 3))
    assert np.array_equal(data.train.images.numpy(), expected)
    assert data.train.labels.dtype == torch.int64
    assert data.class_names == ("cat", "dog")


GOOD = (np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (GOOD[0] + np.nan, GOOD[1], "finite"),
        (GOOD[0].astype(np.int64), GOOD[1], "int64"),
        (GOOD[0][0, 0], GOOD[1], "shape"),
        (GOOD[0].transpose(0, 3, 1, 2), GOOD[1], "shape"),
        (GOOD[0].transpose(0, 3, 1, 2)[:, :1], GOOD[1], "shape"),
        (GOOD[0], GOOD[1] / 1, "labels"),
        (GOOD[0], GOOD[1][:3], "labels"),
        (GOOD[0], np.eye(2, dtype=int)[GOOD[1]], "labels"),
        (GOOD[0], GOOD[1] + 1, "from 1 to 2"),
        (GOOD[0], GOOD[1] - 1, "from -1 to 0"),
        (GOOD[0], ["a", "b", "a", "b"], "labels"),
        (GOOD[0][:0], GOOD[1][:0], "no"),
    ],
    ids=[
        "not finite",
        "integers",
        "2 axes",
        "NCHW",
        "N1HW",
        "float labels",
        "few",
        "one-hot",
        "large",
        "negative",
        "words",
        "none",
    ],
)
def test_own_images_of_another_form_are_refused_by_name(images: Any, labels: Any, words: str) -> None:
    with pytest.raises(RunError, match=words) as refused:
        make_split(images, labels, 2, "holiday")
    assert "holiday" in str(refused.value)


# --- the real CIFAR-10

CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"


def cifar10_config(root: Path, **changes: Any) -> Cifar10Config:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    plain = Cifar10Config(name="cifar10", mean=mean, std=std, root=str(root), download=False, **SHARES)
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def loaded() -> dict[Path, Dataset]:
    return {}


@pytest.fixture
def cifar10(cifar10_root: Path, loaded: dict[Path, Dataset]) -> Dataset:
    if cifar10_root not in loaded:
        loaded[cifar10_root] = load(cifar10_config(cifar10_root))
    return loaded[cifar10_root]


@pytest.mark.real_data
def test_cifar10_has_50000_and_10000_images_of_ten_even_classes(cifar10: Dataset) -> None:
    assert cifar10.train.images.shape == (50_000, 32, 32, 3)
    assert cifar10.test.images.shape == (10_000, 32, 32, 3)
    assert set(per_class(cifar10.train.labels).values()) == {5000}
    assert set(per_class(cifar10.test.labels).values()) == {1000}
    assert " ".join(cifar10.class_names) == CIFAR10_NAMES


@pytest.mark.real_data
def test_cifar10_has_the_published_mean_and_std(cifar10: Dataset) -> None:
    mean, std = channel_statistics(cifar10.train.images.split(1000))
    assert [round(value, 3) for value in mean] == [0.491, 0.482, 0.447]
    assert [round(value, 3) for value in std] == [0.247, 0.243, 0.262]


@pytest.mark.real_data
def test_cifar10_is_what_the_official_files_hold(cifar10: Dataset, cifar10_root: Path) -> None:
    raw = pickle.loads((cifar10_root / "cifar-10-batches-py" / "test_batch").read_bytes(), encoding="bytes")
    planes = raw[b"data"].reshape(-1, 3, 32, 32)
    assert np.array_equal(cifar10.test.images.numpy(), planes.transpose(0, 2, 3, 1))
    assert cifar10.test.labels.tolist() == raw[b"labels"]


@pytest.mark.real_data
def test_the_fingerprint_of_the_official_files_need_not_be_worked_out(cifar10: Dataset) -> None:
    assert cifar10.fingerprint == fingerprint(cifar10.train, cifar10.test)


@pytest.mark.real_data
def test_cifar10_begun_early_is_the_same_and_read_once(
    cifar10: Dataset, cifar10_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_reading(cifar10_root)
    monkeypatch.setattr(cifar10_files, "_read_both", None)
    early = load(cifar10_config(cifar10_root))
    assert early.fingerprint == cifar10.fingerprint
    with pytest.raises(TypeError):
        load(cifar10_config(cifar10_root))  # what was begun is used once


def test_what_could_not_be_read_early_is_reported_as_usual(tmp_path: Path) -> None:
    begin_reading(tmp_path)
    with pytest.raises(RunError, match=r"data_batch_1 is missing.*dataset\.download=false"):
        load(cifar10_config(tmp_path))


@pytest.mark.real_data
def test_a_share_of_cifar10_is_seeded_and_even(cifar10: Dataset, cifar10_root: Path) -> None:
    few = load(cifar10_config(cifar10_root, fraction=0.02, max_per_class=70, val_fraction=0.1))
    assert few.val is not None
    assert set(per_class(few.train.labels).values()) == {63}
    assert set(per_class(few.val.labels).values()) == {7}
    assert set(per_class(few.test.labels).values()) == {70}
    assert few.fingerprint == cifar10.fingerprint
