"""The networks and what they cost; knows nothing of training."""

from mobilenet_train.models.cost import Cost, count_costs
from mobilenet_train.models.folding import folded
from mobilenet_train.models.networks import (
    NETWORKS,
    MobileNet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from mobilenet_train.models.strides import StridePlan

__all__ = [
    "NETWORKS",
    "Cost",
    "MobileNet",
    "StridePlan",
    "count_costs",
    "folded",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]
