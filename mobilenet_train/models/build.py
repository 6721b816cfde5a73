"""The network that a configuration describes."""

from dataclasses import asdict

import torch
from torch import nn

from mobilenet_train.config.schema import CustomModelConfig, HybridSNConfig, NetworkConfig, TrainConfig
from mobilenet_train.errors import RunError
from mobilenet_train.factory import call_factory
from mobilenet_train.models.cost import Cost, count_costs, count_costs_checked
from mobilenet_train.models.hybridsn import HybridSN
from mobilenet_train.models.networks import NETWORKS
from mobilenet_train.seeding import WEIGHTS, key


def build_model(config: TrainConfig, num_classes: int, channels: int = 3) -> nn.Module:
    """The network of the configuration, for images of so many channels, with weights drawn from the seed.

    Raises UserError if it cannot be built.
    """
    torch.manual_seed(key(config.seed, WEIGHTS))
    sizes = {"num_classes": num_classes, "resolution": config.dataset.resolution}
    if isinstance(config.model, NetworkConfig):
        options = asdict(config.model)
        name, *_ = (options.pop(key) for key in ("name", "weights", "freeze", "in_channels"))
        return NETWORKS[name](**sizes, in_channels=channels, **options)
    if isinstance(config.model, HybridSNConfig):
        options = {key: value for key, value in asdict(config.model).items() if key != "name"}
        try:
            return HybridSN(**{**options, **sizes, "in_channels": channels})
        except ValueError as error:
            raise RunError(f"model=hybridsn does not go with dataset={config.dataset.name}: {error}") from error
    assert isinstance(config.model, CustomModelConfig)
    factory = config.model.factory
    if channels != 3:  # functions for colour images need not know of channels
        sizes["in_channels"] = channels
    model = call_factory("model.factory", factory, **sizes, **config.model.args)
    if not isinstance(model, nn.Module):
        raise RunError(f"model.factory={factory} returned {type(model).__name__}; return a torch.nn.Module")
    return model


def cost_of(model: nn.Module, config: TrainConfig, num_classes: int, channels: int = 3) -> Cost:
    """What the network costs in one forward pass. Raises RunError for one of one's own that cannot be trained."""
    if isinstance(config.model, CustomModelConfig):
        said = f"model.factory={config.model.factory}"
        return count_costs_checked(model, config.dataset.resolution, num_classes, said, channels)
    return count_costs(model, config.dataset.resolution, channels)
