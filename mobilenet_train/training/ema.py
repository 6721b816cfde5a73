"""An exponential moving average of the weights, with warm-up."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class Ema:
    """Holds `model`, the averaged network (running statistics included), always in evaluation mode."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, updates: int) -> None:
        """Moves the average towards `model` after its update number `updates` (from 1).

        Early on the decay is (1 + updates) / (10 + updates), so that the start is forgotten at once and not
        after a dozen epochs.
        """
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averages, values = _floating(self.model), _floating(model)
        torch._foreach_lerp_(averages, values, 1 - decay)


def _floating(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers that can be averaged (batch-norm's counter of batches can't, and nothing reads it)."""
    return [value.detach() for value in model.state_dict().values() if value.is_floating_point()]
