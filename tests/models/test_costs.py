"""Parameters and multiply-adds of every network, against the numbers of the papers' implementations."""

import copy

import pytest
import torch
from torch import nn

from mobilenet_train.models import NETWORKS, MobileNet, count_costs
from mobilenet_train.models.blocks import DepthwiseSeparable

# network, width, parameters, {resolution: multiply-adds in millions}; 1000 classes. V3 beside 0.75 and 1.0: timm 1.0
IMAGENET = [
    ("v1", 1.0, 4_231_976, {224: 568.74, 192: 418.12, 160: 290.68, 128: 186.40}),
    ("v1", 0.75, 2_585_560, {224: 325.40, 192: 239.27, 160: 166.40, 128: 106.77}),
    ("v1", 0.5, 1_331_592, {224: 149.50, 192: 109.97, 160: 76.52, 128: 49.16}),
    ("v1", 0.25, 470_072, {224: 41.03, 192: 30.21, 160: 21.06, 128: 13.57}),
    ("v2", 0.35, 1_677_128, {224: 59.29, 192: 43.90, 160: 30.87, 128: 20.22}),
    ("v2", 0.5, 1_968_680, {224: 97.13, 192: 71.70, 160: 50.18, 128: 32.58}),
    ("v2", 0.75, 2_636_424, {224: 209.07, 192: 153.94, 160: 107.30, 128: 69.13}),
    ("v2", 1.0, 3_504_872, {224: 300.77, 192: 221.32, 160: 154.08, 128: 99.07}),
    ("v2", 1.4, 6_108_776, {224: 582.20, 192: 428.21, 160: 297.92, 128: 191.31}),
    ("v3_large", 0.35, 2_132_216, {224: 43.89}),
    ("v3_large", 0.5, 2_689_904, {224: 73.66}),
    ("v3_large", 0.75, 3_993_528, {224: 154.56}),
    ("v3_large", 1.0, 5_483_032, {224: 216.59, 192: 160.19, 160: 112.47, 128: 73.43}),
    ("v3_large", 1.25, 7_551_976, {224: 355.22}),
    ("v3_large", 1.5, 9_766_088, {224: 486.93}),
    ("v3_small", 0.35, 1_358_808, {224: 15.95}),
    ("v3_small", 0.5, 1_593_224, {224: 24.19}),
    ("v3_small", 0.75, 2_041_872, {224: 43.40}),
    ("v3_small", 1.0, 2_542_856, {224: 56.51, 192: 42.07, 160: 29.85, 128: 19.85}),
    ("v3_small", 1.25, 3_205_384, {224: 90.80}),
    ("v3_small", 1.5, 3_977_656, {224: 122.67}),
]

# network, parameters, {strides dropped: multiply-adds in millions}; ten classes
CIFAR = [
    ("v1", 3_217_226, {0: 11.60, 1: 46.35, 2: 175.56, 3: 611.56}),
    ("v2", 2_236_682, {0: 6.12, 1: 24.46, 2: 87.98, 3: 296.47}),
    ("v3_large", 4_214_842, {0: 7.09, 1: 20.10, 2: 66.46, 3: 227.48}),
    ("v3_small", 1_528_106, {0: 2.17, 1: 5.50, 2: 17.51, 3: 60.76}),
]


def build(name: str, **options: object) -> MobileNet:
    """The network without memory or initialisation: counting needs only its shapes."""
    with torch.device("meta"):
        return NETWORKS[name](**options)


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def millions(multiply_adds: int) -> float:
    return round(multiply_adds / 1e6, 2)


@pytest.mark.parametrize(
    ("name", "width", "resolution", "parameters", "multiply_adds"),
    [
        pytest.param(name, width, resolution, parameters, madds, id=f"{name}-{width}-{resolution}")
        for name, width, parameters, row in IMAGENET
        for resolution, madds in row.items()
    ],
)
def test_imagenet_network_has_the_reference_parameters_and_multiply_adds(
    name: str, width: float, resolution: int, parameters: int, multiply_adds: float
) -> None:
    cost = count_costs(build(name, width_mult=width, resolution=resolution), resolution)
    assert cost.parameters == parameters
    assert millions(cost.multiply_adds) == multiply_adds


@pytest.mark.parametrize(
    ("name", "dropped", "parameters", "multiply_adds"),
    [
        pytest.param(name, dropped, parameters, madds, id=f"{name}-{dropped}-dropped")
        for name, parameters, row in CIFAR
        for dropped, madds in row.items()
    ],
)
def test_ten_class_network_at_32_pixels_has_the_reference_costs(
    name: str, dropped: int, parameters: int, multiply_adds: float
) -> None:
    model = build(name, num_classes=10, resolution=32, stride_plan=dropped)
    cost = count_costs(model, 32)
    assert cost.parameters == parameters
    assert millions(cost.multiply_adds) == multiply_adds
    assert model.stride_plan.final_map == 2**dropped


def test_v1_with_standard_convolutions_costs_what_the_paper_prints() -> None:
    cost = count_costs(build("v1", separable=False), 224)
    assert cost.parameters == 29_294_088
    assert millions(cost.multiply_adds) == 4867.29


def test_depthwise_separable_block_needs_656_weights_where_a_convolution_needs_4608() -> None:
    block = DepthwiseSeparable(16, 32, stride=1, activation="relu6")
    convolutions = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    assert sum(weights(module) for module in convolutions) == 656
    assert weights(nn.Conv2d(16, 32, 3, bias=False)) == 4_608


def test_multiply_adds_follow_the_formulas_of_the_paper() -> None:
    size, kernel, inputs, outputs = 10, 3, 16, 32
    standard = nn.Conv2d(inputs, outputs, kernel, padding=1)
    separable = DepthwiseSeparable(inputs, outputs, stride=1, activation="relu6")
    assert count_costs(standard, size, inputs).multiply_adds == size**2 * kernel**2 * inputs * outputs
    assert count_costs(separable, size, inputs).multiply_adds == size**2 * (kernel**2 * inputs + inputs * outputs)


def test_any_module_is_counted_whatever_its_layers_precision_or_channels() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2 * 8 * 8, 5)
            self.again = self.head

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head((images + torch.zeros(1)).flatten(1))

    cost = count_costs(Own().bfloat16(), 8, channels=2)
    assert (cost.parameters, cost.multiply_adds) == (2 * 8 * 8 * 5 + 5, 2 * 8 * 8 * 5)


def test_counting_leaves_model_and_random_state_alone() -> None:
    model = NETWORKS["v3_small"](num_classes=10, resolution=32, width_mult=0.5)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    count_costs(model, 32)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(torch.get_rng_state(), random)
