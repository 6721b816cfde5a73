"""Augmentation against naive numpy, and draws that depend on nothing but (seed, epoch)."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mobilenet_train.data import augment
from mobilenet_train.data.augment import Draws
from tests.data.images_for_tests import numbered


def same(a: Draws, b: Draws) -> bool:
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in ("order", "top", "left", "flip"))


def test_the_same_seed_and_epoch_draw_the_same_whatever_was_drawn_before() -> None:
    first = augment.draw(100, seed=3, epoch=5, crop_padding=4, flip=True)
    torch.manual_seed(99)
    torch.rand(7)
    augment.draw(100, seed=3, epoch=4, crop_padding=4, flip=True)
    assert same(first, augment.draw(100, seed=3, epoch=5, crop_padding=4, flip=True))


@pytest.mark.parametrize(("seed", "epoch"), [(3, 6), (4, 5)], ids=["epoch", "seed"])
@pytest.mark.parametrize("part", ["order", "top", "left", "flip"])
def test_another_seed_or_epoch_draws_something_else(seed: int, epoch: int, part: str) -> None:
    first = augment.draw(200, seed=3, epoch=5, crop_padding=4, flip=True)
    other = augment.draw(200, seed=seed, epoch=epoch, crop_padding=4, flip=True)
    assert not torch.equal(getattr(first, part), getattr(other, part))


def test_drawing_leaves_torchs_own_generator_alone() -> None:
    before = torch.get_rng_state()
    augment.draw(50, seed=0, epoch=0, crop_padding=4, flip=True)
    assert torch.equal(before, torch.get_rng_state())


def test_the_order_is_a_permutation_and_corners_reach_both_ends() -> None:
    draws = augment.draw(2000, seed=0, epoch=0, crop_padding=4, flip=True)
    assert torch.equal(draws.order.sort().values, torch.arange(2000))
    for corner in (draws.top, draws.left):
        assert corner.unique().tolist() == list(range(9))
    assert not torch.equal(draws.top, draws.left)


@pytest.mark.parametrize("epoch", [0, 1, 8])
def test_two_epochs_after_each_other_show_every_image_both_ways(epoch: int) -> None:
    one, two = (augment.draw(500, seed=2, epoch=epoch + step, crop_padding=0, flip=True).flip for step in (0, 1))
    assert torch.equal(one, ~two)
    assert 200 < int(one.sum()) < 300


def test_without_flip_and_crop_nothing_is_drawn_but_the_order() -> None:
    draws = augment.draw(50, seed=0, epoch=1, crop_padding=0, flip=False)
    assert not draws.flip.any()
    assert not draws.top.any()
    assert not draws.left.any()


@pytest.mark.parametrize("padding", [0, 1, 4, 11, 12, 30], ids=lambda padding: f"{padding} pixels")
def test_padding_equals_numpys_reflection(padding: int) -> None:
    images = numbered(3).images[:, :, :9]  # 12 x 9 pixels
    expected = np.pad(images.numpy(), ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")
    assert np.array_equal(augment.pad(images, padding).numpy(), expected)


def test_crop_cuts_the_drawn_window_of_each_sample() -> None:
    padding, size = 3, 12
    images = numbered(20).images
    draws = augment.draw(20, seed=0, epoch=0, crop_padding=padding, flip=False)
    samples = draws.order[:7]
    cut = augment.crop(augment.pad(images, padding), samples, draws.top[samples], draws.left[samples], padding)
    padded = np.pad(images.numpy(), ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")
    for window, sample in zip(cut.numpy(), samples.tolist(), strict=True):
        top, left = int(draws.top[sample]), int(draws.left[sample])
        assert np.array_equal(window, padded[sample, top : top + size, left : left + size])


def test_mirror_flips_the_chosen_images_left_to_right_and_no_other() -> None:
    images = numbered(4).images
    mirrored = augment.mirror(images.clone(), torch.tensor([True, False, True, False])).numpy()
    assert np.array_equal(mirrored[::2], images.numpy()[::2, :, ::-1])
    assert np.array_equal(mirrored[1::2], images.numpy()[1::2])


@pytest.mark.parametrize(
    ("centre", "side", "rows", "columns"),
    [
        ((5, 6), 4, (3, 7), (4, 8)),
        ((5, 6), 3, (4, 7), (5, 8)),
        ((0, 11), 4, (0, 2), (9, 12)),
        ((6, 6), 99, (0, 12), (0, 12)),
    ],
    ids=["even", "odd", "cut off at a corner", "everything"],
)
def test_cut_out_paints_one_square_and_nothing_else(
    centre: tuple[int, int], side: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    images = numbered(3).images
    centres = torch.tensor([centre, (6, 6), centre])
    painted = augment.cut_out(images, centres, side, torch.tensor([1, 2, 3], dtype=torch.uint8))
    expected = images.numpy().copy()
    expected[[0, 2], slice(*rows), slice(*columns)] = (1, 2, 3)
    assert painted.dtype == torch.uint8
    assert np.array_equal(painted.numpy()[[0, 2]], expected[[0, 2]])


def test_holes_are_drawn_again_in_each_epoch_and_reach_every_pixel() -> None:
    centres = augment.draw_cutout(5000, seed=1, epoch=0, height=8, width=12)
    assert torch.equal(centres, augment.draw_cutout(5000, seed=1, epoch=0, height=8, width=12))
    assert not torch.equal(centres, augment.draw_cutout(5000, seed=1, epoch=1, height=8, width=12))
    assert centres[:, 0].unique().tolist() == list(range(8))
    assert centres[:, 1].unique().tolist() == list(range(12))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_normalise_is_the_textbook_formula(layout: torch.memory_format) -> None:
    images, mean, std = numbered(5).images, np.array([0.5, 0.4, 0.3]), np.array([0.25, 0.2, 0.3])
    values = augment.normalise(images, torch.tensor(mean).float(), torch.tensor(std).float(), 12, layout)
    expected = ((images.numpy() / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert values.dtype == torch.float32
    assert values.is_contiguous(memory_format=layout)
    np.testing.assert_allclose(values.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("resolution", [6, 24, 224])
def test_another_resolution_is_bilinear_and_keeps_the_mean(resolution: int) -> None:
    images = numbered(2).images
    values = augment.normalise(images, torch.zeros(3), torch.ones(3), resolution, torch.contiguous_format)
    plain = images.permute(0, 3, 1, 2).float() / 255
    expected = F.interpolate(plain, (resolution, resolution), mode="bilinear", antialias=resolution < 12)
    assert values.shape == (2, 3, resolution, resolution)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
    assert abs(float(values.mean() - plain.mean())) < 0.02


def test_normalise_leaves_the_stored_images_alone() -> None:
    images = numbered(2).images
    before = images.clone()
    augment.normalise(images, torch.zeros(3), torch.ones(3), 12, torch.contiguous_format)
    assert torch.equal(images, before)
