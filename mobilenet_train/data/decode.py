"""One picture file -> stored pixels: decoded, turned upright, made RGB, shrunk to fill a size."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
WIDE_GREYS = ("I", "I;16", "I;16L", "I;16B")
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # no EPS: Pillow would start Ghostscript for it


class BadPictureError(Exception):
    """A file that gives no picture; the message says why, without the file's name."""


def decode(data: bytes, height: int, width: int | None = None) -> np.ndarray:
    """The centre of a picture, scaled to fill uint8 (height, width, 3); a square unless `width` is given.

    The papers' evaluation protocol, done once: what stands over is cut off on both sides, nothing is squashed.
    Bilinear with antialiasing. EXIF's rotation is applied; grey, palette, CMYK and 16-bit pictures become RGB,
    transparent ones are laid on white; of an animation the first frame counts.
    Raises BadPictureError for anything that is no whole picture, and above 89 million pixels (Pillow's limit).
    """
    if not data:
        raise BadPictureError("is empty")
    width = width or height
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return fill(_open(data, 2 * max(height, width)), height, width)
        except Image.UnidentifiedImageError:
            raise BadPictureError(f"is no picture that can be read ({', '.join(FORMATS)})") from None
        except Exception as error:  # each of Pillow's formats fails in its own way
            raise BadPictureError(f"can't be decoded: {str(error) or type(error).__name__}") from error


def fill(image: Image.Image, height: int, width: int) -> np.ndarray:
    """The largest centred part of an RGB image with the shape asked for, scaled to uint8 (height, width, 3)."""
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0))


def _open(data: bytes, enough: int) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    image.draft(None, (enough, enough))  # large JPEGs are decoded at 1/2, 1/4 or 1/8
    if _orientation(image) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    return _rgb(image)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF is no reason to refuse the picture
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE_GREYS:
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("RGB")
