"""The cost of a network, layer by layer, from its name or from a finished run."""

from pathlib import Path
from typing import Any

import torch

from mobilenet_train.errors import ConfigError
from mobilenet_train.inference.loading import load_run
from mobilenet_train.inference.run_path import check_source
from mobilenet_train.models import NETWORKS
from mobilenet_train.models.layer_costs import NetworkInfo, describe_network

LARGEST_RESOLUTION = 4096


def info(
    source: str | Path,
    *,
    width: float | None = None,
    resolution: int | None = None,
    classes: int | None = None,
    stride_plan: str | int | None = None,
    trust_factory: bool = False,
) -> NetworkInfo:
    """The layers and cost of a network by name (v1, v2, v3_large, v3_small), or of a run or checkpoint file.

    By name, width is 1, resolution 224, classes 1000 and stride_plan "auto" unless given. A run has all of them; only
    another resolution can be asked for. Raises ConfigError for what is not possible and RunError if the run cannot be
    loaded.
    """
    if resolution is not None and not 1 <= resolution <= LARGEST_RESOLUTION:
        raise ConfigError(f"resolution={resolution} is not allowed: pixels, from 1 to {LARGEST_RESOLUTION}")
    if source in NETWORKS:
        given = {"width_mult": width, "num_classes": classes, "stride_plan": stride_plan}
        options = {key: value for key, value in given.items() if value is not None}
        return _of_name(str(source), resolution or 224, options)
    for name, value in (("width", width), ("classes", classes), ("stride_plan", stride_plan)):
        if value is not None:
            raise ConfigError(f"{name}={value} goes with a network's name ({', '.join(NETWORKS)}); a run has its own")
    check_source(source, NETWORKS)
    run = load_run(source, trust_factory=trust_factory)
    pre = run.preprocessing
    return describe_network(run.model, resolution or pre.resolution, run.config.model.name, pre.channels)


def _of_name(name: str, resolution: int, options: dict[str, Any]) -> NetworkInfo:
    try:
        with torch.device("meta"):
            model = NETWORKS[name](resolution=resolution, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return describe_network(model, resolution, name)
