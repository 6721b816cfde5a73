"""One update: accumulation, dropout, penalties, clipping, averages, and losses that are not finite."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mobilenet_train.errors import RunError
from mobilenet_train.runs.build import RunParts, build_run
from mobilenet_train.training.ema import Ema
from mobilenet_train.training.fit import check_finite
from mobilenet_train.training.optimizer import build_optimizer
from mobilenet_train.training.step import l1_penalty, measure, record, train_update
from tests.conftest import TINY, configure


def build(*overrides: str) -> RunParts:
    return build_run(configure(*TINY, *overrides))


def linear(parts: RunParts) -> nn.Module:
    """A model without batch-norm in the place of the network, for exact comparisons."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).double()
    parts.state.model = model
    parts.state.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model


def doubles(parts: RunParts) -> list[tuple[Tensor, Tensor]]:
    return [(images.double(), labels) for images, labels in parts.batches.train.epoch(0)]


def test_accumulated_batches_move_the_weights_as_one_large_batch() -> None:
    constant = ("optim.schedule.decay=constant", "optim.schedule.warmup=0")
    parts, whole = build("optim.accumulate=2", *constant), build("batch_size=64", *constant)
    first, second = linear(parts), linear(whole)
    batches = doubles(parts)[:2]
    train_update(parts.state, batches, parts.plan)
    joined = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    train_update(whole.state, [joined], whole.plan)
    assert torch.allclose(first[1].weight, second[1].weight, rtol=0, atol=1e-7)
    assert (parts.state.step, parts.state.batch) == (1, 2)


def test_an_update_depends_on_its_number_and_not_on_what_was_drawn_before() -> None:
    """Dropout is on; a generator that someone else has used must not matter."""
    one, other = build("model.dropout=0.5"), build("model.dropout=0.5")
    batch = next(one.batches.train.epoch(0))
    train_update(one.state, [batch], one.plan)
    torch.rand(1000)
    train_update(other.state, [batch], other.plan)
    ours, theirs = one.state.model.state_dict(), other.state.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_first_update_uses_the_first_learning_rate_of_the_warmup() -> None:
    parts = build("optim.lr=0.5", "optim.schedule.warmup=0.5", "epochs=10")
    train_update(parts.state, [next(parts.batches.train.epoch(0))], parts.plan)
    assert parts.state.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 / (parts.plan.updates / 2))


def test_weight_decay_falls_along_a_straight_line_where_there_is_any() -> None:
    parts = build("optim.weight_decay=0.004", "optim.weight_decay_final=0.5")
    batch, found = next(parts.batches.train.epoch(0)), []
    for _ in range(3):
        train_update(parts.state, [batch], parts.plan)
        found.append([group["weight_decay"] for group in parts.state.optimizer.param_groups])
    per_update = 0.002 / parts.plan.updates
    assert [decayed for decayed, _ in found] == pytest.approx([0.004, 0.004 - per_update, 0.004 - 2 * per_update])
    assert [spared for _, spared in found] == [0.0] * 3


def test_the_l1_penalty_pulls_weights_to_zero_and_stays_out_of_the_loss() -> None:
    plain, penalised = build("optim.lr=0.001"), build("optim.lr=0.001", "optim.l1=0.1")
    batch = next(plain.batches.train.epoch(0))
    for parts in (plain, penalised):
        train_update(parts.state, [batch], parts.plan)
    ours, theirs = (torch.as_tensor(l1_penalty(p.state.model, 1.0)).item() for p in (penalised, plain))
    assert ours < theirs
    assert penalised.state.sums.totals[0] == plain.state.sums.totals[0]


def test_clipping_limits_the_length_of_a_step() -> None:
    parts = build(
        "optim.clip_norm=0.01", "optim.lr=1", "optim.schedule.warmup=0", "optim.momentum=0", "optim.nesterov=false"
    )
    parts.plan.config.optim.weight_decay = 0.0
    before = deepcopy(list(parts.state.model.parameters()))
    parts.state.optimizer = torch.optim.SGD(parts.state.model.parameters(), lr=1.0)
    train_update(parts.state, [next(parts.batches.train.epoch(0))], parts.plan)
    after = parts.state.model.parameters()
    moved = sum(float((a - b).detach().square().sum()) for a, b in zip(after, before, strict=True)) ** 0.5
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_label_smoothing_changes_the_training_loss() -> None:
    plain, smooth = build(), build("label_smoothing=0.2")
    for parts in (plain, smooth):
        train_update(parts.state, [next(parts.batches.train.epoch(0))], parts.plan)
    assert plain.state.sums.score().loss != smooth.state.sums.score().loss


def test_sums_are_means_per_sample_and_percent() -> None:
    parts = build()
    batches = list(parts.batches.train.epoch(0))
    for batch in batches:
        train_update(parts.state, [batch], parts.plan)
    assert parts.state.sums.seen == 32 * len(batches)
    score = parts.state.sums.score()
    assert 1 < score.loss < 5
    assert (score.top1 * parts.state.sums.seen / 100) == pytest.approx(round(score.top1 * parts.state.sums.seen / 100))


