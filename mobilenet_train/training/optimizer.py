"""Optimisers and what they decay."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mobilenet_train.config import AdamConfig, OptimConfig, RmspropConfig, SgdConfig
from mobilenet_train.models import MobileNet


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of `config` over the trainable parameters of `model`, fused where torch can."""
    groups = parameter_groups(model, config)
    if isinstance(config, SgdConfig):
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    if isinstance(config, RmspropConfig):
        return TFRMSprop(groups, config.lr, config.alpha, config.eps, config.momentum)
    assert isinstance(config, AdamConfig)
    kind = {"adam": Adam, "adamw": AdamW}[config.name]
    return kind(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), eps=config.eps, fused=True)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Parameters with weight decay, and those without (norms, biases, perhaps depthwise kernels).

    With optim.backbone_lr other than 1, two groups each for the classifier and the rest; `rate_share` is a group's
    share of the rate.
    """
    depthwise = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1}

    def decayed(parameter: Tensor) -> bool:
        if parameter.ndim <= 1:
            return config.decay_norm_and_bias
        return config.decay_depthwise or id(parameter) not in depthwise

    trainable = [p for p in model.parameters() if p.requires_grad]
    parts = [(1.0, trainable)]
    if config.backbone_lr != 1:
        head = head_parameters(model)
        backbone = [p for p in trainable if id(p) not in head]
        parts = [(config.backbone_lr, backbone), (1.0, [p for p in trainable if id(p) in head])]
    groups = [
        {"params": [p for p in part if decayed(p) == decays], "weight_decay": decay, "rate_share": share}
        for share, part in parts
        for decays, decay in ((True, config.weight_decay), (False, 0.0))
    ]
    return [group for group in groups if group["params"]]


def head_parameters(model: nn.Module) -> set[int]:
    """The ids of the classifier's parameters, those that optim.backbone_lr is not for."""
    assert isinstance(model, MobileNet)
    return {id(parameter) for parameter in model.classifier.parameters()}


def penalised_weights(model: nn.Module) -> list[Tensor]:
    """What the L1 penalty is on: the weights of convolutions and fully connected layers."""
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


class Eager(torch.optim.Optimizer):
    """An optimiser that is never compiled: torch's own import its compiler at their first call, which takes 2 s."""

    add_param_group = torch.optim.Optimizer.add_param_group.__wrapped__  # type: ignore[attr-defined]
    state_dict = torch.optim.Optimizer.state_dict.__wrapped__  # type: ignore[attr-defined]
    load_state_dict = torch.optim.Optimizer.load_state_dict.__wrapped__  # type: ignore[attr-defined]
    zero_grad = torch.optim.Optimizer.zero_grad.__wrapped__  # type: ignore[attr-defined]


class SGD(Eager, torch.optim.SGD):
    step = torch.no_grad()(torch.optim.SGD.step.__wrapped__)  # type: ignore[attr-defined]


class Adam(Eager, torch.optim.Adam):
    step = torch.no_grad()(torch.optim.Adam.step.__wrapped__)  # type: ignore[attr-defined]


class AdamW(Eager, torch.optim.AdamW):
    step = torch.no_grad()(torch.optim.Adam.step.__wrapped__)  # type: ignore[attr-defined]


class TFRMSprop(Eager):
    """RMSprop as TensorFlow computes it, which the MobileNet papers' rates and epsilon are for.

    Differs from torch.optim.RMSprop in three places: epsilon is inside the square root, the mean square
    starts at 1, and the rate is applied before the momentum, so that a change of rate acts at once.
    """

    def __init__(self, params: Iterable[Any], lr: float, alpha: float, eps: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p]["square"] = torch.ones_like(p)
                    self.state[p]["velocity"] = torch.zeros_like(p)
            squares = [self.state[p]["square"] for p in params]
            velocities = [self.state[p]["velocity"] for p in params]
            gradients = torch._foreach_add([p.grad for p in params], params, alpha=group["weight_decay"])
            torch._foreach_mul_(squares, group["alpha"])
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_addcdiv_(velocities, gradients, roots, value=group["lr"])
            torch._foreach_sub_(params, velocities)
