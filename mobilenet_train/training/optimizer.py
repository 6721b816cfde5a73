"""Optimisers, and which parameters have weight decay."""

import operator
from collections.abc import Callable, Iterable, Sequence
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn

from mobilenet_train import foreach
from mobilenet_train.config.schema import AdamConfig, MuonConfig, OptimConfig, RmspropConfig, SgdConfig
from mobilenet_train.models import MobileNet

SHORTEST = 1e-12  # of a matrix that has a direction


def build_optimizer(
    model: nn.Module, config: OptimConfig, products: torch.dtype | None = None
) -> torch.optim.Optimizer:
    """The optimiser of `config` over the trainable parameters of `model`, fused where torch can.

    Muon multiplies matrices in the type `products`, which defaults to the kernels' own; bf16 suffices and is faster.
    """
    groups = parameter_groups(model, config)
    if isinstance(config, MuonConfig):
        return Muon(groups, config.sgd_lr, config.sgd_momentum, config.momentum, config.newton_schulz_steps, products)
    if isinstance(config, SgdConfig):
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    if isinstance(config, RmspropConfig):
        return TFRMSprop(groups, config.lr, config.alpha, config.eps, config.momentum)
    assert isinstance(config, AdamConfig)
    kind = {"adam": Adam, "adamw": AdamW}[config.name]
    return kind(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), eps=config.eps, fused=True)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Parameters with weight decay, and those without (norms, biases, perhaps depthwise kernels).

    With optim.backbone_lr other than 1 or optim.frozen_epochs, groups of their own for the classifier and the rest;
    `rate_share` is a group's share of the learning rate, which it gets from the epoch `frozen_epochs` on. For Muon,
    pointwise kernels come in groups with `matrices` set.
    """
    depthwise = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1}
    pointwise = pointwise_kernels(model) if isinstance(config, MuonConfig) else set()
    head = head_parameters(model) if config.backbone_lr != 1 or config.frozen_epochs > 0 else set()
    sgd_share = config.sgd_lr / config.lr if isinstance(config, MuonConfig) else 1.0

    def settings(parameter: Tensor) -> tuple[float, float, bool, int]:
        """Weight decay, share of the learning rate, whether it is one of Muon's matrices, and its frozen epochs."""
        backbone = bool(head) and id(parameter) not in head
        share, frozen = (config.backbone_lr, config.frozen_epochs) if backbone else (1.0, 0)
        if id(parameter) in pointwise:
            return 0.0, share, True, frozen
        spared = parameter.ndim <= 1 and not config.decay_norm_and_bias
        spared |= id(parameter) in depthwise and not config.decay_depthwise
        return 0.0 if spared else config.weight_decay, share * sgd_share, False, frozen

    groups: dict[tuple[float, float, bool, int], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(settings(parameter), []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "rate_share": share, "matrices": matrices}
        | ({"frozen_epochs": frozen} if frozen else {})
        for (decay, share, matrices, frozen), params in groups.items()
    ]


def pointwise_kernels(model: nn.Module) -> set[int]:
    """The ids of the 1x1 convolutions' kernels that batch-norm follows, which is to say those without a bias."""
    layers = (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    return {id(layer.weight) for layer in layers if layer.groups == 1 and layer.bias is None}


def head_parameters(model: nn.Module) -> set[int]:
    """The ids of the classifier's parameters, those that optim.backbone_lr does not apply to."""
    assert isinstance(model, MobileNet)
    return {id(parameter) for parameter in model.classifier.parameters()}


def penalised_weights(model: nn.Module) -> list[Tensor]:
    """What the L1 penalty is on: the weights of convolutions and fully connected layers."""
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


class Eager(torch.optim.Optimizer):
    """An optimiser that is never compiled: torch's own import its compiler at their first call, which takes 2 s."""

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)


