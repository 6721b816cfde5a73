"""One image file -> uint8 RGB pixels, the same for training and for prediction."""

from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mobilenet_train.errors import RunError

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # no EPS: Pillow would start Ghostscript for it
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


def decode(source: str | Path | IO[bytes], name: str | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels of an image file, (H, W, 3) uint8 RGB, upright.

    A camera's orientation tag is applied, grey and palette images become RGB, transparency is laid on white, 16 bits
    are cut to the upper 8, CMYK is converted, and of an animation the first picture is taken. `name` stands for an
    open file in messages. Raises RunError if the file is no image, is damaged, or has more than 178 megapixels.
    """
    label = name or str(source)
    try:
        with Image.open(source, formats=FORMATS) as image:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image), label), dtype=np.uint8)
    except RunError:
        raise
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise RunError(f"{label} is not an image that can be read ({kinds}), or it is damaged") from error
    except Image.DecompressionBombError as error:
        raise RunError(f"{label} is too large: more than 178 million pixels") from error
    except FileNotFoundError as error:
        raise RunError(f"{label} does not exist") from error
    except Exception as error:  # whatever a decoder stumbles over in a damaged file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RunError(f"{label} can't be read: {reason}") from error


def _to_rgb(image: Image.Image, label: str) -> Image.Image:
    if image.mode == "F":
        raise RunError(f"{label} has floating-point pixels, whose range nobody knows; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits a pixel, in 16 or 32
        upper = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
