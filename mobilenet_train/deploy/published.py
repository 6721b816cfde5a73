"""Published ImageNet top-1 and phone latency of the MobileNets, to be quoted and labelled as published.

Sources: MobileNets (arXiv:1704.04861), Tables 6 and 7. The checkpoint tables in TensorFlow's models repository:
research/slim/nets/mobilenet_v1.md (V1, what the paper leaves out) and research/slim/nets/mobilenet/README.md (V2, V3,
and their latency with TF-Lite on the large core of a Pixel 1). V1's latency: MobileNetV2 (arXiv:1801.04381), Table 4.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """What others measured of one network."""

    top1: float  # percent, ImageNet validation
    pixel1_ms: float | None = None


Key = tuple[str, float, int]  # network, width, resolution

V1_PAPER: dict[Key, Published] = {
    ("v1", 1.0, 224): Published(70.6, 113.0),
    ("v1", 0.75, 224): Published(68.4),
    ("v1", 0.5, 224): Published(63.7),
    ("v1", 0.25, 224): Published(50.6),
    ("v1", 1.0, 192): Published(69.1),
    ("v1", 1.0, 160): Published(67.2),
    ("v1", 1.0, 128): Published(64.4),
}
V1_CHECKPOINTS: dict[Key, Published] = {
    ("v1", 0.75, 192): Published(67.2),
    ("v1", 0.75, 160): Published(65.3),
    ("v1", 0.75, 128): Published(62.1),
    ("v1", 0.5, 192): Published(61.7),
    ("v1", 0.5, 160): Published(59.1),
    ("v1", 0.5, 128): Published(56.3),
    ("v1", 0.25, 192): Published(47.7),
    ("v1", 0.25, 160): Published(45.5),
    ("v1", 0.25, 128): Published(41.5),
}
V2_CHECKPOINTS: dict[Key, Published] = {
    ("v2", 1.4, 224): Published(75.0, 138.0),
    ("v2", 1.3, 224): Published(74.4, 123.0),
    ("v2", 1.0, 224): Published(71.8, 73.8),
    ("v2", 1.0, 192): Published(70.7, 55.1),
    ("v2", 1.0, 160): Published(68.8, 40.2),
    ("v2", 1.0, 128): Published(65.3, 27.6),
    ("v2", 1.0, 96): Published(60.3, 17.6),
    ("v2", 0.75, 224): Published(69.8, 55.8),
    ("v2", 0.75, 192): Published(68.7, 41.6),
    ("v2", 0.75, 160): Published(66.4, 30.4),
    ("v2", 0.75, 128): Published(63.2, 21.9),
    ("v2", 0.75, 96): Published(58.8, 14.2),
    ("v2", 0.5, 224): Published(65.4, 28.7),
    ("v2", 0.5, 192): Published(63.9, 21.1),
    ("v2", 0.5, 160): Published(61.0, 14.9),
    ("v2", 0.5, 128): Published(57.7, 9.9),
    ("v2", 0.5, 96): Published(51.2, 6.4),
    ("v2", 0.35, 224): Published(60.3, 19.7),
    ("v2", 0.35, 192): Published(58.2, 14.6),
    ("v2", 0.35, 160): Published(55.7, 10.5),
    ("v2", 0.35, 128): Published(50.8, 6.9),
    ("v2", 0.35, 96): Published(45.5, 4.5),
}
V3_CHECKPOINTS: dict[Key, Published] = {
    ("v3_large", 1.0, 224): Published(75.2, 51.2),
    ("v3_large", 0.75, 224): Published(73.3, 39.8),
    ("v3_small", 1.0, 224): Published(67.5, 15.8),
    ("v3_small", 0.75, 224): Published(65.4, 12.8),
}

PUBLISHED = V1_PAPER | V1_CHECKPOINTS | V2_CHECKPOINTS | V3_CHECKPOINTS
