"""Batches: every sample once, whatever the batch size, the start or what was asked for before."""

from dataclasses import replace

import pytest
import torch

from mobilenet_train.config.schema import AugmentConfig
from tests.data.images_for_tests import CROP_AND_FLIP, NOTHING, PLAIN, eval_batches, numbered, train_batches


@pytest.mark.parametrize("policy", [NOTHING, CROP_AND_FLIP], ids=["plain", "augmented"])
def test_no_sample_comes_twice_in_an_epoch_and_the_rest_is_less_than_a_batch(policy: AugmentConfig) -> None:
    batches = train_batches(numbered(53), policy, size=8)
    seen = torch.cat([labels for _, labels in batches.epoch(0)])
    assert len(batches) == 6
    assert len(seen) == 48
    assert len(seen.unique()) == 48


def test_the_samples_left_out_change_with_the_epoch() -> None:
    batches = train_batches(numbered(53), size=8)
    seen = {int(label) for epoch in range(4) for _, labels in batches.epoch(epoch) for label in labels}
    assert len(seen) == 53


@pytest.mark.parametrize("start", [1, 4, 6])
def test_a_batch_does_not_depend_on_where_the_epoch_was_started(start: int) -> None:
    split = numbered(53)
    whole = list(train_batches(split).epoch(3))
    rest = list(train_batches(split).epoch(3, start=start))
    assert len(rest) == 6 - start
    for (images, labels), (again, labels_again) in zip(whole[start:], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)


def test_a_batch_does_not_depend_on_earlier_epochs_or_other_random_numbers() -> None:
    split = numbered(24)
    unused, used = train_batches(split), train_batches(split)
    list(used.epoch(0))
    torch.manual_seed(5)
    for (images, labels), (again, labels_again) in zip(unused.epoch(1), used.epoch(1), strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)


def test_a_sample_is_augmented_alike_in_batches_of_another_size() -> None:
    split = numbered(24)
    by_size = []
    for size in (4, 12):
        epoch = list(train_batches(split, size=size).epoch(2))
        by_size.append((torch.cat([images for images, _ in epoch]), torch.cat([labels for _, labels in epoch])))
    assert torch.equal(by_size[0][0], by_size[1][0])
    assert torch.equal(by_size[0][1], by_size[1][1])


def test_another_seed_gives_another_order() -> None:
    split = numbered(24)
    orders = [torch.cat([labels for _, labels in train_batches(split, seed=seed).epoch(0)]) for seed in (0, 1)]
    assert not torch.equal(*orders)


def test_without_augmentation_training_images_are_the_stored_ones() -> None:
    split = numbered(16)
    batches = train_batches(split, NOTHING)
    for images, labels in batches.epoch(1):
        assert torch.equal(images, batches.prepare(split.images[labels]))


def test_cutout_paints_its_hole_with_the_mean_in_training_images_and_depends_on_the_sample_alone() -> None:
    split = numbered(16)
    split.images[:] = 255
    holes = {}
    for batch_size in (4, 8):
        batches = train_batches(split, replace(NOTHING, cutout=3), size=batch_size)
        shown = list(batches.epoch(2))
        images, labels = (torch.cat(parts) for parts in zip(*shown, strict=True))
        dark = batches.prepare.undo(images)[:, 0] < 0.99
        assert (dark.flatten(1).sum(1) > 0).all()
        assert (dark.flatten(1).sum(1) <= 9).all()
        assert images.permute(0, 2, 3, 1)[dark].abs().max() < 0.02
        holes[batch_size] = dark[labels.argsort()]
    assert torch.equal(holes[4], holes[8])


def test_labels_stay_with_their_augmented_images() -> None:
    split = numbered(16, size=12)
    split.images[:] = (split.labels * 10)[:, None, None, None]  # one colour an image: no crop or flip can change it
    for images, labels in train_batches(split).epoch(0):
        colours = train_batches(split).prepare.undo(images)[:, 0, 0, 0] * 255 / 10
        assert torch.equal(colours.round().long(), labels)


def test_both_epochs_of_a_pair_show_an_image_mirrored_once() -> None:
    split = numbered(16)
    batches = train_batches(split, replace(CROP_AND_FLIP, crop_padding=0))
    seen: dict[int, list[torch.Tensor]] = {}
    for epoch in (0, 1):
        for images, labels in batches.epoch(epoch):
            for image, label in zip(images, labels.tolist(), strict=True):
                seen.setdefault(label, []).append(image)
    for one, two in seen.values():
        assert torch.equal(one, two.flip(2))


@pytest.mark.parametrize("size", [1, 7, 12, 13, 25, 26, 100])
def test_evaluation_shows_every_image_once_in_order_at_any_batch_size(size: int) -> None:
    split = numbered(25)
    batches = eval_batches(split, size)
    shown = list(batches)
    assert len(shown) == len(batches)
    assert torch.equal(torch.cat([labels for _, labels in shown]), split.labels)
    whole = torch.cat([images for images, _ in shown])
    assert torch.equal(whole, batches.prepare(split.images))


def test_a_higher_resolution_is_made_batch_by_batch_on_the_device_of_the_images() -> None:
    split = numbered(3, size=32)
    batches = eval_batches(split, 2, replace(PLAIN, resolution=224))
    images, _ = next(iter(batches))
    assert images.shape == (2, 3, 224, 224)
    assert images.device == split.images.device
    assert batches.split.images.shape == (3, 32, 32, 3)


def test_undo_gives_back_the_image() -> None:
    split = numbered(4)
    prepare = eval_batches(split, 4).prepare
    images = prepare.undo(prepare(split.images))
    torch.testing.assert_close(images, split.images.permute(0, 3, 1, 2).float() / 255, atol=1e-6, rtol=0)


STRONG = replace(
    NOTHING,
    flip=True,
    resized_crop=[0.3, 1.0],
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    operations="trivialaugment",
    erasing=0.5,
    mixup=0.2,
    cutmix=1.0,
)


def test_strong_augmentation_is_the_same_from_any_start_and_in_batches_of_another_even_size() -> None:
    split = numbered(24, size=16)
    whole = [torch.cat(part) for part in zip(*train_batches(split, STRONG, size=24).epoch(2), strict=True)]
    torch.manual_seed(5)
    parts = [torch.cat(part) for part in zip(*train_batches(split, STRONG, size=6).epoch(2, start=1), strict=True)]
    assert torch.equal(whole[1][6:], parts[1])
    torch.testing.assert_close(whole[0][6:], parts[0], rtol=0, atol=1e-5)  # products of matrices differ by rounding


def test_every_batch_has_the_resolution_that_is_asked_for_right_then() -> None:
    batches = train_batches(numbered(16), replace(NOTHING, resized_crop=[0.3, 1.0]))
    sizes = iter([8, 20])
    shown = [images.shape[2:] for images, _ in batches.epoch(0, resolution=lambda: next(sizes))]
    assert shown == [(8, 8), (20, 20)]


def test_evaluation_sees_the_centre_at_its_own_resolution() -> None:
    split = numbered(3, size=16)
    batches = eval_batches(split, 3, replace(PLAIN, resolution=14, crop_ratio=0.875))
    images, _ = next(iter(batches))
    assert torch.equal(images, batches.prepare(split.images[:, 1:15, 1:15]))


def test_a_centre_of_everything_is_the_image() -> None:
    split = numbered(3)
    batches = eval_batches(split, 3)
    assert torch.equal(next(iter(batches))[0], batches.prepare(split.images))
