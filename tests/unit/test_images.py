"""Every kind of image file becomes what Label Studio's browser shows: upright, RGB, 8 bit."""

import io
import struct
import zlib

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
    for data in (encode(Image.new("1", (1001, 1000))), png(1001, 1000, b"no pixels that could be decoded")):
        with pytest.raises(ImageTooLarge, match="1001 x 1000 pixels, more than IMAGE_LIMIT_PX=1000000"):
            decode(data)


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


# -- files made to hurt ------------------------------------------------------------------------------------------------


def png(width, height, pixels=b"", *extra):
    """A PNG that says what it likes of its size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def text_bomb():
    """50 MB of text in a small chunk."""
    body = b"zTXt" + b"k\0\0" + zlib.compress(b"a" * 50_000_000)
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (1_000_001, 100_000)])
def test_a_bomb_is_refused_by_what_its_header_says(width, height):
    with pytest.raises(ImageTooLarge):
        decode(png(width, height))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_only_the_first_of_many_frames_is_decoded(kind):
    frames = [Image.new("RGB", (40, 40), (n, n, n)) for n in range(200)]
    assert decode(encode(frames[0], kind, save_all=True, append_images=frames[1:])).shape == (40, 40, 3)


def test_a_frame_larger_than_its_canvas_counts_as_large():
    data = bytearray(encode(Image.new("P", (50, 50)), "GIF"))
    at = data.index(b"\x2c")  # the descriptor of the first frame: left, top, width, height
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises((ImageTooLarge, ImageUnreadable)):
        decode(bytes(data))


def test_compressed_text_in_a_picture_is_not_unpacked_without_end():
    with pytest.raises(ImageUnreadable):
        decode(png(4, 4, bytes(4 * 13), text_bomb()))


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file",  # Pillow would start Ghostscript
        b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a 'aaaa'>]><svg xmlns='http://www.w3.org/2000/svg'>&a;</svg>",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%PDF-1.7\n", b"PK\x03\x04", b"GIF89a/*<script>alert(1)</script>*/=1;", b"<html><img src=x></html>",
        b"8BPS\0\1", b"\xff\xd8\xff\xe0" + b"\0" * 100, b"II*\0" + b"\xff" * 100, b"RIFF\xff\xff\xff\xffWEBPVP8X",
    ],
)  # fmt: skip
def test_what_only_looks_like_an_image_is_unreadable(data):
    with pytest.raises(ImageUnreadable):
        decode(data)


@pytest.mark.parametrize("tail", [b"PK\x03\x04 zip", b"<script>alert(1)</script>", b"\0" * 1000])
def test_what_hangs_behind_an_image_is_not_looked_at(tail):
    data = encode(Image.new("RGB", (5, 4), "white"), "JPEG")
    assert np.array_equal(decode(data + tail), decode(data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_no_byte_of_damage_escapes_as_another_error(kind):
    whole = encode(Image.effect_mandelbrot((32, 32), (-2, -1, 1, 1), 20), kind)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for at in random.integers(0, len(damaged), 4):
            damaged[at] = random.integers(256)
        try:
            assert decode(bytes(damaged)).shape[2] == 3
        except (ImageUnreadable, ImageTooLarge):
            continue


def test_inverted_cmyk_as_adobe_writes_it_has_its_own_colours():
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    assert np.abs(decode(encode(red, "JPEG", quality=95))[8, 8].astype(int) - (255, 0, 0)).max() < 8
