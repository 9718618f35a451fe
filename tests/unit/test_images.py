"""Every kind of image file becomes what Label Studio's browser shows: upright, RGB, 8 bit."""

import io

import numpy as np
import pytest
from PIL import Image

from contract.errors import ImageTooLarge, ImageUnreadable
from worker.images import decode_image

LIMIT_PX = 1_000_000


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data):
    return decode_image(data, limit_px=LIMIT_PX)


def test_rgb_pixels_come_back_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(decode(encode(Image.fromarray(pixels))), pixels)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (19, 29)), (6, (0, 19)), (8, (29, 0))])
def test_photos_are_turned_as_their_exif_says(orientation, corner):
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode(encode(Image.fromarray(pixels), exif=exif))
    assert turned.shape[:2] == ((30, 20) if orientation in (6, 8) else (20, 30))
    assert turned[corner].tolist() == [255, 255, 255]


def test_transparent_pixels_show_white():
    assert decode(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0))))[0, 0].tolist() == [255, 255, 255]
    assert decode(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 255))))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
def test_grey_and_palette_images_become_rgb(mode):
    pixels = decode(encode(Image.new("RGB", (5, 4), "white").convert(mode)))
    assert pixels.shape == (4, 5, 3)
    assert (pixels == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = np.array([[0, 32768, 65535]], dtype=np.uint16)
    assert decode(encode(Image.fromarray(grey)))[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk_is_converted():
    assert decode(encode(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG"))[0, 0].tolist() == [255, 255, 255]


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("white", "black")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 255, 255]


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(ImageTooLarge, match="1001 x 1000 pixels, more than IMAGE_LIMIT_PX=1000000"):
        decode(encode(Image.new("1", (1001, 1000))))


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_unreadable(data):
    with pytest.raises(ImageUnreadable):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_file_is_unreadable(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(ImageUnreadable):
        decode(data[: len(data) // 2])


def test_a_line_is_no_image_for_the_model():
    with pytest.raises(ImageUnreadable, match="2 x 300 pixels cannot be resized"):
        decode(encode(Image.new("L", (2, 300))))
