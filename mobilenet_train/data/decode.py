"""One image file -> stored pixels: decoded, turned upright, made RGB, cut and shrunk to a size."""

import io
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from mobilenet_train.data.listing import BadImageError

ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
COMMON = ("JPEG", "PNG")  # tried first: looking at a JPEG as all the others before takes as long as half its decoding
JPEG, EXIF = b"\xff\xd8\xff", b"Exif\0\0"  # how a file and its metadata start
WIDE_GREYS = ("I", "I;16", "I;16L", "I;16B")


Scale = Callable[[np.ndarray, int, int], np.ndarray]


def fill(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest centred part of (H, W, C) with the shape asked for, scaled to (height, width, C).

    Pixels that have the size already stay as they are. (torch's uint8 kernel: twice as fast as Pillow's.)
    """
    import torch
    from torch.nn import functional as F

    part = torch.from_numpy(_centre(pixels, height, width))[None].permute(0, 3, 1, 2)  # the channels-last layout
    scaled = F.interpolate(part, (height, width), mode="bilinear", antialias=True)
    return scaled.permute(0, 2, 3, 1)[0].numpy()


def fill_without_torch(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """`fill` by Pillow: a few values in a hundred are rounded otherwise, by at most 2 of 255."""
    part = _centre(pixels, height, width)
    if part.dtype == np.uint8 and part.shape[2] == 3:
        return np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR))
    planes = (
        Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in np.moveaxis(part, 2, 0)
    )
    return np.stack(list(map(np.asarray, planes)), axis=2)


def _centre(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest centred part of (H, W, C) that has the shape of (height, width)."""
    scale = min(pixels.shape[0] / height, pixels.shape[1] / width)
    rows, columns = (max(1, round(scale * side)) for side in (height, width))
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def decode(data: bytes, height: int, width: int | None = None, scaled: Scale = fill) -> np.ndarray:
    """The centre of an image, scaled to fill uint8 (height, width, 3); a square unless `width` is given.

    The papers' evaluation protocol, done once: the rest of a long side is cut off, nothing is squashed. Bilinear
    with antialiasing, by `scaled`. EXIF's rotation is applied; grey, palette, CMYK and 16-bit images become RGB,
    transparent ones are laid on white; of an animation the first frame counts.
    Raises BadImageError for anything that is not a whole image, and above 89 million pixels (Pillow's limit).
    """
    if not data:
        raise BadImageError("is empty")
    width = width or height
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return scaled(_pixels(data, max(height, width)), height, width)
        except Image.UnidentifiedImageError:
            raise BadImageError("is not an image that Pillow can read") from None
        except Exception as error:  # each of Pillow's formats fails in its own way
            raise BadImageError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


@cache
def formats() -> tuple[str, ...]:
    """All that Pillow reads but PostScript, for which it would start Ghostscript on the file; tried in this order."""
    Image.init()
    return (*COMMON, *sorted(Image.OPEN.keys() - {"EPS", *COMMON}))


def _pixels(data: bytes, size: int) -> np.ndarray:
    """The whole image, upright: uint8 (H, W, 3). Pillow is the judge of what can be read."""
    if data.startswith(JPEG) and (pixels := _plain_jpeg(data, size)) is not None:
        return pixels
    image: Image.Image = Image.open(io.BytesIO(data), formats=formats())
    if image.format == "PNG":
        Image.open(io.BytesIO(data)).verify()  # checksums, which loading leaves out: damage would become noise
    image.draft("", (2 * size, 2 * size))  # large JPEGs are decoded at 1/2, 1/4 or 1/8, which is far faster
    return upright(image)


def upright(image: Image.Image) -> np.ndarray:
    """What `decode` makes of an open image before it is scaled: uint8 (H, W, 3)."""
    if _orientation(image) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    return _rgb(image)


def _plain_jpeg(data: bytes, size: int) -> np.ndarray | None:
    """The pixels that Pillow would give, in two thirds of its time; None for what is damaged, large or not upright."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        large = min(height, width) >= 4 * size or height * width > (Image.MAX_IMAGE_PIXELS or 0)
        if large or colours not in ("YCbCr", "Gray"):
            return None
        if EXIF in data and _orientation(Image.open(io.BytesIO(data), formats=COMMON)) != 1:
            return None
        return simplejpeg.decode_jpeg(data, "RGB")
    except (ValueError, OSError):
        return None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF is no reason to refuse the image
        return 1


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode in WIDE_GREYS:
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return np.array(image.convert("RGB"))
