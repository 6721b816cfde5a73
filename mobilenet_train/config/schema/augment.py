"""The group `augment`: what happens to training images."""

from mobilenet_train.config.fields import NULL, Section, flag, number, numbers, one_of, text, whole


def is_area(area: list[float]) -> bool:
    """augment.resized_crop: the least and the largest share of the area."""
    return len(area) == 2 and 0 < area[0] <= area[1] <= 1


class AugmentConfig(Section):
    """What happens to training images, one of the group `augment`."""

    name: str = text("the choice")
    crop_padding: int = whole(
        "pixels of reflected border; a random window of the old size is cut from the padded image",
        0,
        64,
        said="pixels,",
    )
    flip: bool = flag("mirror left to right: one random half of the images, the other half in the next epoch")
    cutout: int = whole(
        "side in pixels of a square painted over with the mean colour, elsewhere in every epoch; 0 = off",
        0,
        4096,
        said="pixels,",
    )
    resized_crop: list[float] | None = numbers(
        "e.g. [0.25, 1.0]: cut out this share of the area, 3:4 to 4:3, enlarged to the resolution",
        "a list of two shares of the area, e.g. [0.25, 1.0]",
        is_area,
        null=NULL,
    )
    brightness: float = number("multiplied by a factor from 1 - this to 1 + this; 0 = off", least=0, most=1)
    contrast: float = number("the same, about the mean grey", least=0, most=1)
    saturation: float = number("the same, about each pixel's grey", least=0, most=1)
    operations: str = one_of(
        "none, trivialaugment (one of 14 operations, any strength) or randaugment (two, of one strength)",
        *("none", "trivialaugment", "randaugment"),
    )
    magnitude: int = whole("randaugment's strength", 0, 30)
    erasing: float = number(
        "share of the images in which a rectangle is painted over with the mean colour", least=0, most=1
    )
    mixup: float = number(
        "alpha of Beta(alpha, alpha): pairs of images added up, and their labels; 0 = off",
        least=0,
        most=100,
        why="the alpha of a beta distribution",
    )
    cutmix: float = number(
        "the same, but a patch of the partner pasted in; with both on, each pair gets one of the two",
        least=0,
        most=100,
        why="the alpha of a beta distribution",
    )
