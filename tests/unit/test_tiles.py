"""Tiles cover the image, and whatever their borders cut becomes one box again: nothing twice, nothing lost.

Called by: pytest. A perfect detector stands for the model: in each tile it sees the visible part of every object.
Must not import: torch, Celery.
Example: .venv/bin/python -m pytest tests/unit/test_tiles.py
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import LabelConfigError
from contract.labels import read_label_config
from contract.registry import Registry
from contract.settings import read_settings
from contract.stamps import stamp
from contract.tiling import Tiling, choose_tiling, tile_starts
from groundcrew.boxes import measure_iou
from worker.detectors.base import Boxes
from worker.tiles import View, cut_into_tiles, make_view, merge

SIZE_PX = (1000, 800)  # width, height
GROUPS = np.array([0, 1, 0], np.int64)  # prompts 0 and 2 are synonyms of one label
LEAST_VISIBLE = 0.15  # a detector does not find slivers


def look_at(known: list[tuple[float, float, float, float]], tiling: Tiling, *, labels: list[int] | None = None,
            jitter_px: float = 0.0, seed: int = 0) -> list[View]:  # fmt: skip
    """What a perfect detector sees in each tile, with edges that are off by up to jitter_px."""
    random = np.random.default_rng(seed)
    labels = labels or [0] * len(known)
    views = []
    for bounds_px in cut_into_tiles(*SIZE_PX, tiling):
        left, top, right, bottom = bounds_px
        seen = []
        for number, (x1, y1, x2, y2) in enumerate(known):
            part = (max(x1, left), max(y1, top), min(x2, right), min(y2, bottom))
            visible = max(0, part[2] - part[0]) * max(0, part[3] - part[1]) / ((x2 - x1) * (y2 - y1))
            if visible > LEAST_VISIBLE:
                noise = random.uniform(-jitter_px, jitter_px, 4)
                box = np.clip(np.subtract(part, (left, top, left, top)) + noise, 0, [right - left, bottom - top] * 2)
                seen.append((box, 0.5 + 0.4 * visible, labels[number]))
        boxes = Boxes(np.array([box for box, _, _ in seen], np.float32).reshape(-1, 4),
                      np.array([score for _, score, _ in seen], np.float32),
                      np.array([label for _, _, label in seen], np.int64))  # fmt: skip
        views.append(make_view(bounds_px, boxes, GROUPS, SIZE_PX))
    return views


def near(found: Boxes, known: list[tuple[float, float, float, float]], by_px: float) -> bool:
    """Whether each known box was found exactly once, its edges off by at most `by_px`."""
    if len(found) != len(known):
        return False
    rows = sorted(map(tuple, found.xyxy_px.tolist()))
    return bool(np.abs(np.array(rows).reshape(-1, 4) - np.array(sorted(known)).reshape(-1, 4)).max(initial=0) <= by_px)


# -- where tiles lie ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(64, 2000), st.floats(0, 0.8))
def test_tiles_cover_the_side_and_overlap_by_what_was_asked(length_px, size_px, overlap):
    starts = tile_starts(length_px, size_px, overlap)

    assert starts[0] == 0
    assert starts[-1] + size_px >= length_px
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= size_px * (1 - overlap) + 1).all()


def test_an_image_that_fits_into_a_tile_is_looked_at_once():
    assert list(cut_into_tiles(1000, 800, Tiling(1000, 0.2, True))) == [(0, 0, 1000, 800)]
    assert list(cut_into_tiles(1000, 800, Tiling(0, 0.2, True))) == [(0, 0, 1000, 800)]


def test_the_whole_image_comes_last_where_it_is_wanted():
    tiles = list(cut_into_tiles(1000, 800, Tiling(600, 0.2, True)))

    assert tiles == [
        (0, 0, 600, 600),
        (400, 0, 1000, 600),
        (0, 200, 600, 800),
        (400, 200, 1000, 800),
        (0, 0, 1000, 800),
    ]
    assert list(cut_into_tiles(1000, 800, Tiling(600, 0.2, False))) == tiles[:-1]


# -- one box an object -------------------------------------------------------------------------------------------------


def test_an_object_that_two_tiles_see_whole_is_found_once():
    known = [(450.0, 300.0, 550.0, 380.0)]

    assert near(merge(look_at(known, Tiling(600, 0.2, False)), 0.7), known, 0)


def test_an_object_larger_than_the_overlap_is_put_together_from_its_parts():
    known = [(100.0, 100.0, 950.0, 180.0)]  # two tiles of 600 px see 500 and 550 px of it

    found = merge(look_at(known, Tiling(600, 0.2, False)), 0.7)

    assert near(found, known, 0)
    assert found.scores[0] == pytest.approx(0.5 + 0.4 * 550 / 850)


def test_an_object_in_the_corner_of_four_tiles_is_one():
    known = [(250.0, 150.0, 750.0, 700.0)]

    assert near(merge(look_at(known, Tiling(450, 0.2, False)), 0.7), known, 0)


def test_an_object_larger_than_any_tile_is_seen_whole_by_the_whole_image():
    known = [(20.0, 20.0, 980.0, 780.0), (300.0, 300.0, 330.0, 330.0)]  # a small one of the same label on it

    found = merge(look_at(known, Tiling(300, 0.2, True)), 0.7)

    assert near(found, known, 0)
    assert found.scores[0] == pytest.approx(0.9)


def test_two_objects_side_by_side_on_a_border_stay_two():
    known = [(430.0, 300.0, 500.0, 380.0), (445.0, 300.0, 515.0, 380.0)]  # their IoU is 0.65

    assert near(merge(look_at(known, Tiling(600, 0.2, False)), 0.7), known, 0)


def test_a_small_object_on_a_large_one_of_its_label_stays():
    known = [(100.0, 100.0, 500.0, 500.0), (420.0, 250.0, 470.0, 300.0)]  # merging by "mostly inside" would lose it

    assert near(merge(look_at(known, Tiling(600, 0.2, False)), 0.7), known, 0)


def test_boxes_of_two_labels_at_one_place_both_stay_but_synonyms_are_one():
    known = [(450.0, 300.0, 550.0, 380.0)] * 3

    found = merge(look_at(known, Tiling(600, 0.2, False), labels=[0, 1, 2]), 0.7)

    assert sorted(GROUPS[found.labels].tolist()) == [0, 1]


def test_a_part_under_a_wrong_name_goes_where_another_tile_sees_the_whole():
    """Half a heart at a border looks like a triangle."""
    tiling = Tiling(600, 0.2, False)
    hearts = look_at([(380.0, 300.0, 480.0, 380.0)], tiling)  # whole in the left tile, cut at 400 by the right one
    triangle = Boxes(np.array([[0, 300, 80, 380]], np.float32), np.array([0.6], np.float32), np.array([1]))
    hearts[1] = make_view(hearts[1].bounds_px, triangle, GROUPS, SIZE_PX)

    found = merge(hearts, 0.7)

    assert found.labels.tolist() == [0]
    assert found.xyxy_px.tolist() == [[380.0, 300.0, 480.0, 380.0]]


def test_nothing_found_is_nothing():
    found = merge(look_at([], Tiling(600, 0.2, True)), 0.7)

    assert len(found) == 0
    assert found.xyxy_px.shape == (0, 4)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([256, 333, 512, 700]), st.sampled_from([0.15, 0.25, 0.4]), st.booleans()
)  # fmt: skip
def test_any_scene_comes_out_as_it_is(seed, size_px, overlap, whole_image):
    """Objects of 20 to 300 px in a grid with gaps, whose edges the detector sees off by up to 2 px.

    Where every tile cuts an object, a part that is too small to be found is missing from its box: hence the IoU.
    """
    random = np.random.default_rng(seed)
    known = []
    for row in range(2):
        for column in range(3):
            width, height = random.uniform(20, 300, 2)
            left = column * 330 + random.uniform(0, 322 - width)
            top = row * 395 + random.uniform(0, 385 - height)
            known.append((left, top, left + width, top + height))
    views = look_at(known, Tiling(size_px, overlap, whole_image), jitter_px=2.0, seed=seed)

    found = merge(views, 0.7)

    assert len(found) == len(known), (known, found.xyxy_px)
    assert all(max(measure_iou(box, tuple(other)) for other in found.xyxy_px) > 0.6 for box in known)
    assert (np.diff(found.scores) <= 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([256, 333, 512]))
def test_unsure_boxes_never_change_what_becomes_of_sure_ones(seed, size_px):
    """A detector that is asked for unsure boxes, too, gives dozens about each object."""
    random = np.random.default_rng(seed)
    known = [(x, y, x + 90.0, y + 70.0) for x in (30.0, 300.0, 620.0, 850.0) for y in (40.0, 350.0, 690.0)]
    sure = look_at(known, Tiling(size_px, 0.25, True), jitter_px=2.0, seed=seed)

    noisy = [_with_unsure(view, random) for view in sure]
    found, expected = merge(noisy, 0.7, sure_score=0.3), merge(sure, 0.7)

    count = len(expected)
    assert found.xyxy_px[:count].tolist() == expected.xyxy_px.tolist()
    assert found.scores[:count].tolist() == expected.scores.tolist()
    assert (found.scores[count:] < 0.3).all()
    assert (np.diff(found.scores) <= 0).all()


def _with_unsure(view: View, random: np.random.Generator) -> View:
    """Each box once more with edges off by up to 12 px and a low score, and one where nothing is."""
    left, top, right, bottom = view.bounds_px
    boxes = np.concatenate([view.xyxy_px, [[left + 5, top + 5, left + 40, top + 30]]]).astype(np.float32)
    boxes = boxes + random.uniform(-12, 12, boxes.shape).astype(np.float32)
    low, high = np.float32([left, top, left, top]), np.float32([right, bottom, right, bottom])
    unsure = Boxes(np.clip(boxes, low, high) - low, random.uniform(0.05, 0.29, len(boxes)).astype(np.float32),
                   np.zeros(len(boxes), np.int64))  # fmt: skip
    added = make_view(view.bounds_px, unsure, GROUPS, SIZE_PX)
    names = ("xyxy_px", "scores", "labels", "groups", "cut")
    parts = {name: np.concatenate([getattr(view, name), getattr(added, name)]) for name in names}
    return View(view.bounds_px, **parts)


# -- where it is asked for ---------------------------------------------------------------------------------------------

CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="label" toName="image" {}><Label value="car"/></RectangleLabels></View>"""


