"""Optimisers: what they decay, and TensorFlow's RMSprop."""

import pytest
import torch
from conftest import configure

from mobilenet_train.models import mobilenet_v3_small
from mobilenet_train.training.optimizer import TFRMSprop, build_optimizer, parameter_groups, penalised_weights


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


def test_norms_and_biases_are_not_decayed() -> None:
    model = mobilenet_v3_small(num_classes=10, resolution=32)
    decayed, spared = parameter_groups(model, configure("model=v3_small").optim)
    assert decayed["weight_decay"] == 5e-4
    assert spared["weight_decay"] == 0.0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])


def test_depthwise_kernels_are_spared_if_asked_for() -> None:
    model = mobilenet_v3_small(num_classes=10, resolution=32)
    _, spared = parameter_groups(model, configure("optim.decay_depthwise=false").optim)
    assert sum(parameter.ndim == 4 for parameter in spared["params"]) == 11


def test_everything_is_decayed_if_asked_for() -> None:
    model = mobilenet_v3_small(num_classes=10, resolution=32)
    (only,) = parameter_groups(model, configure("optim.decay_norm_and_bias=true").optim)
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


def test_the_l1_penalty_is_on_convolutions_and_fully_connected_layers() -> None:
    assert len(penalised_weights(mobilenet_v3_small(num_classes=10, resolution=32))) == 54
