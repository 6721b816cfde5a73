"""Evaluation: every image once, whatever the batch size."""

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from mobilenet_train.runs.build import build_run
from mobilenet_train.training.evaluation import Interrupted, batch_sums, evaluate
from tests.conftest import TINY, configure


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_the_score_does_not_depend_on_the_batch_size(size: int) -> None:
    parts = build_run(configure(*TINY, f"eval.batch_size={size}"))
    model = parts.state.model.eval()
    every = list(parts.batches.test)
    images, labels = torch.cat([b[0] for b in every]), torch.cat([b[1] for b in every])
    assert len(labels) == len(parts.dataset.test)
    with torch.no_grad():
        logits = model(images)
    score = evaluate(model, parts.batches.test, parts.runtime, lambda: False)
    assert score.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert score.top1 == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())
    assert score.top5 is None


def test_an_evaluation_is_in_evaluation_mode_and_leaves_the_model_and_the_mode_of_each_layer_alone() -> None:
    parts = build_run(configure(*TINY))
    model = parts.state.model.train()
    next(model.children()).eval()  # as a frozen part is
    modes = [module.training for module in model.modules()]
    before = deepcopy(model.state_dict())
    score = evaluate(model, parts.batches.test, parts.runtime, lambda: False)
    assert score == evaluate(deepcopy(model).eval(), parts.batches.test, parts.runtime, lambda: False)
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_top5_counts_labels_among_the_five_largest_logits() -> None:
    logits = torch.arange(12.0).repeat(3, 1)
    _, top1, top5 = batch_sums(logits, torch.tensor([11, 7, 6]), torch.float64).tolist()
    assert (top1, top5) == (1, 2)


def test_a_stop_ends_the_evaluation() -> None:
    parts = build_run(configure(*TINY))
    with pytest.raises(Interrupted):
        evaluate(parts.state.model, parts.batches.test, parts.runtime, lambda: True)
