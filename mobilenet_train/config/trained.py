"""Which trained ImageNet weights model.weights can name, for which network and width. Imports no torch."""

from dataclasses import dataclass

TIMM = "timm:"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Trained:
    """Weights that can be downloaded; the top-1 is what their source prints, None where it is not known here."""

    source: str  # as model.weights has it
    network: str
    width: float
    top1: float | None  # percent, ImageNet validation, at 224 pixels
    tag: str = ""  # timm's name for how they were trained
    normalised: tuple[tuple[float, float, float], tuple[float, float, float]] = IMAGENET  # mean and std of their images

    @property
    def overrides(self) -> tuple[str, ...]:
        """What a command line needs to start from them."""
        tag = f".{self.tag}" if find_trained(self.source, self.network, self.width) is not self else ""
        mean, std = (f"[{','.join(map(str, values))}]" for values in self.normalised)
        normalised = () if self.normalised == IMAGENET else (f"dataset.mean={mean}", f"dataset.std={std}")
        return (f"model.weights={self.source}{tag}", *normalised)

    @property
    def repository(self) -> str:
        """Where timm's lie on huggingface.co."""
        return f"timm/{self.source.removeprefix(TIMM)}.{self.tag}"


# torchvision: its DEFAULT weights, as its documentation prints them; timm: its results-imagenet.csv.
# Of one name in timm with two tags the first is the one that timm takes. What timm converted from TensorFlow (tf_...)
# is padded as TensorFlow does, which our V2 and V3 are not; large_075, v2's 035 and 075 it has only untrained.
TRAINED = (
    Trained("torchvision", "v2", 1.0, 72.15),
    Trained("torchvision", "v3_large", 1.0, 75.27),
    Trained("torchvision", "v3_small", 1.0, 67.67),
    Trained("timm:mobilenetv1_100", "v1", 1.0, 75.39, "ra4_e3600_r224_in1k", INCEPTION),
    Trained("timm:mobilenetv1_125", "v1", 1.25, None, "ra4_e3600_r224_in1k", INCEPTION),
    Trained("timm:mobilenetv2_050", "v2", 0.5, 65.93, "lamb_in1k"),
    Trained("timm:mobilenetv2_100", "v2", 1.0, 72.91, "ra_in1k"),
    Trained("timm:mobilenetv2_140", "v2", 1.4, 76.53, "ra_in1k"),
    Trained("timm:mobilenetv3_large_100", "v3_large", 1.0, 75.77, "ra_in1k"),
    Trained("timm:mobilenetv3_large_100", "v3_large", 1.0, 76.31, "ra4_e3600_r224_in1k", INCEPTION),
    Trained("timm:mobilenetv3_small_050", "v3_small", 0.5, 57.92, "lamb_in1k"),
    Trained("timm:mobilenetv3_small_075", "v3_small", 0.75, 65.28, "lamb_in1k"),
    Trained("timm:mobilenetv3_small_100", "v3_small", 1.0, 67.64, "lamb_in1k"),
)


def named(source: str) -> bool:
    """Whether model.weights names weights to be downloaded, not a file."""
    return source == "torchvision" or source.startswith(TIMM)


def trained_weights(network: str, width: float | None = None) -> list[Trained]:
    """What there is for a network, at one width or at all."""
    return [line for line in TRAINED if line.network == network and width in (None, line.width)]


def find_trained(source: str, network: str, width: float) -> Trained | None:
    """The weights that model.weights names, with or without timm's tag; None where there are none of that width."""
    for line in trained_weights(network, width):
        if source in (line.source, f"{line.source}.{line.tag}"):
            return line
    return None


def choices(network: str) -> str:
    """What can be named for a network, in words."""
    return ", ".join(f"{line.source} (width {line.width:g})" for line in trained_weights(network))
