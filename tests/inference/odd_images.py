"""Thirty image files of every odd kind that turns up in people's folders, good and bad."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

RED = (200, 30, 40)


def sample(width: int = 48, height: int = 40) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = RED
    pixels[:, width // 2 :] = (20, 60, 220)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(data)) + b"IHDR" + data + struct.pack(">I", zlib.crc32(b"IHDR" + data))
    return b"\x89PNG\r\n\x1a\n" + chunk


def png_16_bit_rgb(side: int = 16) -> bytes:
    rows = b"".join(b"\0" + struct.pack(">HHH", 0xC8FF, 0x1E00, 0x2810) * side for _ in range(side))
    parts = []
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        parts.append(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rotated() -> bytes:
    """An image stored on its side, with the camera's note how to turn it upright (6: a quarter to the right)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(sample(48, 48).rotate(90), "JPEG", quality=95, exif=exif)


def grey_16_bit() -> bytes:
    return encoded(Image.fromarray(np.full((20, 20), 0x80FF, np.uint16)), "PNG")


def animation() -> dict[str, object]:
    return {"save_all": True, "append_images": [Image.new("RGB", (48, 40), "green")]}


GOOD: dict[str, Callable[[], bytes]] = {
    "one_pixel.png": lambda: encoded(Image.new("RGB", (1, 1), RED), "PNG"),
    "strip.png": lambda: encoded(sample(3000, 1), "PNG"),
    "column.bmp": lambda: encoded(sample(2, 900), "BMP"),
    "rgb.jpg": lambda: encoded(sample(), "JPEG", quality=95),
    "progressive.JPEG": lambda: encoded(sample(), "JPEG", quality=95, progressive=True),
    "grey.jpg": lambda: encoded(sample().convert("L"), "JPEG"),
    "cmyk.jpg": lambda: encoded(sample().convert("CMYK"), "JPEG", quality=95),
    "rotated.jpg": rotated,
    "damaged_exif.jpg": lambda: encoded(sample(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff"),
    "grey_16_bit.png": grey_16_bit,
    "rgb_16_bit.png": png_16_bit_rgb,
    "one_bit.png": lambda: encoded(sample().convert("1"), "PNG"),
    "palette.png": lambda: encoded(sample().quantize(16), "PNG"),
    "palette_transparent.png": lambda: encoded(sample().quantize(16), "PNG", transparency=0),
    "rgba.png": lambda: encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG"),
    "grey_alpha.png": lambda: encoded(sample().convert("LA"), "PNG"),
    "animated.gif": lambda: encoded(sample(), "GIF", **animation()),
    "animated.webp": lambda: encoded(sample(), "WEBP", lossless=True, **animation()),
    "pages.tiff": lambda: encoded(sample(), "TIFF", **animation()),
    "grey_16_bit.tif": lambda: encoded(Image.fromarray(np.full((20, 20), 0x80FF, np.uint16)), "TIFF"),
    "cmyk.tiff": lambda: encoded(sample().convert("CMYK"), "TIFF"),
    "plain.ppm": lambda: encoded(sample(), "PPM"),
    "60_megapixels.png": lambda: encoded(Image.new("L", (7750, 7750), 90), "PNG", compress_level=1),
    "wrong_ending.png": lambda: encoded(sample(), "JPEG", quality=95),
}
BAD: dict[str, Callable[[], bytes]] = {
    "zero_bytes.jpg": lambda: b"",
    "text.jpg": lambda: b"this is not an image\n" * 100,
    "truncated.jpg": lambda: encoded(sample(400, 400), "JPEG")[:900],
    "truncated.png": lambda: encoded(sample(400, 400), "PNG")[:150],
    "no_pixels.png": lambda: png_header(30, 30),
    "bomb.png": lambda: png_header(60_000, 60_000),
    "postscript.jpg": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(hacked) (w) file\n",
}


def write_all(folder: Path) -> None:
    folder.mkdir()
    for name, make in (GOOD | BAD).items():
        (folder / name).write_bytes(make())
