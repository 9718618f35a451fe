"""Drawn boxes lie where the objects are, keep one colour a label, and can be read on a small image.

Called by: pytest.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/unit/test_pictures.py
"""

import numpy as np
import pytest
from PIL import Image

from groundcrew.boxes import LabelledBox
from groundcrew.pictures import draw_boxes, pick_colours

GREY = (120, 120, 120)


def plain(width_px: int, height_px: int) -> Image.Image:
    return Image.new("RGB", (width_px, height_px), GREY)


def touched(picture: Image.Image) -> np.ndarray:
    """Where something was drawn, (H, W)."""
    return (np.asarray(picture) != GREY).any(axis=2)


def test_the_outline_follows_the_box_and_spares_its_inside():
    picture = draw_boxes(plain(400, 300), [LabelledBox("cat", (100, 120, 220, 200), 0.9)])

    colour = pick_colours(["cat"])["cat"]
    assert [picture.getpixel(point) for point in ((100, 160), (220, 160), (160, 120), (160, 200))] == [colour] * 4
    assert not touched(picture)[130:190, 110:210].any()


def test_the_original_is_left_as_it_was():
    image = plain(100, 80)

    draw_boxes(image, [LabelledBox("cat", (10, 20, 60, 70), 0.9)])

    assert not touched(image).any()


def test_a_label_has_the_same_colour_in_every_picture():
    labels = ["cat", "dog"]
    cat, dog = LabelledBox("cat", (9, 99, 60, 200)), LabelledBox("dog", (200, 99, 260, 200))

    with_both = draw_boxes(plain(400, 300), [cat, dog], labels=labels)
    with_dog = draw_boxes(plain(400, 300), [dog], labels=labels)

    assert with_both.getpixel((200, 150)) == with_dog.getpixel((200, 150)) != with_both.getpixel((9, 150))


def test_twenty_labels_have_twenty_colours_that_differ():
    colours = np.array(list(pick_colours([str(number) for number in range(20)]).values()), int)  # (20, 3)

    distance = np.abs(colours[:, None] - colours[None]).max(axis=2) + 255 * np.eye(20)  # (20, 20)
    assert distance.min() >= 20


def letters(picture: Image.Image) -> int:
    """How many pixels are as white as the inside of letters."""
    return int((np.asarray(picture) == 255).all(axis=2).sum())


@pytest.mark.parametrize("corner", [(0, 0), (340, 0), (0, 240), (340, 240), (150, 0), (340, 120)])
def test_a_tag_at_the_edge_is_as_complete_as_one_in_the_middle(corner):
    def draw(left: int, top: int) -> Image.Image:
        return draw_boxes(plain(400, 300), [LabelledBox("a rather long label", (left, top, left + 60, top + 60), 0.5)])

    assert letters(draw(*corner)) == letters(draw(100, 100))


def test_tags_of_neighbours_do_not_hide_each_other():
    boxes = [LabelledBox(label, (left, 100, left + 100, 200)) for label, left in (("first", 100), ("second", 104))]

    together = letters(draw_boxes(plain(600, 400), boxes))

    assert together == sum(letters(draw_boxes(plain(600, 400), [box])) for box in boxes)


def test_a_small_image_is_enlarged_and_its_box_with_it():
    picture = draw_boxes(plain(64, 48), [LabelledBox("cat", (16, 24, 32, 40), 0.9)], least_side_px=480)

    assert picture.size == (640, 480)
    assert picture.getpixel((160, 320)) == picture.getpixel((320, 320)) == pick_colours(["cat"])["cat"]


def test_a_large_image_keeps_its_size():
    assert draw_boxes(plain(700, 480), [], least_side_px=480).size == (700, 480)