def test_the_label_config_wins_over_the_settings():
    default = Tiling(512, 0.2, True)

    assert choose_tiling(default, read_label_config(CONFIG.format(""))) == default
    assert choose_tiling(default, read_label_config(CONFIG.format('tile="0"'))).size_px == 0
    asked = read_label_config(CONFIG.format('tile="1024" tile_overlap="0.3"'))
    assert choose_tiling(default, asked) == Tiling(1024, 0.3, True)


@pytest.mark.parametrize("attribute", ['tile="big"', 'tile="-1"', 'tile="5"', 'tile_overlap="0.9"', 'tile_overlap="x"'])
def test_a_bad_tile_is_refused_by_name(attribute):
    with pytest.raises(LabelConfigError, match=attribute.split("=")[0]):
        read_label_config(CONFIG.format(attribute))


def test_tiles_are_part_of_the_model_version_and_nothing_changes_without_them():
    def version(attribute: str = "", **variables: str) -> str:
        return stamp(Registry(read_settings(variables)).base, read_label_config(CONFIG.format(attribute)))

    plain = version()
    assert version('tile="0"') == plain
    assert version('tile="0"', TILE_SIZE_PX="512") == plain
    assert version(TILE_OVERLAP="0.5") == plain, "without tiles their overlap does not count"
    changed = [version('tile="1024"'), version('tile="512"'), version('tile="512" tile_overlap="0.4"'),
               version(TILE_SIZE_PX="512", TILE_WHOLE_IMAGE="false")]  # fmt: skip
    assert len({plain, *changed}) == 5
    assert version(TILE_SIZE_PX="512") == version('tile="512"')
