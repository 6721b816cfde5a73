"""mnet-train: trains MobileNetV1, V2 and V3 from one configuration."""

__version__ = "0.1.0"