def test_a_mixed_image_counts_as_right_where_its_larger_part_is_named() -> None:
    parts = build("batch_size=4")
    labels = torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    logits = torch.eye(3)[[0, 1, 1, 2]]
    record(parts.state, 4, *measure(logits, torch.tensor(1.0), labels, 1.0, torch.float64))
    assert parts.state.sums.score().top1 == 75
    assert parts.state.sums.seen == 4


def test_the_loss_of_a_mixed_image_is_the_mix_of_both_losses() -> None:
    images = torch.randn(4, 3, 32, 32)
    losses = []
    for labels in (
        torch.tensor([1, 1, 1, 1]),
        torch.tensor([2, 2, 2, 2]),
        torch.eye(10)[[1, 1, 1, 1]].lerp(torch.eye(10)[[2, 2, 2, 2]], 0.25),
    ):
        parts = build("label_smoothing=0.1", "model.dropout=0")
        train_update(parts.state, [(images, labels)], parts.plan)
        losses.append(parts.state.sums.score().loss)
    assert losses[2] == pytest.approx(0.75 * losses[0] + 0.25 * losses[1], rel=1e-5)


def test_the_backbone_learns_at_its_share_of_the_learning_rate() -> None:
    parts = build("optim.backbone_lr=0.1", "optim.schedule.warmup=0", "optim.lr=0.5")
    train_update(parts.state, [next(parts.batches.train.epoch(0))], parts.plan)
    head = {id(p) for p in parts.state.model.classifier.parameters()}
    for group in parts.state.optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.5 if id(group["params"][0]) in head else 0.05)
        assert len({id(p) in head for p in group["params"]}) == 1


def test_the_first_loss_that_is_not_finite_is_remembered_with_its_update() -> None:
    parts = build()
    images, labels = next(parts.batches.train.epoch(0))
    train_update(parts.state, [(images, labels)], parts.plan)
    check_finite(parts.state, parts.plan)
    train_update(parts.state, [(images * float("nan"), labels)], parts.plan)
    train_update(parts.state, [(images, labels)], parts.plan)
    with pytest.raises(RunError, match=r"not finite at update 1 .*optim\.lr"):
        check_finite(parts.state, parts.plan)


def test_weights_that_are_not_finite_are_found_even_if_the_loss_was() -> None:
    parts = build()
    next(parts.state.model.parameters()).data[0] = float("inf")
    with pytest.raises(RunError, match="weights were not finite"):
        check_finite(parts.state, parts.plan)


def test_the_average_starts_by_following_and_ends_at_its_decay() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    ema = Ema(layer, decay=0.9)
    nn.init.ones_(layer.weight)
    ema.update(1)
    assert ema.model.weight.item() == pytest.approx(1 - 2 / 11)  # (1 + 1) / (10 + 1) of the old
    nn.init.zeros_(layer.weight)
    before = ema.model.weight.item()
    ema.update(10_000)
    assert ema.model.weight.item() == pytest.approx(0.9 * before)


def test_a_copied_average_follows_the_copied_network_and_leaves_the_first_alone() -> None:
    layer = nn.Linear(1, 1, bias=False)
    ema = Ema(layer, decay=0.5)
    before = ema.model.weight.item()
    copied, its_average = deepcopy((layer, ema))
    nn.init.constant_(copied.weight, 7.0)
    its_average.update(10_000)
    assert its_average.model.weight.item() == pytest.approx((before + 7.0) / 2)
    assert ema.model.weight.item() == before


def test_the_average_follows_a_buffer_that_was_replaced() -> None:
    norm = nn.BatchNorm1d(1)
    ema = Ema(norm, decay=0.5)
    norm.running_mean = torch.ones(1)
    ema.update(10_000)
    assert ema.model.running_mean.item() == pytest.approx(0.5)


def test_the_average_covers_batch_norms_running_statistics() -> None:
    norm = nn.BatchNorm1d(1)
    ema = Ema(norm, decay=0.5)
    norm.running_mean.fill_(1.0)
    ema.update(10_000)
    assert ema.model.running_mean.item() == pytest.approx(0.5)


@pytest.mark.parametrize("optim", ["sgd", "muon"])
def test_in_frozen_epochs_only_the_classifier_learns(optim: str) -> None:
    parts = build(f"optim={optim}", "optim.schedule.warmup=0")
    state, model = parts.state, parts.state.model
    state.optimizer = build_optimizer(model, replace(parts.config.optim, frozen_epochs=1))
    batch = next(parts.batches.train.epoch(0))
    for state.epoch, learning in ((0, {"classifier"}), (1, {"classifier", "features"})):
        before = deepcopy(dict(model.named_parameters()))
        train_update(state, [batch], parts.plan)
        moved = {name.split(".")[0] for name, now in model.named_parameters() if not torch.equal(now, before[name])}
        assert moved == learning
