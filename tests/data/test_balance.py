"""Classes of unequal size: weights with a mean of one, and an order that shows every class equally often."""

import pytest
import torch

from mobilenet_train.data.balance import balanced_order, class_weights, places_of_draws
from mobilenet_train.training.step import training_loss
from tests.data.images_for_tests import CROP_AND_FLIP, NOTHING, numbered, train_batches

UNEVEN = torch.tensor([0] * 70 + [1] * 25 + [2] * 5)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


def test_weights_are_inverse_to_the_counts_and_one_on_average() -> None:
    weights = class_weights(UNEVEN, 3)
    assert (weights * torch.tensor([70, 25, 5])).tolist() == pytest.approx([100 / 3] * 3)
    assert float(weights[UNEVEN].mean()) == pytest.approx(1)


def test_even_classes_have_weights_of_one() -> None:
    assert class_weights(torch.arange(40) % 4, 4).tolist() == [1.0] * 4


def test_the_weighted_loss_is_a_mean_over_samples_so_that_halves_make_up_a_batch() -> None:
    weights, labels = torch.tensor([0.5, 1.0, 4.0]), UNEVEN[:20]
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(3))
    each = torch.stack([-row.log_softmax(0)[label] * weights[label] for row, label in zip(logits, labels, strict=True)])
    assert float(training_loss(logits, labels, 0.0, weights)) == pytest.approx(float(each.mean()))
    halves = [training_loss(logits[part], labels[part], 0.0, weights) for part in (slice(0, 10), slice(10, 20))]
    assert float(sum(halves) / 2) == pytest.approx(float(each.mean()))


def test_every_class_comes_equally_often_and_small_ones_evenly_repeated() -> None:
    order = balanced_order(UNEVEN, seed=0, epoch=0)
    assert len(order) == 100
    assert sorted(UNEVEN[order].bincount().tolist()) == [33, 33, 34]
    times = order.bincount(minlength=100)
    assert set(times[UNEVEN == 2].tolist()) <= {6, 7}
    assert set(times[UNEVEN == 1].tolist()) == {1, 2}
    assert set(times[UNEVEN == 0].tolist()) == {0, 1}


def test_the_order_is_of_seed_and_epoch_and_shows_all_of_a_large_class_in_time() -> None:
    first = balanced_order(UNEVEN, seed=1, epoch=4)
    torch.rand(3)
    assert torch.equal(first, balanced_order(UNEVEN, seed=1, epoch=4))
    assert not torch.equal(first, balanced_order(UNEVEN, seed=1, epoch=5))
    assert not torch.equal(first, balanced_order(UNEVEN, seed=2, epoch=4))
    seen = torch.cat([balanced_order(UNEVEN, seed=1, epoch=epoch) for epoch in range(12)])
    assert len(seen.unique()) == 100


def test_an_image_that_comes_again_has_draws_of_its_own_and_the_first_time_as_always() -> None:
    order = torch.tensor([3, 1, 3, 0, 1, 3])
    assert places_of_draws(order).tolist() == [3, 1, 4, 0, 2, 5]
    split = numbered(24)
    split.images[:] = split.images[0]
    split.labels[:] = torch.tensor([0] * 23 + [1])
    balanced = train_batches(split, CROP_AND_FLIP, size=24, balanced=True)
    ((images, labels),) = balanced.epoch(0)
    rare = images[labels == 1]
    assert len(rare) == 12
    assert len(rare.flatten(1).unique(dim=0)) > 6


@pytest.mark.parametrize("start", [0, 3])
def test_balanced_batches_follow_that_order_from_any_start(start: int) -> None:
    split = numbered(100)
    even = train_batches(split, NOTHING, balanced=True)
    split.labels[:] = UNEVEN
    order = balanced_order(UNEVEN, seed=0, epoch=2)[start * 8 : 96].split(8)
    for expected, (images, labels) in zip(order, even.epoch(2, start=start), strict=True):
        assert torch.equal(labels, UNEVEN[expected])
        assert torch.equal(images, even.prepare(split.images[expected]))
