"""Any image becomes its central square in upright RGB; anything else is refused with the reason."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenet_train.data.decode import decode
from mobilenet_train.data.listing import BadImageError
from tests.data.image_files_for_tests import draw, encoded


def flat(mode: str, colour: Any, size: tuple[int, int] = (40, 32)) -> Image.Image:
    return Image.new(mode, size, colour)


def palette_with_transparency() -> bytes:
    image = flat("P", 0)
    image.putpalette([10, 200, 30, 90, 90, 90])
    image.paste(1, (20, 0, 40, 32))
    return encoded(image, "PNG", transparency=1)


def wide_grey() -> bytes:
    return encoded(Image.fromarray(np.full((32, 40), 0x8000, np.uint16)), "PNG")


ONE_COLOUR: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "RGB JPEG": (encoded(flat("RGB", (10, 200, 30)), quality=95), (10, 200, 30)),
    "grey JPEG": (encoded(flat("L", 77)), (77, 77, 77)),
    "CMYK JPEG": (encoded(flat("CMYK", (0, 255, 255, 0)), quality=95), (255, 0, 0)),
    "RGB PNG": (encoded(flat("RGB", (10, 200, 30)), "PNG"), (10, 200, 30)),
    "grey PNG": (encoded(flat("L", 77), "PNG"), (77, 77, 77)),
    "black and white": (encoded(flat("1", 1), "PNG"), (255, 255, 255)),
    "16-bit grey": (wide_grey(), (128, 128, 128)),
    "half transparent": (encoded(flat("RGBA", (0, 0, 255, 127)), "PNG"), (128, 128, 255)),
    "grey with alpha": (encoded(flat("LA", (0, 0)), "PNG"), (255, 255, 255)),
    "palette": (encoded(flat("RGB", (10, 200, 30)).quantize(4), "PNG"), (10, 200, 30)),
    "GIF": (encoded(flat("RGB", (10, 200, 30)), "GIF"), (10, 200, 30)),
    "BMP": (encoded(flat("RGB", (10, 200, 30)), "BMP"), (10, 200, 30)),
    "TIFF": (encoded(flat("RGB", (10, 200, 30)), "TIFF"), (10, 200, 30)),
    "WebP": (encoded(flat("RGB", (10, 200, 30)), "WEBP", lossless=True), (10, 200, 30)),
    "PPM": (encoded(flat("RGB", (10, 200, 30)), "PPM"), (10, 200, 30)),
}


@pytest.mark.parametrize("name", ONE_COLOUR)
def test_every_format_and_mode_becomes_rgb(name: str) -> None:
    data, colour = ONE_COLOUR[name]
    pixels = decode(data, 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= 3


def test_transparent_places_of_a_palette_are_white() -> None:
    pixels = decode(palette_with_transparency(), 32)
    assert np.abs(pixels[:, :10].astype(int) - (10, 200, 30)).max() <= 1
    assert (pixels[:, -10:] == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(kind: str, orientation: int) -> None:
    """Four quadrants, stored as a camera held in one of eight ways would, look the same."""
    upright = Image.new("RGB", (64, 64))
    for number, colour in enumerate([(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]):
        upright.paste(colour, (32 * (number % 2), 32 * (number // 2), 32 * (number % 2) + 32, 32 * (number // 2) + 32))
    methods = {2: (0,), 3: (3,), 4: (1,), 5: (5,), 6: (2,), 7: (6,), 8: (4,)}  # Image.Transpose, undoing the tag
    stored = upright
    for method in methods.get(orientation, ()):
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(stored, kind, exif=exif.tobytes(), **({"quality": 95} if kind == "JPEG" else {})), 32)
    assert np.abs(pixels[4:12, 4:12].astype(int) - (200, 30, 30)).max() < 12
    assert np.abs(pixels[4:12, 20:28].astype(int) - (30, 200, 30)).max() < 12
    assert np.abs(pixels[20:28, 4:12].astype(int) - (30, 30, 200)).max() < 12


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (201, 201)])
def test_the_central_square_is_kept_and_scaled_as_pillow_does(size: tuple[int, int]) -> None:
    image = draw(5, width=size[0], height=size[1])
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    expected = image.crop((left, top, left + side, top + side)).resize((100, 100), Image.Resampling.BILINEAR)
    difference = np.abs(decode(encoded(image, "PNG"), 100).astype(int) - np.asarray(expected).astype(int))
    assert difference.max() <= 1


def test_a_jpeg_gives_what_pillow_decodes() -> None:
    data = encoded(draw(6, width=90, height=90))
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decode(data, 90).astype(int) - expected).max() <= 1


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    smooth = Image.linear_gradient("L").resize((1600, 1200)).convert("RGB")
    with Image.open(io.BytesIO(encoded(smooth, quality=95))) as image:
        whole = image.crop((200, 0, 1400, 1200)).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(decode(encoded(smooth, quality=95), 64).astype(int) - np.asarray(whole).astype(int)).max() <= 3


def test_a_small_image_is_enlarged() -> None:
    assert decode(encoded(draw(7, width=9, height=11), "PNG"), 40).shape == (40, 40, 3)


def test_an_image_with_damaged_exif_is_decoded() -> None:
    data = bytearray(encoded(draw(8), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"))
    at = data.index(b"MM\0*")
    data[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    assert decode(bytes(data), 32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"GIF89a", "not an image"),
        (b"\xff\xd8\xff\xe0", "not an image"),
        (b"\0" * 5000, "not an image"),
    ],
    ids=["nothing", "a start", "a JPEG's start", "zeros"],
)
def test_what_is_not_an_image_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason) as refused:
        decode(data, 16)
    assert "\n" not in str(refused.value)
