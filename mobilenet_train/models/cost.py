"""What a network costs: parameters and multiply-adds."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Cost:
    """Size of a network and work of one forward pass of one image."""

    parameters: int
    multiply_adds: int  # one multiply-accumulate counts as one


def count_costs(model: nn.Module, resolution: int, channels: int = 3) -> Cost:
    """Count the parameters, and the multiply-adds of one image of (channels, resolution, resolution).

    Parameters are all of them, trained or not, shared ones once; batch-norm statistics are not
    parameters. Multiply-adds are those of convolutions and matrix products (fully connected layers,
    attention) in evaluation mode, as the MobileNet papers count them: no normalisation, activation,
    bias or pooling. Any module that takes one (1, channels, resolution, resolution) float tensor
    and can be moved between devices will do. A copy runs one image of zeros on the CPU, so the model, its
    mode, buffers and the random state stay as they are. A model on PyTorch's meta device is counted there:
    nothing is computed then, but it takes PyTorch two to three times as long.
    """
    device = "meta" if any(parameter.is_meta for parameter in model.parameters()) else "cpu"
    shadow = copy.deepcopy(model).to(device, torch.float32).eval()
    with torch.device(device), torch.no_grad(), FlopCounter() as counter:
        shadow(torch.zeros(1, channels, resolution, resolution, dtype=torch.float32))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.flops // 2)


class FlopCounter(TorchDispatchMode):
    """Adds up the floating-point operations of all operators that torch has a formula for.

    torch's own FlopCounterMode also counts by module, and imports torch's compiler for that, which takes 2 s.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled while it counts

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        formula: Callable[..., int] | None = flop_registry.get(operator._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result
