"""Pictures a person can judge at a glance: an image with its boxes, and many of them on one sheet.

Called by: groundcrew/demo.py and groundcrew/predict.py.
Must not import: backend, worker.
Example: draw_boxes(image, [LabelledBox("red circle", (10, 10, 60, 60), 0.93)]).save("boxes.png")
"""

import colorsys
import zlib
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from groundcrew.boxes import LabelledBox

_PAGE = (250, 250, 248)
_INK = (28, 30, 34)
_GAP_PX = 14
_HEADER_PX = 92


def draw_boxes(
    image: Image.Image, boxes: Sequence[LabelledBox], *, missed: Sequence[LabelledBox] = ()
) -> Image.Image:
    """A copy of `image` with outlines, labels and scores; `missed` boxes are crossed out in red."""
    picture = image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    line_px = max(2, round(min(picture.size) / 160))
    for box in missed:
        left, top, right, bottom = box.xyxy_px
        draw.rectangle(box.xyxy_px, outline="red", width=line_px)
        draw.line((left, top, right, bottom), fill="red", width=line_px)
        _draw_tag(draw, box, f"missed: {box.label}", "red", picture.size)
    for box in boxes:
        colour = _colour_of(box.label)
        # A dark line around the coloured one keeps it visible on any background.
        left, top, right, bottom = box.xyxy_px
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=line_px + 2)
        draw.rectangle(box.xyxy_px, outline=colour, width=line_px)
    for box in boxes:
        _draw_tag(draw, box, f"{box.label} {box.score:.2f}", _colour_of(box.label), picture.size)
    return picture


def draw_sheet(
    pictures: Sequence[Image.Image],
    *,
    title: str,
    subtitle: str,
    columns: int = 6,
    cell_px: tuple[int, int] = (320, 240),
) -> Image.Image:
    """All pictures on one page under a title, each fitted into a cell of `cell_px` (width, height)."""
    rows = -(-len(pictures) // columns)
    width_px = columns * (cell_px[0] + _GAP_PX) + _GAP_PX
    height_px = _HEADER_PX + rows * (cell_px[1] + _GAP_PX)
    sheet = Image.new("RGB", (width_px, height_px), _PAGE)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP_PX, 16), title, fill=_INK, font=_font(30))
    draw.text((_GAP_PX, 56), subtitle, fill=(95, 98, 105), font=_font(19))
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        fitted = picture.copy()
        fitted.thumbnail(cell_px, Image.Resampling.LANCZOS)
        sheet.paste(fitted, (_GAP_PX + column * (cell_px[0] + _GAP_PX), _HEADER_PX + row * (cell_px[1] + _GAP_PX)))
    return sheet


def _draw_tag(
    draw: ImageDraw.ImageDraw, box: LabelledBox, text: str, colour: str | tuple[int, int, int], size_px: tuple[int, int]
) -> None:
    """The label above the box, or inside its top where the image ends; moved left where it would leave the image."""
    font = _font(max(11, round(min(size_px) / 24)))
    _, _, width_px, height_px = draw.textbbox((0, 0), text, font=font)
    left = max(0.0, min(box.xyxy_px[0], size_px[0] - width_px - 6))
    top = box.xyxy_px[1] - height_px - 5
    top = top if top >= 0 else box.xyxy_px[1] + 1
    draw.rectangle((left, top, left + width_px + 6, top + height_px + 4), fill=_INK)
    draw.line((left, top, left, top + height_px + 4), fill=colour, width=3)
    draw.text((left + 4, top + 1), text, fill="white", font=font)


def _colour_of(label: str) -> tuple[int, int, int]:
    """A bright colour that is the same for the same label in every picture."""
    hue = zlib.crc32(label.encode()) % 360 / 360
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
