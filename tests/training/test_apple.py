"""A run needs no float64 on its device, as Apple's GPUs have none; shown on a CPU that refuses it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mobilenet_train.data import policies
from mobilenet_train.results import EpochResult
from mobilenet_train.runs.build import build_run
from mobilenet_train.runtime import Runtime
from mobilenet_train.training.budget import measure_pace
from mobilenet_train.training.fit import fit
from tests.conftest import TINY, configure

EVERYTHING = ("augment=strong", "ema.decay=0.9", "optim.clip_norm=1", "optim.l1=0.001", "balance=loss")


class RefusesFloat64(TorchDispatchMode):
    """Makes no tensor of that type."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            raise TypeError(
                f"Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it: {func}"
            )
        return result


@pytest.mark.parametrize("name", ["sgd", "muon", "rmsprop", "adam", "adamw"])
def test_a_run_trains_and_evaluates_without_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "sum_dtype", torch.float32)  # as it is for such a device
    parts = build_run(configure(*TINY, f"optim={name}", *EVERYTHING, "dataset.val_fraction=0.2", "epochs=1"))
    with RefusesFloat64():
        measure_pace(parts.state, parts.batches.train, parts.batches.test, parts.plan)
        events = list(fit(parts.state, parts.batches, parts.plan, save=lambda: None))
    (result,) = (event for event in events if isinstance(event, EpochResult))
    assert result.test.loss > 0
    assert result.ema_test is not None


def test_the_device_that_refuses_float64_is_told_from_one_that_does_not() -> None:
    parts = build_run(configure(*TINY, "epochs=1"))
    with RefusesFloat64(), pytest.raises(TypeError, match="float64"):
        list(fit(parts.state, parts.batches, parts.plan, save=lambda: None))


def test_places_kept_within_the_image_give_what_a_border_gives() -> None:
    planes = torch.rand(2, 3, 12, 20) * 255
    across, down = (torch.linspace(-0.2, 1.2, 57).repeat(2, 1) + torch.rand(2, 1) / 50 for _ in range(2))
    found, wanted = (sample(planes, across, down) for sample in (policies.sample_within, policies.sample))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