class SGD(Eager, torch.optim.SGD):
    """torch's own, never compiled."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class Adam(Eager, torch.optim.Adam):
    """torch's own, never compiled."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class AdamW(Eager, torch.optim.AdamW):
    """torch's own, never compiled."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def has_length(kernel: Tensor) -> bool:
    """Whether it is not 0 throughout, for which a GPU has to be waited for."""
    return bool(kernel.any())


class Muon(SGD):
    """Momentum made orthogonal for pointwise kernels (Muon, Jordan et al. 2024), SGD with Nesterov for all others.

    A kernel (out, in, 1, 1) is a matrix; its update is the nearest matrix that turns all directions by the same
    amount. Batch-norm follows these kernels and takes out their length, so the length is held and the learning rate
    is the length of an update as a share of it. A kernel that starts at 0 has no length to hold, and is left to SGD.
    torch.optim.Muon takes matrices only and always multiplies them in bf16, which few CPUs have.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        sgd_momentum: float,
        momentum: float,
        steps: int,
        products: torch.dtype | None,
    ) -> None:
        groups = [group | {"momentum": momentum if group["matrices"] else sgd_momentum} for group in groups]
        on_gpu = groups[0]["params"][0].is_cuda  # elsewhere the fused loop ends in other last bits
        super().__init__(groups, lr=lr, momentum=sgd_momentum, nesterov=True, foreach=not on_gpu, fused=on_gpu)
        self.steps, self.products = steps, products
        for kernel in (kernel for group in groups if group["matrices"] for kernel in group["params"]):
            if has_length(kernel):
                self.state[kernel] = {"velocity": torch.zeros_like(kernel), "length": kernel.detach().norm()}

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: torch's own leaves out all attributes of a subclass."""
        return super().__getstate__() | {"steps": self.steps, "products": self.products}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update from the gradients; a closure is not supported. Matrices' gradients are None afterwards."""
        assert closure is None
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if self._turns(kernel)] if group["matrices"] else []
            if kernels:
                self._turn(kernels, [kernel.grad for kernel in kernels], group["lr"], group["momentum"])
            for kernel in kernels:
                kernel.grad = None  # so that SGD leaves it alone
        super().step()

    def _turns(self, kernel: Tensor) -> bool:
        """Whether it has a gradient, and had a length at the start."""
        return kernel.grad is not None and "length" in self.state[kernel]

    def _turn(
        self, kernels: list[Tensor], gradients: list[Tensor], learning_rate: float | Tensor, momentum: float
    ) -> None:
        velocities, lengths = ([self.state[kernel][name] for kernel in kernels] for name in ("velocity", "length"))
        foreach.mul_(velocities, momentum)
        foreach.add_(velocities, gradients)
        ahead = foreach.add(gradients, velocities, alpha=momentum)
        products = self.products or kernels[0].dtype
        turned = orthogonalised([matrix.flatten(1) for matrix in ahead], products, self.steps)
        directions = [direction.view_as(kernel) for direction, kernel in zip(turned, kernels, strict=True)]
        for tensors in (kernels, directions):
            norms = foreach.norm(tensors)
            foreach.clamp_min_(norms, SHORTEST)  # a gradient of 0 has no direction, and moves nothing
            foreach.mul_(tensors, foreach.div(lengths, norms))
        if isinstance(learning_rate, Tensor):  # on the device, for a CUDA graph
            foreach.sub_(kernels, foreach.mul(directions, learning_rate))
        else:
            foreach.sub_(kernels, directions, alpha=learning_rate)


def orthogonalised(matrices: Sequence[Tensor], products: torch.dtype, steps: int = 5) -> list[Tensor]:
    """The matrices (m, n) with their singular values brought near 1 in `steps`, multiplied in the type `products`.

    Those with equally many rows, once they lie, are one stack: the zeros that fill up their columns stay zeros and
    change no product. So a network's thirty kernels take six times as many operations as one, not thirty.
    """
    lying = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    stacks: dict[int, list[int]] = {}
    for number, matrix in enumerate(lying):
        stacks.setdefault(matrix.shape[0], []).append(number)
    turned = list(matrices)
    for rows, numbers in stacks.items():
        stack = lying[0].new_zeros(len(numbers), rows, max(lying[n].shape[1] for n in numbers), dtype=products)
        places = [place[:, : lying[n].shape[1]] for n, place in zip(numbers, stack, strict=True)]
        foreach.copy_(places, [lying[n] for n in numbers])
        for number, matrix in zip(numbers, newton_schulz(stack, steps).to(lying[0].dtype), strict=True):
            found = matrix[:, : lying[number].shape[1]]
            turned[number] = found.T if lying[number] is not matrices[number] else found
    return turned


def newton_schulz(stack: Tensor, steps: int) -> Tensor:
    """So many steps towards singular values of 1, of each matrix in a stack (B, m, n) with m <= n.

    The coefficients are Jordan's (https://kellerjordan.github.io/posts/muon): after five steps singular values are in
    about 0.7 to 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    stack = stack / (torch.linalg.matrix_norm(stack, keepdim=True) + 1e-7)
    for _ in range(steps):
        square = stack @ stack.mT
        stack = torch.baddbmm(stack, torch.baddbmm(square, square, square, beta=b, alpha=c), stack, beta=a)
    return stack


class TFRMSprop(Eager):
    """RMSprop as TensorFlow computes it, which the MobileNet papers' learning rates and epsilon are for.

    Differs from torch.optim.RMSprop in three places: epsilon is inside the square root, the mean square
    starts at 1, and the learning rate is applied before the momentum, so that a change of it acts at once.
    """

    def __init__(self, params: Iterable[Any], lr: float, alpha: float, eps: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": 0.0})
        self._kept: dict[int, tuple[list[Tensor], list[Tensor], list[Tensor]]] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy, and after load_state_dict: the tensors of the state are others."""
        super().__setstate__(state)
        self._kept = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update from the gradients; a closure is not supported."""
        assert closure is None
        for number, group in enumerate(self.param_groups):
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            squares, velocities = self._moments(number, params)
            gradients = foreach.add([p.grad for p in params], params, alpha=group["weight_decay"])
            foreach.mul_(squares, group["alpha"])
            foreach.addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
            roots = foreach.add(squares, group["eps"])
            foreach.sqrt_(roots)
            foreach.mul_(velocities, group["momentum"])
            if isinstance(group["lr"], Tensor):
                foreach.add_(velocities, foreach.mul(foreach.div(gradients, roots), group["lr"]))
            else:
                foreach.addcdiv_(velocities, gradients, roots, value=group["lr"])
            foreach.sub_(params, velocities)

    def _moments(self, group: int, params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Mean squares and velocities of the parameters of a group, kept from update to update."""
        kept, squares, velocities = self._kept.get(group, ([], [], []))
        if len(kept) == len(params) and all(map(operator.is_, kept, params)):
            return squares, velocities
        for p in params:
            if not self.state[p]:
                self.state[p]["square"] = torch.ones_like(p)
                self.state[p]["velocity"] = torch.zeros_like(p)
        squares = [self.state[p]["square"] for p in params]
        velocities = [self.state[p]["velocity"] for p in params]
        self._kept[group] = (params, squares, velocities)
        return squares, velocities
