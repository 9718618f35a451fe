"""Turns the bytes of an image file into the pixels that Label Studio shows.

Called by: worker.predict, groundcrew.predict. Must not import: torch, Celery, requests.
Browsers turn photos by their EXIF orientation, so boxes are found on the turned image too.
Example: `pixels = decode_image(Path("a.jpg").read_bytes(), limit_px=64_000_000)  # (H, W, 3) uint8 RGB`
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from contract.errors import ImageTooLarge, ImageUnreadable

Pixels = NDArray[np.uint8]
Image.init()  # loads the plugins, so that OPEN is complete
#: What annotators use, decoded within this process. Never EPS: Pillow starts Ghostscript for it.
FORMATS = tuple(
    name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM") if name in Image.OPEN
)
ORIENTATION = 0x0112  #: the EXIF tag
LONGEST_TO_SHORTEST = 100  #: a thinner image would be less than a pixel wide for the model


def decode_image(data: bytes, *, limit_px: int) -> Pixels:
    """Decode one image; animated ones give their first frame.

    Args:
        data: the file, in one of FORMATS whatever its name says.
        limit_px: most pixels (width x height), checked before anything is decoded.

    Returns:
        (H, W, 3) uint8 RGB, turned by its EXIF orientation, transparency over white.

    Raises:
        ImageTooLarge, ImageUnreadable.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit decides, before decoding
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image, limit_px)
                return _to_rgb(_upright(image))
    except (ImageTooLarge, ImageUnreadable):
        raise
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ImageUnreadable(f"the file of {len(data)} bytes is no image in a known format ({known})") from None
    except Image.DecompressionBombError:
        raise ImageTooLarge(f"the image has more pixels than IMAGE_LIMIT_PX={limit_px}") from None
    except Exception as error:  # decoders raise whatever they like on damaged files: this image alone fails
        raise ImageUnreadable(f"the image is damaged: {error}") from error


def _check_size(image: Image.Image, limit_px: int) -> None:
    width, height = image.size
    if width * height > limit_px:
        raise ImageTooLarge(f"the image has {width} x {height} pixels, more than IMAGE_LIMIT_PX={limit_px}")
    if min(width, height) < 1 or max(width, height) > LONGEST_TO_SHORTEST * min(width, height):
        raise ImageUnreadable(f"an image of {width} x {height} pixels cannot be resized for the model")


def _upright(image: Image.Image) -> Image.Image:
    """Turned by its EXIF orientation. Pillow would copy one that needs no turning."""
    return image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_rgb(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))  # (H, W, 3)


def _grey_to_rgb(grey: NDArray[np.generic]) -> Pixels:
    """16-bit and float grey images, whose Pillow conversion would clip at 255: scaled as a browser shows them."""
    values = grey.astype(np.float64)
    top = 65535.0 if values.max(initial=0) > 255 else 255.0 if values.max(initial=0) > 1 else 1.0
    if grey.dtype.kind in "iu":
        top = 65535.0
    scaled = np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)  # (H, W, 3)
