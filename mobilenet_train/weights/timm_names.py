"""timm's MobileNets under our names: the same tensors in the same order of layers, called otherwise."""

import re
from collections.abc import Mapping

from torch import Tensor

STEM = {"conv_stem": "features.0.0", "bn1": "features.0.1"}
NORM_EPS = 1e-5  # of batch-norm in all of them


def is_timms(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has timm's names."""
    return "conv_stem.weight" in state


def from_timm(network: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of timm's v1, v2, v3_large or v3_small under our names; what is none of them keeps its name."""
    blocks = _block_numbers(state)
    renamed = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        if block := re.fullmatch(r"blocks\.(\d+\.\d+)\.(.+)", module):
            position, layer = block.groups()
            names = _block(network, state, position)
            module = f"features.{blocks[position]}.{names.get(layer, layer)}"
        else:
            module = {**STEM, **_head(network, len(blocks) + 1)}.get(module, module)
        flat = network.startswith("v3") and key == "conv_head.weight"  # a 1x1 convolution of the pooled maps
        renamed[f"{module}.{tensor}"] = value.flatten(1) if flat else value
    return renamed


def _head(network: str, last: int) -> dict[str, str]:
    """After the blocks: V1 has only a classifier, V2 a convolution too, V3 a hidden layer."""
    if network == "v1":
        return {"classifier": "classifier.1"}
    if network == "v2":
        return {"conv_head": f"features.{last}.0", "bn2": f"features.{last}.1", "classifier": "classifier.1"}
    return {"conv_head": "classifier.0", "classifier": "classifier.3"}


def _block(network: str, state: Mapping[str, Tensor], position: str) -> dict[str, str]:
    """timm's name -> ours for the layers of one block."""
    if f"blocks.{position}.conv.weight" in state:  # V3's last convolution
        return {"conv": "0", "bn1": "1"}
    if network == "v1":
        return {"conv_dw": "depthwise.0", "bn1": "depthwise.1", "conv_pw": "pointwise.0", "bn2": "pointwise.1"}
    expands = f"blocks.{position}.conv_pwl.weight" in state
    excites = f"blocks.{position}.se.conv_reduce.weight" in state
    convolutions = ["conv_pw", "conv_dw", "conv_pwl"] if expands else ["conv_dw", "conv_pw"]
    depthwise = int(expands)
    projection = depthwise + 1 + int(excites)
    names = {"se.conv_reduce": f"block.{depthwise + 1}.fc1", "se.conv_expand": f"block.{depthwise + 1}.fc2"}
    for number, convolution in enumerate(convolutions):
        layer = projection if number == len(convolutions) - 1 else number
        ours = (f"block.{layer}.0", f"block.{layer}.1")
        if network == "v2":  # whose projection is flat
            ours = (
                (f"conv.{layer}", f"conv.{layer + 1}")
                if layer == projection
                else (f"conv.{layer}.0", f"conv.{layer}.1")
            )
        names |= {convolution: ours[0], f"bn{number + 1}": ours[1]}
    return names


def _block_numbers(state: Mapping[str, Tensor]) -> dict[str, int]:
    """timm's "stage.block" -> our position in `features`, which counts from 1 after the stem."""
    places = {tuple(map(int, match.groups())) for key in state if (match := re.match(r"blocks\.(\d+)\.(\d+)\.", key))}
    return {f"{stage}.{block}": number for number, (stage, block) in enumerate(sorted(places), start=1)}
