"""The first losses of every network, to the digit: what makes a step faster must not change what it does.

V1 and V2 are trained in float64, since rounding in fp32 moves the gradients of their untrained networks by a fifth of a
percent. V3 is trained in fp32, by the compiled kernels and by torch's own. One thread or two: losses agree to 2e-4.
In bf16, where the CPU has it, the losses of V3 are further off, but not far. All that with SGD; with Muon rounding
grows faster, so V3-Small is trained in float64.
"""

from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch

from mobilenet_train.kernels import bindings as kernels
from mobilenet_train.runs.build import build_run
from mobilenet_train.runtime import has_bf16
from mobilenet_train.training.step import train_update
from tests.conftest import configure

UPDATES = 24
SGD = ("optim=sgd", "optim.lr=0.002")
MUON = ("optim=muon", "optim.lr=0.02", "optim.weight_decay=5e-4", "optim.decay_depthwise=true")
SHOWN = (0, 7, 15, 23)  # updates whose losses are GOLDEN, made by this test on 2026-11-22 with torch 2.14.1
GOLDEN = {
    "v1": [2.2969362, 2.2909000, 2.3088874, 2.3321739],
    "v2": [2.3146158, 2.3192437, 2.3283267, 2.3631802],
    "v3_large": [2.3024387, 2.2991943, 2.3082359, 2.3050861],
    "v3_small": [2.3005404, 2.3025918, 2.3022625, 2.3031125],
}
GOLDEN_MUON = [2.3036479, 2.3037629, 2.2643943, 2.2492504]  # of v3_small in float64, made on 2026-11-23


@pytest.fixture(autouse=True)
def usual_dtype() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


@cache
def losses(
    name: str,
    dtype: torch.dtype,
    root: Path,
    precision: str = "fp32",
    optim: tuple[str, ...] = SGD,
    compiled: bool = True,
) -> list[float]:
    """Of the first updates on CIFAR-10 with augmentation, dropout, smoothing, clipping, warm-up and EMA."""
    torch.set_default_dtype(dtype)
    parts = build_run(
        configure(
            f"dataset.root={root}",
            "dataset.download=false",
            "dataset.max_per_class=80",
            f"model={name}",
            "model.width_mult=0.25",
            "model.stride_plan=1",
            "batch_size=32",
            *optim,
            "optim.clip_norm=5",
            "label_smoothing=0.1",
            "ema.decay=0.9",
            "epochs=2",
            "device=cpu",
            "device.threads=1",
            f"device.precision={precision}",
        )
    )
    state, found = parts.state, []
    assert next(state.model.parameters()).dtype == dtype
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(kernels, "library", lambda _=None: None)
        for images, labels in islice(parts.batches.train.epoch(0), UPDATES):
            train_update(state, [(images.to(dtype), labels)], parts.plan)
            found.append(float(state.sums.last_batch[0]))
    return [found[update] for update in SHOWN]


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_the_first_losses_of_v1_and_v2_stay_what_they_are(name: str, cifar10_root: Path) -> None:
    assert losses(name, torch.float64, cifar10_root) == pytest.approx(GOLDEN[name], rel=1e-3)


@pytest.mark.real_data
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", ["v3_large", "v3_small"])
def test_the_first_losses_of_v3_stay_what_they_are(name: str, compiled: bool, cifar10_root: Path) -> None:
    assert losses(name, torch.float32, cifar10_root, compiled=compiled) == pytest.approx(GOLDEN[name], rel=1e-3)


@pytest.mark.real_data
def test_the_first_losses_with_muon_stay_what_they_are(cifar10_root: Path) -> None:
    found = losses("v3_small", torch.float64, cifar10_root, optim=MUON)
    assert found == pytest.approx(GOLDEN_MUON, rel=1e-3)


@pytest.mark.real_data
@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no bf16 instructions")
@pytest.mark.parametrize("name", ["v3_large", "v3_small"])
def test_bf16_stays_near(name: str, cifar10_root: Path) -> None:
    found = losses(name, torch.float32, cifar10_root, "bf16")
    assert found == pytest.approx(GOLDEN[name], rel=2e-3)
    assert found != losses(name, torch.float32, cifar10_root)
