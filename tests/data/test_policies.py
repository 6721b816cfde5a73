"""Augmentation of photographs: draws within their bounds, and every sample as torchvision would do it alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as v2

from mobilenet_train.config.schema import AugmentConfig
from mobilenet_train.data import operations, policies
from mobilenet_train.data.augment import resize
from tests.data.images_for_tests import NOTHING, numbered

EVERYTHING = replace(
    NOTHING,
    resized_crop=[0.2, 0.9],
    brightness=0.4,
    contrast=0.3,
    saturation=0.2,
    operations="randaugment",
    magnitude=15,
    erasing=0.25,
    mixup=0.2,
    cutmix=1.0,
)
PARTS = ("box", "colour", "operation", "erased", "mix")
KINDS = {name: number for number, name in enumerate(operations.KINDS)}


def planes(count: int, size: int = 16) -> Tensor:
    return policies.to_planes(numbered(count, size).images)


@pytest.mark.parametrize("part", PARTS)
def test_chances_depend_on_seed_and_epoch_and_on_nothing_else(part: str) -> None:
    first = getattr(policies.draw(50, 3, 5, EVERYTHING), part)
    torch.rand(9)
    assert torch.equal(first, getattr(policies.draw(50, 3, 5, EVERYTHING), part))
    for seed, epoch in ((4, 5), (3, 6)):
        assert not torch.equal(first, getattr(policies.draw(50, seed, epoch, EVERYTHING), part))


def test_what_a_policy_does_not_do_is_not_drawn() -> None:
    assert policies.draw(5, 0, 0, NOTHING) == policies.Chances()


def test_crops_have_the_asked_for_area_and_aspect_and_lie_inside() -> None:
    top, left, height, width = policies.draw(4000, 0, 0, EVERYTHING).box.unbind(1)
    area = height * width
    assert 0.19 < area.min() < 0.22
    assert 0.8 < area.max() < 0.9001
    whole = (height < 1) & (width < 1)
    assert 0.749 < float((width / height)[whole].min()) < float((width / height)[whole].max()) < 1.334
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6


def test_factors_stay_within_their_jitter_and_holes_come_as_often_as_asked() -> None:
    chances = policies.draw(4000, 0, 0, EVERYTHING)
    distance = (chances.colour - 1).abs().max(0).values
    assert ((distance > torch.tensor([0.39, 0.29, 0.19])) & (distance <= torch.tensor([0.4, 0.3, 0.2]) + 1e-6)).all()
    assert float((chances.erased[:, 2] > 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_a_crop_on_whole_pixels_without_resizing_is_the_window() -> None:
    images = planes(2)
    boxes = torch.tensor([[2, 5, 8, 8], [0, 8, 8, 8]]) / 16
    expected = torch.stack([images[0, :, 2:10, 5:13], images[1, :, 0:8, 8:16]])
    torch.testing.assert_close(policies.resized_crop(images, boxes, 8), expected, atol=1e-3, rtol=0)


def test_a_crop_that_shrinks_is_antialiased_as_evaluation_is() -> None:
    images, whole = planes(3, 32), torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(3, 1)
    torch.testing.assert_close(policies.resized_crop(images, whole, 12), resize(images, 12), atol=0.01, rtol=0)
    half = torch.tensor([[0.0, 0.5, 1.0, 0.5]]).repeat(3, 1)
    inner = policies.resized_crop(images, half, 12)[..., 2:]  # at its border we see beyond the crop
    alone = F.interpolate(images[..., 16:], (12, 12), mode="bilinear", antialias=True)[..., 2:]
    torch.testing.assert_close(inner, alone, atol=0.01, rtol=0)


def test_a_crop_that_hardly_shrinks_reads_single_places_as_it_always_has() -> None:
    assert not policies.shrinks(side=146, resolution=128)
    assert policies.shrinks(side=146, resolution=96)


def test_an_enlarged_crop_is_torchvisions() -> None:
    images = planes(3)
    cut = policies.resized_crop(images, torch.tensor([[4, 2, 8, 10]]).repeat(3, 1) / 16, 24)
    padded = v2.resized_crop(images, 4, 2, 8, 10, [24, 24], antialias=False)
    inner = (..., slice(3, -3), slice(3, -3))  # at its border torchvision repeats the crop's edge, we see beyond it
    torch.testing.assert_close(cut[inner], padded[inner], atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "factors", [(1.3, 1.0, 1.0), (1.0, 0.7, 1.0), (1.0, 1.0, 0.6), (0.8, 1.2, 1.0), (0.7, 0.8, 0.5)]
)
def test_jitter_is_torchvisions_one_image_at_a_time(factors: tuple[float, float, float]) -> None:
    images = 60 + planes(3) * 0.4  # far from black and white, where torchvision cuts between its steps
    others = torch.tensor([[1.0, 1.0, 1.0], list(factors), [1.1, 0.9, 1.1]])
    expected = v2.adjust_brightness(images[1] / 255, factors[0])
    expected = v2.adjust_saturation(v2.adjust_contrast(expected, factors[1]), factors[2]) * 255
    changed = operations.jitter(images, others)
    torch.testing.assert_close(changed[1], expected, atol=0.1, rtol=0)  # torchvision's grey is (0.2989, 0.587, 0.114)
    torch.testing.assert_close(changed[0], images[0], atol=1e-3, rtol=0)


def test_jitter_clamps_to_0_and_255() -> None:
    changed = operations.jitter(planes(2), torch.tensor([[2.0, 2.0, 2.0], [0.0, 1.0, 1.0]]))
    assert (changed.min(), changed.max()) == (0, 255)


def applied(images: Tensor, kinds: Tensor, strengths: Tensor) -> Tensor:
    """In TrivialAugment's space."""
    return operations.apply(images, kinds, strengths, operations.Grouped.of(kinds), operations.WIDE)


