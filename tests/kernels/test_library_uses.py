"""Whatever a network is used for as a library, a kernel computes right numbers or torch's own operators do it."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from mobilenet_train.kernels import bindings
from mobilenet_train.models import mobilenet_v3_small
from mobilenet_train.models.blocks import ConvNormActivation, SqueezeExcitation
from mobilenet_train.models.layers import BatchNorm2d

pytestmark = pytest.mark.skipif(bindings.library() is None, reason="installed without a C compiler")

Use = Callable[[], Sequence[Tensor]]
CHANNELS = 24


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(memory_format=torch.channels_last)


class Block(nn.Sequential):
    """A norm, a depthwise convolution with its norm, squeeze-and-excite: all that the kernels know."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        depthwise = ConvNormActivation(CHANNELS, CHANNELS, 3, groups=CHANNELS, activation="hard_swish")
        super().__init__(BatchNorm2d(CHANNELS), depthwise, SqueezeExcitation(CHANNELS))
        for norm in (self[0], depthwise[1]):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, -1, 1)


def trained(block: nn.Module, *, change: Callable[[Tensor], Tensor] = lambda x: x) -> list[Tensor]:
    """Output, gradients and buffers after a step on some images."""
    x = change(images(4, CHANNELS, 6, 5)).requires_grad_()
    y = block(x)
    y.backward(torch.cos(torch.arange(y.numel())).to(y.dtype).view(y.shape))
    return [y.detach(), x.grad, *(p.grad for p in block.parameters()), *block.buffers()]


def assert_as_torch(use: Use, monkeypatch: pytest.MonkeyPatch, tolerance: float = 1e-4) -> None:
    """It gives what it gives without the kernels."""
    ours = use()
    monkeypatch.setattr(bindings, "library", lambda _=None: None)
    for number, (our, torchs) in enumerate(zip(ours, use(), strict=True)):
        assert our.dtype == torchs.dtype
        torch.testing.assert_close(our, torchs, rtol=tolerance, atol=tolerance, msg=lambda m, n=number: f"{n}: {m}")


