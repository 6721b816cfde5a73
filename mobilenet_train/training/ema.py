"""An exponential moving average of the weights, with warm-up."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mobilenet_train import foreach

Places = list[tuple[dict[str, Any], str]]  # a module's parameters or buffers, and the name of one


class Ema:
    """Holds `model`, the average of a network (running statistics included), always in evaluation mode."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model).eval().requires_grad_(False)
        self._averages, self._values = _places(self.model), _places(model)

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Moves the average towards the network after its update number `updates` (from 1).

        Early on the decay is (1 + updates) / (10 + updates), so that the start is forgotten at once and not
        after a dozen epochs.
        """
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averages, values = ([held[name] for held, name in places] for places in (self._averages, self._values))
        foreach.lerp_(averages, values, 1 - decay)


def _places(model: nn.Module) -> Places:
    """Where the tensors to average are (batch-norm's counter of batches is a whole number, and nothing reads it).

    Places and not tensors, since a network may put another tensor in the place of a buffer.
    """
    holders = [held for module in model.modules() for held in (module._parameters, module._buffers)]
    return [(held, name) for held in holders for name, value in held.items() if _is_averaged(value)]


def _is_averaged(value: Tensor | None) -> bool:
    return value is not None and value.is_floating_point()
