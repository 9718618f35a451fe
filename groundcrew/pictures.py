"""Pictures a person can judge at a glance: an image with its boxes, and many of them on one sheet.

Called by: groundcrew/demo/report.py and groundcrew/predict.py.
Must not import: backend, worker.
Example: draw_boxes(image, [LabelledBox("red circle", (10, 10, 60, 60), 0.93)]).save("boxes.png")
"""

import colorsys
from collections.abc import Iterator, Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from groundcrew.boxes import Corners, LabelledBox

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAGE = (250, 250, 248)
_INK = (28, 30, 34)
_PALE_INK = (95, 98, 105)
_RED: Colour = (255, 0, 0)
_GAP_PX = 14
_HEADER_PX = 92
_GOLDEN_ANGLE = 0.381966  # of a full turn: hues that are taken one after the other stay far apart
#: Pillow's own font knows Latin letters only; the first of these that a machine has draws all others.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc",
               "DejaVuSans.ttf")  # fmt: skip


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[LabelledBox],
    *,
    missed: Sequence[LabelledBox] = (),
    labels: Sequence[str] = (),
    least_side_px: int = 1,
) -> Image.Image:
    """A copy of `image` with outlines, labels and scores; `missed` boxes are crossed out in red.

    Args:
        labels: all labels there are, so that each has one colour in every picture; else those of `boxes`.
        least_side_px: a smaller image is drawn enlarged, so that its labels can be read.
    """
    scale = max(1, -(-least_side_px // min(image.size)))
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    colours = pick_colours(labels or sorted({box.label for box in boxes}))
    draw = ImageDraw.Draw(picture)
    line_px = max(2, round(min(picture.size) / 160))
    for box in missed:
        _draw_missed(draw, _scaled(box.xyxy_px, scale), line_px)
    for box in boxes:
        _draw_outline(draw, _scaled(box.xyxy_px, scale), colours[box.label], line_px)
    tags = _Tags(draw, picture.size)
    for box in missed:
        tags.add(_scaled(box.xyxy_px, scale), f"missed: {box.label}", _RED)
    for box in boxes:
        tags.add(_scaled(box.xyxy_px, scale), f"{box.label} {box.score:.2f}", colours[box.label])
    return picture


def pick_colours(labels: Sequence[str]) -> dict[str, Colour]:
    """A bright colour a label; neighbours in the list differ most."""
    return {label: _nth_colour(number) for number, label in enumerate(labels)}


def _nth_colour(number: int) -> Colour:
    saturation = 0.8 if number // 8 % 2 == 0 else 0.5  # after eight hues paler ones, which lie between
    red, green, blue = colorsys.hsv_to_rgb((0.58 + number * _GOLDEN_ANGLE) % 1, saturation, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _scaled(xyxy_px: Corners, scale: int) -> Corners:
    left, top, right, bottom = xyxy_px
    return left * scale, top * scale, right * scale, bottom * scale


def _draw_missed(draw: ImageDraw.ImageDraw, xyxy_px: Corners, line_px: int) -> None:
    draw.rectangle(xyxy_px, outline=_RED, width=line_px)
    draw.line(xyxy_px, fill=_RED, width=line_px)


def _draw_outline(draw: ImageDraw.ImageDraw, xyxy_px: Corners, colour: Colour, line_px: int) -> None:
    """A dark line around the coloured one keeps it visible on any background."""
    left, top, right, bottom = xyxy_px
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=line_px + 2)
    draw.rectangle(xyxy_px, outline=colour, width=line_px)


class _Tags:
    """The labels of one picture: each at its box, inside the picture, and off the others where there is room."""

    def __init__(self, draw: ImageDraw.ImageDraw, size_px: tuple[int, int]) -> None:
        self._draw = draw
        self._size_px = size_px
        self._height_px = max(11, round(min(size_px) / 24))
        self._placed: list[Corners] = []

    def add(self, xyxy_px: Corners, text: str, colour: Colour) -> None:
        font = _font(self._height_px, text.isascii())
        bar_px = max(3, self._height_px // 6)  # in the box's colour, so that tag and box find each other
        width = bar_px + 3 + round(self._draw.textlength(text, font=font)) + 3
        places = self._places(xyxy_px, width, round(1.4 * self._height_px))
        place = min(places, key=self._covered)  # the first of equals
        self._placed.append(place)
        left, top, _, bottom = place
        self._draw.rectangle(place, fill=_INK)
        self._draw.rectangle((left, top, left + bar_px, bottom), fill=colour)
        self._draw.text((left + bar_px + 3, (top + bottom) // 2), text, fill="white", font=font, anchor="lm")

    def _places(self, xyxy_px: Corners, width: int, height: int) -> Iterator[Corners]:
        """Above the box, below it, inside its top, inside its bottom; a place outside the picture comes last."""
        left, top, right, bottom = map(round, xyxy_px)
        picture_width, picture_height = self._size_px
        for x in (left, right - width):
            x = max(0, min(x, picture_width - width))
            for y in (top - height - 1, bottom + 1, top + 1, bottom - height - 1):
                if 0 <= y <= picture_height - height:
                    yield x, y, x + width, y + height
        yield x, 0, x + width, height

    def _covered(self, place: Corners) -> float:
        return sum(_common_area(place, other) for other in self._placed)


def _common_area(first: Corners, second: Corners) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def draw_sheet(
    pictures: Sequence[Image.Image], *, title: str, subtitle: str, columns: int = 6, row_px: int = 240
) -> Image.Image:
    """All pictures on one page under a title, `columns` in each row, scaled to the height `row_px`."""
    scaled = [picture.resize((round(picture.width * row_px / picture.height), row_px)) for picture in pictures]
    rows = [scaled[start : start + columns] for start in range(0, len(scaled), columns)]
    width_px = max(sum(picture.width + _GAP_PX for picture in row) for row in rows) + _GAP_PX
    sheet = Image.new("RGB", (width_px, _HEADER_PX + len(rows) * (row_px + _GAP_PX)), _PAGE)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP_PX, 16), title, fill=_INK, font=_font(30))
    draw.text((_GAP_PX, 56), subtitle, fill=_PALE_INK, font=_font(19))
    for number, row in enumerate(rows):
        left_px = _GAP_PX
        for picture in row:
            sheet.paste(picture, (left_px, _HEADER_PX + number * (row_px + _GAP_PX)))
            left_px += picture.width + _GAP_PX
    return sheet


@cache
def _font(size_px: int, is_ascii: bool = True) -> Font:
    for name in () if is_ascii else _WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:  # not on this machine
            continue
    return ImageFont.load_default(size_px)
