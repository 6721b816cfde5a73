"""What a network costs: parameters and multiply-adds."""

import copy
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from mobilenet_train.errors import RunError


def _flop_formulas() -> dict[Any, Callable[..., int]]:
    """torch's table of operators, imported without triton, a compiler for GPUs that it only names.

    triton takes a tenth of a second, and under Python 3.14 complains at exit of modules that are never collected.
    """
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # it warns where there is no triton
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # Python's mark for what cannot be imported
    from torch.utils.flop_counter import flop_registry

    if sys.modules["triton"] is None:
        del sys.modules["triton"]
    return flop_registry


FLOP_FORMULAS = _flop_formulas()
IMAGES_CHECKED = 2  # one would hide a network that mixes its images up


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
    with torch.no_grad():
        _, operations = _forward(model, (1, channels, resolution, resolution))
    return Cost(sum(parameter.numel() for parameter in model.parameters()), operations // 2)


def count_costs_checked(model: nn.Module, resolution: int, num_classes: int, said: str, channels: int = 3) -> Cost:
    """The same of a network of the user's own, after a check that it can be trained: two images pass through it.

    said: how the message begins. Raises RunError that says what the network is or gives, and what is expected.
    """
    if any(is_lazy(value) for value in (*model.parameters(), *model.buffers())):
        raise RunError(
            f"{said} returned a network with lazy modules, which have no weights yet: give layers their sizes"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RunError(f"{said} returned a network without a parameter to train: requires_grad of one must be True")
    odd = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} - {torch.float32}
    if odd:
        raise RunError(f"{said} returned a network in {odd.pop()}: leave it in float32, device.precision says the rest")
    shape = (IMAGES_CHECKED, channels, resolution, resolution)
    try:
        with torch.enable_grad():
            logits, operations = _forward(model, shape)
    except Exception as error:  # of the user's own code
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"{said} returned a network that fails on images of the shape {shape} with {reason}") from error
    wanted = (IMAGES_CHECKED, num_classes)
    if (found := _not_logits(logits, wanted)) is not None:
        raise RunError(
            f"{said} returned a network that gives {found}: give floating-point logits of the shape {wanted}"
        )
    return Cost(sum(parameter.numel() for parameter in model.parameters()), operations // 2 // IMAGES_CHECKED)


def _forward(model: nn.Module, shape: tuple[int, ...]) -> tuple[Any, int]:
    """What a copy of the network gives for images of zeros, and the floating-point operations of that."""
    device = "meta" if any(parameter.is_meta for parameter in model.parameters()) else "cpu"
    shadow = copy.deepcopy(model).to(device, torch.float32).eval()
    with torch.device(device), FlopCounter() as counter:
        output = shadow(torch.zeros(shape, dtype=torch.float32))
    return output, counter.flops


def _not_logits(output: Any, wanted: tuple[int, int]) -> str | None:
    """What a network gave that is not logits with a gradient; None if they are."""
    if not isinstance(output, Tensor):
        return f"a {type(output).__name__}"
    if tuple(output.shape) != wanted or not output.is_floating_point():
        return f"{output.dtype} of the shape {tuple(output.shape)}"
    return None if output.requires_grad else "numbers without a gradient (detached, or under torch.no_grad)"


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
        formula = FLOP_FORMULAS.get(operator._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result