def test_a_plain_block_is_trained_by_all_kernels(applied: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_as_torch(lambda: trained(Block()), monkeypatch)
    assert applied == ["NormActivation", "DepthwiseNorm", "SqueezeExcite"]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_a_network_of_another_type(kind: torch.dtype, applied: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_as_torch(lambda: trained(Block().to(kind), change=lambda x: x.to(kind)), monkeypatch)
    assert not applied


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


@pytest.mark.parametrize("part", ["0", "1.0", "1.1", "2.fc1"])
def test_a_parametrised_weight(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> list[Tensor]:
        block = Block()
        parametrize.register_parametrization(block.get_submodule(part), "weight", Doubled())
        return trained(block)

    assert_as_torch(use, monkeypatch)


@pytest.mark.parametrize("part", ["0", "1.0", "1.1", "2.fc1"])
def test_a_pruned_weight_is_trained_for_more_than_one_step(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> list[Tensor]:
        block = Block()
        prune.l1_unstructured(block.get_submodule(part), "weight", amount=0.5)
        return [*trained(block), *trained(block)]

    assert_as_torch(use, monkeypatch)


def strided(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor + 1e30], -1)[..., 0]


def expanded(tensor: Tensor) -> Tensor:
    return tensor.flatten()[:1].expand(tensor.numel()).view(tensor.shape) if tensor.dim() == 1 else strided(tensor)


def in_double(tensor: Tensor) -> Tensor:
    return tensor.double()


@pytest.mark.parametrize("change", [strided, expanded])
def test_parameters_and_statistics_of_another_order(
    change: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(name: str) -> list[Tensor]:
        block = Block()
        with torch.no_grad():
            other = change(dict(block.state_dict(keep_vars=True))[name].clone())
        other.requires_grad_("running" not in name)
        y = functional_call(block, {name: other}, (images(4, CHANNELS, 6, 5),))
        y.backward(torch.ones_like(y))
        return [y.detach(), other.grad if "running" not in name else other.detach()]

    for name, _ in Block().state_dict().items():
        if "tracked" not in name and not ("running" in name and change is expanded):  # torch refuses to write there
            with monkeypatch.context() as patch:
                assert_as_torch(lambda name=name: use(name), patch)


def without(**settings: object) -> Callable[[], nn.Module]:
    def block() -> nn.Module:
        made = Block()
        made[0] = BatchNorm2d(CHANNELS, **settings)
        made[1][1] = BatchNorm2d(CHANNELS, **settings)
        return made

    return block


def untracked() -> nn.Module:
    block = Block()
    block[0].track_running_stats = block[1][1].track_running_stats = False
    return block


def frozen() -> nn.Module:
    block = Block()
    block[0].eval()
    block[1][1].eval()
    return block


def convolution(**settings: object) -> Callable[[], nn.Module]:
    def block() -> nn.Module:
        made = Block()
        torch.manual_seed(1)
        given = {"padding": 1, "groups": CHANNELS, "bias": False} | settings
        made[1][0] = nn.Conv2d(CHANNELS, CHANNELS, 3, **given)
        return made

    return block


@pytest.mark.parametrize(
    "block",
    [
        without(affine=False),
        without(track_running_stats=False),
        without(momentum=None),
        untracked,
        frozen,
        convolution(bias=True),
        convolution(padding=0),
        convolution(padding="same"),
        convolution(padding=2, dilation=2),
        convolution(padding_mode="reflect"),
        convolution(stride=4),
        convolution(stride=(1, 2)),
        convolution(groups=CHANNELS // 2),
    ],
)
def test_other_norms_and_convolutions(
    block: Callable[[], nn.Module], applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_as_torch(lambda: trained(block()), monkeypatch)
    assert "DepthwiseNorm" not in applied


def test_two_activations_after_a_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> list[Tensor]:
        block = Block()
        block[1].append(nn.ReLU6())
        return trained(block)

    assert_as_torch(use, monkeypatch)


@pytest.mark.parametrize("part", [0, 2])
def test_a_wrong_number_of_channels_is_torchs_error(part: int) -> None:
    with pytest.raises(RuntimeError, match=r"running_mean should contain 32|mat1 and mat2 shapes"):
        Block()[part](images(4, 32, 6, 5))


def test_images_that_are_views_of_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    every_other = trained(Block(), change=lambda x: torch.cat([x, x], 3)[..., ::2].detach())
    for change in (torch._neg_view, lambda x: x[:, :, :, :1].expand_as(x).detach(), lambda x: x.contiguous()):
        with monkeypatch.context() as patch:
            assert_as_torch(lambda change=change: trained(Block(), change=lambda x: change(x).detach()), patch)
    assert all(torch.isfinite(tensor.double()).all() for tensor in every_other)


@contextmanager
def default_type() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("context", [default_type, lambda: torch.device("meta")])
def test_another_default_type_or_device(context: Callable, applied: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> list[Tensor]:
        block, x = Block(), images(4, CHANNELS, 6, 5)
        with context():
            y = block(x)
            y.backward(torch.ones_like(y))
        return [y.detach(), *(p.grad for p in block.parameters())]

    assert_as_torch(use, monkeypatch)
    assert applied == ["NormActivation", "DepthwiseNorm", "SqueezeExcite"]


def test_a_backward_pass_within_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> list[Tensor]:
        block = Block()
        y = block(images(4, CHANNELS, 6, 5))
        with torch.autocast("cpu", torch.bfloat16):
            y.backward(torch.ones_like(y))
        return [p.grad for p in block.parameters()]

    assert_as_torch(use, monkeypatch, tolerance=2e-2)


def test_saved_maps_that_hooks_packed_in_another_order(applied: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> list[Tensor]:
        with saved_tensors_hooks(lambda x: x.contiguous(), lambda x: x):
            return trained(Block())

    assert_as_torch(use, monkeypatch)
    assert applied == ["NormActivation", "DepthwiseNorm", "SqueezeExcite"]


def test_a_backward_pass_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> list[Tensor]:
        block = Block()
        y = block(images(4, CHANNELS, 6, 5))
        y.sum().backward(retain_graph=True)
        y.mean().backward()
        return [p.grad for p in block.parameters()]

    assert_as_torch(use, monkeypatch)


def test_running_statistics_that_the_graph_needs_are_not_moved_unnoticed() -> None:
    block = Block()
    penalty = (block[0].running_mean.detach() * block[0].weight).square().sum()
    block(images(4, CHANNELS, 6, 5))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        penalty.backward()


# What has to see every operator


def gradients_by_torch_func() -> list[Tensor]:
    block = Block()
    parameters, buffers = (
        {n: t.detach() for n, t in named} for named in (block.named_parameters(), block.named_buffers())
    )

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(block, (parameters, buffers), (x,)).square().sum()

    return list(torch.func.grad(loss)(parameters, buffers, images(4, CHANNELS, 6, 5)).values())


def slopes_by_torch_func() -> list[Tensor]:
    x = images(4, CHANNELS, 6, 5)
    block = without(track_running_stats=False)()  # torch's rule: what is captured is not written
    return list(torch.func.jvp(block, (x,), (torch.ones_like(x),)))


def slopes_by_dual_numbers() -> list[Tensor]:
    x = images(4, CHANNELS, 6, 5)
    with forward_ad.dual_level():
        y = Block()(forward_ad.make_dual(x, torch.ones_like(x)))
        return [tensor.detach() for tensor in forward_ad.unpack_dual(y)]


def each_image_by_vmap() -> list[Tensor]:
    block = without(track_running_stats=False)()
    return [torch.vmap(block)(images(12, CHANNELS, 6, 5).view(3, 4, CHANNELS, 6, 5)).detach()]


def traced_by_jit() -> list[Tensor]:
    x = images(4, CHANNELS, 6, 5)
    return [torch.jit.trace(Block(), x, check_trace=False)(x + 1).detach()]


def traced_by_make_fx() -> list[Tensor]:
    x, block = images(4, CHANNELS, 6, 5), Block()
    graph = make_fx(lambda x: block(x))(x)
    return [graph(x + 1).detach()]


class NormsAreLeaves(fx.Tracer):
    """torch's own batch-norm asks for its input's dimensions, which a tracer does not know."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.BatchNorm2d) or super().is_leaf_module(module, name)


def traced_by_fx() -> list[Tensor]:
    block = Block()
    return [fx.GraphModule(block, NormsAreLeaves().trace(block))(images(4, CHANNELS, 6, 5)).detach()]


def counted_operations() -> list[Tensor]:
    with FlopCounterMode(display=False) as counter:
        Block()(images(4, CHANNELS, 6, 5))
    return [torch.tensor(counter.get_total_flops())]


def compiled() -> list[Tensor]:
    return trained(torch.compile(Block(), backend="aot_eager", fullgraph=True))


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "use",
    [
        gradients_by_torch_func,
        slopes_by_torch_func,
        slopes_by_dual_numbers,
        each_image_by_vmap,
        traced_by_jit,
        traced_by_make_fx,
        traced_by_fx,
        counted_operations,
        compiled,
    ],
)
def test_what_has_to_see_every_operator(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_as_torch(use, monkeypatch)


def test_a_batch_of_gradients_is_refused() -> None:
    x = images(4, CHANNELS, 6, 5).requires_grad_()
    y = Block()(x)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(y, x, torch.ones(3, *y.shape), is_grads_batched=True)


def test_gradients_of_gradients_are_refused() -> None:
    x = images(4, CHANNELS, 6, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(Block()(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# Hooks


def network() -> nn.Module:
    torch.manual_seed(0)
    made = mobilenet_v3_small(num_classes=10, resolution=32, dropout=0.0)
    return made.to(memory_format=torch.channels_last)


def assert_all_see_torchs(outputs: dict[str, Tensor], inputs: dict[str, Tensor], model: nn.Module) -> None:
    """Every module was seen once, and a norm's output is its own, before the activation."""
    modules = dict(model.named_modules())
    assert outputs.keys() == modules.keys()
    for name, module in modules.items():
        if isinstance(module, nn.BatchNorm2d) and module.training:
            wanted = nn.functional.batch_norm(
                inputs[name], None, None, module.weight, module.bias, True, eps=module.eps
            )
            torch.testing.assert_close(outputs[name], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("everywhere", [True, False], ids=["a global hook", "hooks"])
def test_every_forward_hook_fires_with_its_modules_numbers(training: bool, everywhere: bool) -> None:
    model = network().train(training)
    names = {module: name for name, module in model.named_modules()}
    inputs, outputs = {}, {}

    def hook(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        assert names[module] not in outputs
        inputs[names[module]], outputs[names[module]] = given[0].detach().clone(), made.detach().clone()

    if everywhere:
        handles = [register_module_forward_hook(hook)]
    else:
        handles = [module.register_forward_hook(hook) for module in model.modules()]
    model(images(4, 3, 32, 32)).sum().backward()
    for handle in handles:
        handle.remove()
    assert_all_see_torchs(outputs, inputs, model)


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_forward_pre_hook"])
def test_every_other_hook_fires(register: str) -> None:
    model, seen = network(), []
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # torch refuses full backward hooks around what is written in place
    handles = [
        getattr(module, register)(lambda *_, name=name: seen.append(name)) for name, module in model.named_modules()
    ]
    model(images(4, 3, 32, 32).requires_grad_()).sum().backward()
    for handle in handles:
        handle.remove()
    assert sorted(seen) == sorted(name for name, _ in model.named_modules())


def test_a_hook_on_one_layer_changes_what_follows_and_leaves_the_others_to_the_kernels(
    applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def use() -> list[Tensor]:
        block = Block()
        block[1][1].register_forward_hook(lambda *seen: seen[-1] * 3)
        return trained(block)

    assert_as_torch(use, monkeypatch)
    assert applied == ["NormActivation", "NormActivation", "SqueezeExcite"]  # both norms, each by itself


@pytest.mark.parametrize("part", ["1.0", "1.1", "1.2", "2.fc1"])
def test_a_forward_put_in_place_of_a_layers_own(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> list[Tensor]:
        block = Block()
        layer = block.get_submodule(part)
        forward = layer.forward
        layer.forward = lambda x: forward(x) * 3
        return trained(block)

    assert_as_torch(use, monkeypatch)


# What the C itself does


def test_an_infinite_input_is_not_a_variance_of_zero() -> None:
    norm, x = BatchNorm2d(16), images(4, 16, 4, 4)
    x[0, 0, 0, 0] = torch.inf
    norm(x)
    wanted = nn.BatchNorm2d(16)
    wanted(x)
    torch.testing.assert_close(norm.running_var, wanted.running_var, equal_nan=True)
    assert norm.running_var[0].isnan()


def norm_call(**changes: object) -> Callable[[], None]:
    """norm_forward as it is called, but for some arguments."""
    x, parameters = images(4, 16, 4, 4), [torch.ones(16) for _ in range(6)]
    statistics = bindings.Statistics(*parameters[4:], 0.1, 1e-5, 0)
    arguments = {
        "x": x,
        "y": torch.empty_like(x),
        "norm": bindings.forward_norm(parameters[:2], parameters[2:4], statistics),
        "rows": 64,
        "channels": 16,
        "threads": 1,
    }
    library = bindings.library()
    assert library is not None
    return lambda: library.norm_forward(*(arguments | changes).values())


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(16),
        torch.ones(4, 16, 4, 4),
        torch.ones(4, 16, 4, 4).bfloat16(),
        torch.ones(4, 16, 4, 4, device="meta"),
    ],
)
def test_an_argument_that_the_c_would_misread_is_refused(x: Tensor) -> None:
    norm_call()()
    with pytest.raises((TypeError, RuntimeError, ctypes.ArgumentError)):
        norm_call(x=x)()


def test_too_few_arguments_are_refused() -> None:
    library = bindings.library()
    assert library is not None
    with pytest.raises(TypeError, match="at least 6 arguments"):
        library.norm_forward(images(4, 16, 4, 4))


def test_no_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="norm_forward"):
        norm_call(channels=2**58, rows=2)()
