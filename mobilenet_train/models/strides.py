"""Which stride-2 layers of a network stay: published strides end in a 1x1 map on small images."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

PUBLISHED_STRIDE = 32  # pixels: the papers' networks halve the image five times
SMALLEST_PUBLISHED_RESOLUTION = 96  # from here up "auto" keeps the published strides
SMALLEST_FINAL_MAP = 4  # below it "auto" drops strides until the final map is at least this wide


@dataclass(frozen=True)
class StridePlan:
    """The strides a network was built with."""

    dropped: int  # stride-2 layers turned to stride 1, the earliest first
    strides: tuple[int, ...]  # of the first convolution and of each block, in order
    final_map: int  # side of the last feature map in pixels, at the resolution the plan was made for

    @property
    def total(self) -> int:
        """What the network divides the side of an image by."""
        return prod(self.strides)


def plan_strides(published: Sequence[int], resolution: int, choice: str | int) -> StridePlan:
    """Decide which of the `published` strides (1 or 2, in network order) stay at `resolution` pixels.

    `choice` is "auto" (from 96 pixels up the published strides, below that the earliest stride-2
    layers become stride 1 until the final map is at least 4x4), "imagenet" (the published strides),
    or how many of the earliest stride-2 layers become stride 1. A stride-2 layer maps n pixels to
    ceil(n / 2). Raises ValueError for a resolution below 1 and for any other choice.
    """
    if resolution < 1:
        raise ValueError(f"resolution={resolution}: must be at least 1 pixel")
    dropped = _count_dropped(published, resolution, choice)
    strides = _drop(published, dropped)
    return StridePlan(dropped, strides, _final_map(strides, resolution))


def _count_dropped(published: Sequence[int], resolution: int, choice: str | int) -> int:
    droppable = sum(stride == 2 for stride in published)
    if choice == "imagenet":
        return 0
    if choice == "auto":
        if resolution >= SMALLEST_PUBLISHED_RESOLUTION:
            return 0
        large_enough = (
            count for count in range(droppable) if _final_map(_drop(published, count), resolution) >= SMALLEST_FINAL_MAP
        )
        return next(large_enough, droppable)
    if isinstance(choice, int) and not isinstance(choice, bool) and 0 <= choice <= droppable:
        return choice
    raise ValueError(f"stride_plan={choice!r}: must be 'auto', 'imagenet' or a number from 0 to {droppable}")


def _drop(published: Sequence[int], count: int) -> tuple[int, ...]:
    earliest = [index for index, stride in enumerate(published) if stride == 2][:count]
    return tuple(1 if index in earliest else stride for index, stride in enumerate(published))


def _final_map(strides: Sequence[int], resolution: int) -> int:
    for stride in strides:
        resolution = ceil(resolution / stride)
    return resolution
