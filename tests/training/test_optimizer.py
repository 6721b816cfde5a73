"""Optimisers: what they decay, and TensorFlow's RMSprop."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mobilenet_train.models import mobilenet_v3_large, mobilenet_v3_small
from mobilenet_train.training.optimizer import (
    TFRMSprop,
    build_optimizer,
    orthogonalised,
    parameter_groups,
    penalised_weights,
    pointwise_kernels,
)
from tests.conftest import configure


def test_tf_rmsprop_follows_tensorflows_formula() -> None:
    """mean square <- a ms + (1 - a) g^2 from 1; velocity <- m v + lr g / sqrt(ms + eps); w <- w - velocity."""
    weight = torch.tensor([2.0], requires_grad=True)
    optimizer = TFRMSprop([weight], lr=0.1, alpha=0.9, eps=0.5, momentum=0.8)
    expected = []
    square, velocity, value = 1.0, 0.0, 2.0
    for gradient in (1.0, -3.0, 0.5):
        square = 0.9 * square + 0.1 * gradient**2
        velocity = 0.8 * velocity + 0.1 * gradient / (square + 0.5) ** 0.5
        value -= velocity
        expected.append(value)
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        assert weight.item() == pytest.approx(expected[-1], rel=1e-6)


@pytest.mark.parametrize("way", ["copied", "loaded"])
def test_tf_rmsprop_continues_bit_identically_as_a_copy_and_after_loading(way: str) -> None:
    ends = []
    for interrupted in (False, True):
        weight = torch.tensor([2.0, -1.0], requires_grad=True)
        optimizer = TFRMSprop([weight], lr=0.1, alpha=0.9, eps=0.5, momentum=0.8)
        for update in range(6):
            if interrupted and update == 3 and way == "copied":
                weight, optimizer = deepcopy((weight, optimizer))
            if interrupted and update == 3 and way == "loaded":
                optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
            weight.grad = torch.tensor([update - 2.0, 1.5])
            optimizer.step()
        ends.append((weight, optimizer.state[weight]["square"], optimizer.state[weight]["velocity"]))
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_norms_and_biases_are_not_decayed() -> None:
    model = mobilenet_v3_small(num_classes=10, resolution=32)
    decayed, spared = parameter_groups(model, configure("optim=sgd").optim)
    assert decayed["weight_decay"] == 5e-4
    assert spared["weight_decay"] == 0.0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])


def test_depthwise_kernels_are_spared_if_asked_for() -> None:
    model = mobilenet_v3_small(num_classes=10, resolution=32)
    _, spared = parameter_groups(model, configure("optim=sgd", "optim.decay_depthwise=false").optim)
    assert sum(parameter.ndim == 4 for parameter in spared["params"]) == 11


def test_everything_is_decayed_if_asked_for() -> None:
    model = mobilenet_v3_small(num_classes=10, resolution=32)
    (only,) = parameter_groups(model, configure("optim=sgd", "optim.decay_norm_and_bias=true").optim)
    assert len(only["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", "SGD"), ("rmsprop", "TFRMSprop"), ("adam", "Adam"), ("adamw", "AdamW")],
)
def test_every_optimiser_lowers_a_quadratic(name: str, kind: str) -> None:
    layer = torch.nn.Linear(4, 1)
    optimizer = build_optimizer(layer, configure(f"optim={name}", "optim.lr=0.01").optim)
    assert type(optimizer).__name__ == kind
    losses = []
    for _ in range(20):
        loss = layer(torch.ones(1, 4)).square().sum() + 1
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


SHAPES = ((96, 16), (16, 96), (16, 16), (24, 64), (72, 24), (24, 72), (16, 40))


def random_matrices() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in SHAPES]


def test_orthogonalised_matrices_keep_their_directions_and_have_singular_values_near_one() -> None:
    matrices = random_matrices()
    for matrix, found in zip(matrices, orthogonalised(matrices, torch.float64), strict=True):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        turned = left.T @ found @ right.T  # diagonal if the directions are kept
        assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=1e-8)
        assert values.max() / values.min() > 2
        assert turned.diagonal().min() > 0.5
        assert turned.diagonal().max() < 1.25


def test_muon_takes_as_many_steps_as_it_is_told() -> None:
    (matrix, *_), values = random_matrices(), []
    for steps in (1, 3):
        (found,) = orthogonalised([matrix], torch.float64, steps)
        values.append(torch.linalg.svdvals(found).min().item())
    assert values[0] < values[1]
    layer = torch.nn.Conv2d(16, 8, 1, bias=False)
    assert build_optimizer(layer, configure("optim=muon", "optim.newton_schulz_steps=3").optim).steps == 3


def test_a_matrix_comes_out_the_same_alone_and_beside_others() -> None:
    matrices = random_matrices()
    together = orthogonalised(matrices, torch.float64)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalised([matrix], torch.float64)[0], found, rtol=1e-10, atol=1e-12)


class Counted(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_thirty_matrices_take_few_operations_and_no_look_at_their_values() -> None:
    """So that a GPU is not waited for, and torch.compile finds one graph."""
    kernels = [p.detach().flatten(1) for p in pointwise(mobilenet_v3_large(num_classes=10, resolution=32))]
    assert len(kernels) == 30
    with Counted() as operations:
        expected = orthogonalised(kernels, torch.float32)
    assert operations.count < 200
    whole = torch.compile(orthogonalised, fullgraph=True, backend="eager")(kernels, torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(whole, expected, strict=True))


def pointwise(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    found = pointwise_kernels(model)
    return [parameter for parameter in model.parameters() if id(parameter) in found]


def test_muon_turns_pointwise_kernels_by_its_learning_rate_and_leaves_the_rest_to_sgd() -> None:
    torch.manual_seed(0)
    model = mobilenet_v3_small(num_classes=10, resolution=32)
    config = configure("optim=muon", "optim.lr=0.1", "optim.sgd_lr=0.2", "optim.weight_decay=0").optim
    optimizer = build_optimizer(model, config)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["rate_share"]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(torch.randn(4, 3, 32, 32)).square().mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    turned = []
    for name, parameter in model.named_parameters():
        moved = parameter.detach() - before[name]
        if parameter.ndim == 4 and parameter.shape[2:] == (1, 1) and "fc" not in name:
            assert moved.norm().item() == pytest.approx(0.1 * before[name].norm().item(), rel=1e-4)
            turned.append(name)
        else:  # SGD with Nesterov's first step: (1 + momentum) times the gradient
            assert torch.allclose(moved, -0.2 * 1.9 * gradients[name], atol=1e-6), name
    assert len(turned) == 22


def test_muon_in_bf16_turns_nearly_the_same_way_and_so_does_a_copy_of_it() -> None:
    updates = []
    for products, copied in ((None, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(32, 16, 1, bias=False)
        before = layer.weight.detach().clone()
        optimizer = build_optimizer(layer, configure("optim=muon").optim, products)
        optimizer = deepcopy(optimizer) if copied else optimizer
        (kernel,) = optimizer.param_groups[0]["params"]
        kernel.grad = torch.randn_like(kernel)
        optimizer.step()
        updates.append((kernel.detach() - before).flatten())
    exact, rounded, of_copy = updates
    assert torch.equal(rounded, of_copy)
    assert not torch.equal(rounded, exact)
    assert torch.cosine_similarity(rounded, exact, dim=0) > 0.999


def test_muon_holds_the_length_of_a_kernel() -> None:
    layer = torch.nn.Conv2d(8, 4, 1, bias=False)
    length = layer.weight.norm().item()
    optimizer = deepcopy(build_optimizer(layer, configure("optim=muon").optim))  # as a budget's first updates do
    layer.weight = optimizer.param_groups[0]["params"][0]
    for _ in range(30):
        layer(torch.ones(1, 8, 1, 1)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert layer.weight.norm().item() == pytest.approx(length, rel=0.01)


@pytest.mark.parametrize("zero", ["norm", "kernel"])
def test_a_residual_branch_that_starts_at_zero_is_trained_by_muon(zero: str) -> None:
    """Nothing reaches its kernels before its last norm has moved, so that their first gradients are 0."""
    torch.manual_seed(0)
    kernel, norm = torch.nn.Conv2d(4, 6, 1, bias=False), torch.nn.BatchNorm2d(6)
    torch.nn.init.zeros_({"norm": norm, "kernel": kernel}[zero].weight)
    branch = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1, bias=False), kernel, norm)
    before, images = deepcopy(branch), torch.randn(8, 4, 3, 3)
    optimizer = build_optimizer(branch, configure("optim=muon").optim)
    for _ in range(4):
        (images.mean(1, keepdim=True) + branch(images) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for moved, parameter in zip(branch.parameters(), before.parameters(), strict=True):
        assert moved.isfinite().all()
        assert not torch.equal(moved, parameter)
    assert branch[0].weight.norm().item() == pytest.approx(before[0].weight.norm().item(), rel=0.05)


def test_the_l1_penalty_is_on_convolutions_and_fully_connected_layers() -> None:
    assert len(penalised_weights(mobilenet_v3_small(num_classes=10, resolution=32))) == 54
