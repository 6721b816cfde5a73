"""What others published of the MobileNets: ImageNet top-1, cost and phone latency, each line with its source.

To be quoted and labelled as published. Latency is TF-Lite's on the large core of a Pixel 1.
"""

from dataclasses import dataclass

V1_PAPER = "Howard et al. 2017"  # MobileNets (arXiv:1704.04861), Tables 6 and 7
V2_PAPER = "Sandler et al. 2018"  # MobileNetV2 (arXiv:1801.04381), Table 4
V3_PAPER = "Howard et al. 2019"  # Searching for MobileNetV3 (arXiv:1905.02244), Table 3
# TensorFlow's models repository: research/slim/nets/mobilenet_v1.md for V1, research/slim/nets/mobilenet/README.md
V1_CHECKPOINTS = "Google's MobileNetV1 checkpoints"
V2_CHECKPOINTS = "Google's MobileNetV2 checkpoints"
V3_CHECKPOINTS = "Google's MobileNetV3 checkpoints"


@dataclass(frozen=True)
class Published:
    """One network as a source prints it; None where it prints nothing, or nothing that is used here."""

    source: str
    network: str
    width: float
    resolution: int  # pixels
    top1: float  # percent, ImageNet validation, single crop
    multiply_adds: int | None = None  # millions
    parameters: float | None = None  # millions
    pixel1_ms: float | None = None

    @property
    def name(self) -> str:
        """`v2 0.75 at 224`."""
        return f"{self.network} {self.width:g} at {self.resolution}"


# Of two sources for one network the preferred one comes first. V1's checkpoints: only what its paper leaves out.
PUBLISHED = (
    # source, network, width, pixels, top-1 (%), MAdds (M), parameters (M), Pixel 1 (ms; V1's is printed by V2_PAPER)
    Published(V1_PAPER, "v1", 1.0, 224, 70.6, 569, 4.2, 113.0),
    Published(V1_PAPER, "v1", 0.75, 224, 68.4, 325, 2.6),
    Published(V1_PAPER, "v1", 0.5, 224, 63.7, 149, 1.3),
    Published(V1_PAPER, "v1", 0.25, 224, 50.6, 41, 0.5),
    Published(V1_PAPER, "v1", 1.0, 192, 69.1, 418, 4.2),
    Published(V1_PAPER, "v1", 1.0, 160, 67.2, 290, 4.2),
    Published(V1_PAPER, "v1", 1.0, 128, 64.4, 186, 4.2),
    Published(V1_CHECKPOINTS, "v1", 0.75, 192, 67.2),
    Published(V1_CHECKPOINTS, "v1", 0.75, 160, 65.3),
    Published(V1_CHECKPOINTS, "v1", 0.75, 128, 62.1),
    Published(V1_CHECKPOINTS, "v1", 0.5, 192, 61.7),
    Published(V1_CHECKPOINTS, "v1", 0.5, 160, 59.1),
    Published(V1_CHECKPOINTS, "v1", 0.5, 128, 56.3),
    Published(V1_CHECKPOINTS, "v1", 0.25, 192, 47.7),
    Published(V1_CHECKPOINTS, "v1", 0.25, 160, 45.5),
    Published(V1_CHECKPOINTS, "v1", 0.25, 128, 41.5),
    Published(V2_CHECKPOINTS, "v2", 1.4, 224, 75.0, 582, 6.06, 138.0),
    Published(V2_CHECKPOINTS, "v2", 1.3, 224, 74.4, None, None, 123.0),
    Published(V2_CHECKPOINTS, "v2", 1.0, 224, 71.8, 300, 3.47, 73.8),
    Published(V2_CHECKPOINTS, "v2", 1.0, 192, 70.7, None, None, 55.1),
    Published(V2_CHECKPOINTS, "v2", 1.0, 160, 68.8, None, None, 40.2),
    Published(V2_CHECKPOINTS, "v2", 1.0, 128, 65.3, None, None, 27.6),
    Published(V2_CHECKPOINTS, "v2", 1.0, 96, 60.3, None, None, 17.6),
    Published(V2_CHECKPOINTS, "v2", 0.75, 224, 69.8, 209, 2.61, 55.8),
    Published(V2_CHECKPOINTS, "v2", 0.75, 192, 68.7, None, None, 41.6),
    Published(V2_CHECKPOINTS, "v2", 0.75, 160, 66.4, None, None, 30.4),
    Published(V2_CHECKPOINTS, "v2", 0.75, 128, 63.2, None, None, 21.9),
    Published(V2_CHECKPOINTS, "v2", 0.75, 96, 58.8, None, None, 14.2),
    Published(V2_CHECKPOINTS, "v2", 0.5, 224, 65.4, 97, 1.95, 28.7),
    Published(V2_CHECKPOINTS, "v2", 0.5, 192, 63.9, None, None, 21.1),
    Published(V2_CHECKPOINTS, "v2", 0.5, 160, 61.0, None, None, 14.9),
    Published(V2_CHECKPOINTS, "v2", 0.5, 128, 57.7, None, None, 9.9),
    Published(V2_CHECKPOINTS, "v2", 0.5, 96, 51.2, None, None, 6.4),
    Published(V2_CHECKPOINTS, "v2", 0.35, 224, 60.3, 59, 1.66, 19.7),
    Published(V2_CHECKPOINTS, "v2", 0.35, 192, 58.2, None, None, 14.6),
    Published(V2_CHECKPOINTS, "v2", 0.35, 160, 55.7, None, None, 10.5),
    Published(V2_CHECKPOINTS, "v2", 0.35, 128, 50.8, None, None, 6.9),
    Published(V2_CHECKPOINTS, "v2", 0.35, 96, 45.5, None, None, 4.5),
    Published(V2_PAPER, "v2", 1.4, 224, 74.7),
    Published(V2_PAPER, "v2", 1.0, 224, 72.0, 300),
    Published(V3_CHECKPOINTS, "v3_large", 1.0, 224, 75.2, None, None, 51.2),
    Published(V3_CHECKPOINTS, "v3_large", 0.75, 224, 73.3, None, None, 39.8),
    Published(V3_CHECKPOINTS, "v3_small", 1.0, 224, 67.5, None, None, 15.8),
    Published(V3_CHECKPOINTS, "v3_small", 0.75, 224, 65.4, None, None, 12.8),
    Published(V3_PAPER, "v3_large", 1.0, 224, 75.2, 219, 5.4),
    Published(V3_PAPER, "v3_large", 0.75, 224, 73.3, 155, 4.0),
    Published(V3_PAPER, "v3_small", 1.0, 224, 67.4, 56, 2.5),
    Published(V3_PAPER, "v3_small", 0.75, 224, 65.4, 44, 2.0),
)


def published(network: str, width: float, resolution: int) -> list[Published]:
    """What the sources print of this network at this width and resolution, the preferred source first."""
    key = (network, width, resolution)
    return [line for line in PUBLISHED if (line.network, line.width, line.resolution) == key]


def published_by(source: str, network: str, width: float, resolution: int) -> Published:
    """That source's line, which the table has."""
    (line,) = (line for line in published(network, width, resolution) if line.source == source)
    return line