ALONE = {  # strength 0.5 of each operation as torchvision does it, on uint8
    "identity": lambda image: image,
    "brightness": lambda image: v2.adjust_brightness(image, 1.495),
    "contrast": lambda image: v2.adjust_contrast(image, 1.495),
    "saturation": lambda image: v2.adjust_saturation(image, 1.495),
    "sharpness": lambda image: v2.adjust_sharpness(image, 1.495),
    "posterize": lambda image: v2.posterize(image, 5),
    "solarize": lambda image: v2.solarize(image, 127.5),
    "autocontrast": v2.autocontrast,
    "equalize": v2.equalize,
}


@pytest.mark.parametrize("kind", ALONE)
def test_an_operation_is_torchvisions_and_leaves_the_other_images_alone(kind: str) -> None:
    images = planes(3).mul(0.6).add(40).round()
    kinds = torch.tensor([0, KINDS[kind], 0])
    changed = applied(images, kinds, torch.tensor([1.0, 0.5, -1.0]))
    expected = ALONE[kind](images[1].to(torch.uint8)).float()
    assert float((changed[1] - expected).abs().max()) <= 2  # torchvision rounds between its steps
    assert torch.equal(changed[::2], images[::2])


@pytest.mark.parametrize(
    ("kind", "angle", "move", "shear"),
    [
        ("rotate", -67.5, (0, 0), (0.0, 0.0)),
        ("translate_x", 0.0, (-2, 0), (0.0, 0.0)),
        ("translate_y", 0.0, (0, -2), (0.0, 0.0)),
        ("shear_x", 0.0, (0, 0), (26.3354, 0.0)),
        ("shear_y", 0.0, (0, 0), (0.0, 26.3354)),
    ],
)
def test_a_movement_is_torchvisions(kind: str, angle: float, move: tuple[int, int], shear: tuple[float, float]) -> None:
    images = planes(2, size=28)  # strength 0.5 of the wide space: 28 x 32 / 224 / 2 = 2 pixels, a slope of 0.495
    changed = applied(images, torch.tensor([KINDS[kind]] * 2), torch.tensor([0.5, 0.0]))
    bilinear = v2.InterpolationMode.BILINEAR
    expected = v2.affine(images[0], angle, move, scale=1.0, shear=list(shear), interpolation=bilinear)
    assert float((changed[0] - expected).abs().max()) <= 1.0
    torch.testing.assert_close(changed[1], images[1], atol=1e-3, rtol=0)


def test_trivialaugment_draws_every_operation_at_every_level_and_randaugment_two_at_its_own() -> None:
    trivial = policies.draw(20_000, 0, 0, replace(NOTHING, operations="trivialaugment")).operation
    assert trivial.shape[1] == 1
    assert trivial[:, 0, 0].unique().tolist() == list(range(14))
    assert len(trivial[:, 0, 1].unique()) == 61
    rand = policies.draw(500, 0, 0, EVERYTHING).operation
    assert rand.shape[1] == 2
    assert rand[..., 1].unique().tolist() == [-0.5, 0.5]


def test_erasing_paints_the_hole_and_nothing_else() -> None:
    inputs = torch.ones(2, 3, 8, 8)
    erased = policies.erase(inputs, torch.tensor([[0.25, 0.5, 0.25, 0.5], [0.0, 0.0, 0.0, 0.0]]))
    expected = torch.ones(8, 8)
    expected[2:4, 4:8] = 0
    assert torch.equal(erased[0], expected.expand(3, 8, 8))
    assert torch.equal(erased[1], inputs[1])


MIXUP, CUTMIX = [0.75, 0.0, 0.5, 0.5], [0.75, 1.0, 0.5, 0.5]


def test_mixup_adds_the_images_of_a_pair_and_their_labels() -> None:
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, 4, 4)
    mixed, targets = policies.mix(images, torch.tensor([2, 0, 1]), torch.tensor([MIXUP] * 3), classes=3)
    assert mixed[:, 0, 0, 0].tolist() == [0.25, 0.75, 2.0]  # the third has no partner
    assert targets.tolist() == [[0.25, 0, 0.75], [0.75, 0, 0.25], [0, 1, 0]]


def test_cutmix_pastes_a_patch_and_counts_its_pixels() -> None:
    images = torch.arange(2.0)[:, None, None, None].expand(2, 3, 4, 4)
    mixed, targets = policies.mix(images, torch.tensor([0, 1]), torch.tensor([CUTMIX] * 2), classes=2)
    expected = torch.zeros(4, 4)
    expected[1:3, 1:3] = 1
    assert torch.equal(mixed[0, 1], expected)
    assert torch.equal(mixed[1, 1], 1 - expected)
    assert targets.tolist() == [[0.75, 0.25], [0.25, 0.75]]


@pytest.mark.parametrize(
    ("policy", "patches"),
    [(replace(NOTHING, mixup=1.0), 0.0), (replace(NOTHING, cutmix=1.0), 1.0), (EVERYTHING, 0.5)],
    ids=["mixup", "cutmix", "both"],
)
def test_shares_are_drawn_for_the_kinds_asked_for(policy: AugmentConfig, patches: float) -> None:
    kept, patched, *_ = policies.draw(4000, 0, 0, policy).mix.unbind(1)
    assert float(patched.mean()) == pytest.approx(patches, abs=0.03)
    assert float(kept.mean()) == pytest.approx(0.5, abs=0.03)
    assert kept.min() >= 0
    assert kept.max() <= 1
