"""Where a network's parameters and multiply-adds are, layer by layer, and what standard convolutions would cost."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from mobilenet_train.models import Cost, MobileNet, count_costs
from mobilenet_train.models.blocks import SqueezeExcitation

KINDS = ("convolution", "depthwise", "pointwise", "SE", "head", "batch-norm", "other")
COUNTED = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, SqueezeExcitation)


@dataclass(frozen=True)
class Layer:
    """One layer at work on one image."""

    name: str
    kind: str  # one of KINDS
    kernel: int | None  # side in pixels, of a convolution
    in_channels: int
    output: tuple[int, ...]  # (C, H, W), or (C,) behind the pooling
    stride: int | None  # input pixels between two neighbours of the output; MobileNets only
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class NetworkInfo:
    """The cost of one network at one resolution; layers in the order in which they run."""

    name: str
    resolution: int
    layers: tuple[Layer, ...]
    cost: Cost
    standard: Cost | None  # with standard convolutions; None for a network without separable ones

    @property
    def by_kind(self) -> dict[str, Cost]:
        """Totals of each kind of layer that occurs; they add up to `cost`."""
        members = {kind: [layer for layer in self.layers if layer.kind == kind] for kind in KINDS}
        return {kind: total(layers) for kind, layers in members.items() if layers}

    @property
    def megabytes(self) -> dict[str, float]:
        """Size of the parameters in 10^6 bytes, with 4 bytes each (fp32) and with 1 (int8)."""
        return {"fp32": 4 * self.cost.parameters / 1e6, "int8": self.cost.parameters / 1e6}


def describe_network(model: nn.Module, resolution: int, name: str, channels: int = 3) -> NetworkInfo:
    """Runs one image of (channels, resolution, resolution) without computing and notes what each layer costs."""
    layers = _trace(model, (1, channels, resolution, resolution))
    known = total(layers)
    cost = known if isinstance(model, MobileNet) else count_costs(model, resolution, channels)
    if known != cost:  # a network of the user's own, with other layers
        rest = Cost(cost.parameters - known.parameters, cost.multiply_adds - known.multiply_adds)
        layers.append(Layer("(all others)", "other", None, 0, (), None, rest.parameters, rest.multiply_adds))
    return NetworkInfo(name, resolution, tuple(layers), cost, _standard(layers, cost))


def total(layers: Sequence[Layer]) -> Cost:
    """The sum of the layers."""
    return Cost(sum(layer.parameters for layer in layers), sum(layer.multiply_adds for layer in layers))


def _trace(model: nn.Module, shape: tuple[int, ...]) -> list[Layer]:
    """The layers of kinds that we know, in the order in which they run; a copy on the meta device runs once."""
    shadow = copy.deepcopy(model).to("meta", torch.float32).eval()
    chain = isinstance(model, MobileNet)  # its layers run one after the other, so their strides multiply
    layers: list[Layer] = []
    seen: set[int] = set()

    def note(name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        weights = [weight for weight in module.parameters() if id(weight) not in seen]
        seen.update(map(id, weights))
        kind, kernel = _kind(module)
        before = next((layer.stride for layer in reversed(layers) if layer.stride), 1)
        stride = before * module.stride[0] if isinstance(module, nn.Conv2d) else before
        layers.append(
            Layer(
                name=name,
                kind=kind,
                kernel=kernel,
                in_channels=inputs.shape[1],
                output=tuple(output.shape[1:]),
                stride=stride if chain and output.ndim == 4 else None,
                parameters=sum(weight.numel() for weight in weights),
                multiply_adds=_multiply_adds(module, output),
            )
        )

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: note(name, module, inputs[0], output)

    gates = (module for module in shadow.modules() if isinstance(module, SqueezeExcitation))
    in_gates = {layer for gate in gates for layer in gate.children()}  # counted with their gate
    for name, module in shadow.named_modules():
        if isinstance(module, COUNTED) and module not in in_gates:
            module.register_forward_hook(hook(name))
    with torch.device("meta"), torch.no_grad():
        shadow(torch.empty(shape))
    return layers


def _kind(module: nn.Module) -> tuple[str, int | None]:
    """The kind of a layer and, of a convolution, its kernel's side."""
    if isinstance(module, nn.Conv2d):
        if module.groups == module.in_channels > 1:
            return "depthwise", module.kernel_size[0]
        return "pointwise" if module.kernel_size == (1, 1) else "convolution", module.kernel_size[0]
    if isinstance(module, SqueezeExcitation):
        return "SE", None
    return "head" if isinstance(module, nn.Linear) else "batch-norm", None


def _multiply_adds(module: nn.Module, output: Tensor) -> int:
    """Of one image; batch-norm counts none, as in the papers."""
    if isinstance(module, SqueezeExcitation):
        return module.fc1.weight.numel() + module.fc2.weight.numel()
    if isinstance(module, nn.Conv2d | nn.Linear):
        return output[0].numel() * module.weight[0].numel()
    return 0


def _standard(layers: Sequence[Layer], cost: Cost) -> Cost | None:
    """The cost with one standard convolution for each depthwise one and the pointwise one after it.

    It has the depthwise kernel and stride, and goes straight to the pointwise outputs (MobileNets, section 3.1:
    D_K D_K M N D_F D_F instead of D_K D_K M D_F D_F + M N D_F D_F). All else stays, squeeze-and-excite too.
    """
    parameters, multiply_adds = cost.parameters, cost.multiply_adds
    depthwise = norm = None
    for layer in layers:
        if layer.kind == "depthwise":
            depthwise, norm = layer, None
        elif layer.kind == "batch-norm" and depthwise and not norm:
            norm = layer
        elif layer.kind == "pointwise" and depthwise and depthwise.kernel:
            weights = depthwise.kernel**2 * depthwise.in_channels * layer.output[0]
            replaced = total([depthwise, layer, *([norm] if norm else [])])
            parameters += weights - replaced.parameters
            multiply_adds += weights * prod(layer.output[1:]) - replaced.multiply_adds
            depthwise = norm = None
    return None if multiply_adds == cost.multiply_adds else Cost(parameters, multiply_adds)
