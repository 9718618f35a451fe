"""The generated world: equal seeds give equal scenes, boxes fit the pixels, held-out pairs stay out of training."""

import itertools

import numpy as np
import pytest

from groundcrew.zoo.prompts import phrase_of, sample_prompt
from groundcrew.zoo.scenes import (
    ALL_PAIRS,
    COLOURS,
    HELD_OUT_PAIRS,
    SEEN_PAIRS,
    SPARE_COLOURS,
    make_scene,
)
from groundcrew.zoo.shapes import SHAPES, SPARE_SHAPES
from groundcrew.zoo.stream import make_batches


def test_equal_seeds_give_equal_scenes():
    first, again, other = make_scene(3), make_scene(3), make_scene(4)

    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes_xyxy_px, again.boxes_xyxy_px)
    assert first.names == again.names
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize(
    ("size_px", "shape"), [(256, (256, 256, 3)), ((480, 640), (480, 640, 3)), ((341, 256), (341, 256, 3))]
)
def test_the_picture_has_the_size_asked_for(size_px, shape):
    scene = make_scene(5, size_px=size_px)

    assert scene.image.shape == shape
    assert scene.image.dtype == np.uint8


def test_boxes_lie_inside_the_picture_and_have_a_name():
    for seed in range(50):
        scene = make_scene(seed)
        x, y = scene.boxes_xyxy_px[:, 0::2], scene.boxes_xyxy_px[:, 1::2]

        assert x.min() >= 0
        assert x.max() <= 256
        assert y.min() >= 0
        assert y.max() <= 256
        assert len(scene.boxes_xyxy_px) == len(scene.names) == len(scene.pairs) > 0


@pytest.mark.parametrize(("colour", "shape"), [("red", shape) for shape in [*SHAPES, *SPARE_SHAPES]])
def test_boxes_are_tight_around_the_drawn_pixels(colour, shape):
    """A lone red shape is the only saturated thing of its picture: its pixels give the box."""
    for seed in range(10):
        scene = make_scene(seed, pairs=[(colour, shape)], counts=(1, 1))
        red, green, blue = np.moveaxis(scene.image.astype(int), 2, 0)
        rows, columns = np.nonzero(red - np.maximum(green, blue) > 85)

        drawn_xyxy_px = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]

        np.testing.assert_allclose(scene.boxes_xyxy_px[0], drawn_xyxy_px, atol=1)


def test_objects_hardly_cover_each_other():
    for seed in range(50):
        boxes = make_scene(seed, counts=(7, 7)).boxes_xyxy_px
        for first, second in itertools.combinations(boxes, 2):
            sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
            smaller = min(np.prod(first[2:] - first[:2]), np.prod(second[2:] - second[:2]))

            assert np.prod(np.clip(sides, 0, None)) <= 0.25 * smaller


def test_two_colours_of_each_shape_are_held_out():
    assert len(HELD_OUT_PAIRS) == len(set(HELD_OUT_PAIRS)) == 16
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)
    assert {colour for colour, _ in HELD_OUT_PAIRS} == set(COLOURS)
    assert set(SEEN_PAIRS) | set(HELD_OUT_PAIRS) == set(ALL_PAIRS)
    assert not set(SEEN_PAIRS) & set(HELD_OUT_PAIRS)


def test_training_neither_names_held_out_pairs_nor_spare_words_that_are_there():
    held_out = {f"{colour} {shape}" for colour, shape in HELD_OUT_PAIRS}

    for batch in itertools.islice(make_batches(0, 4), 10):
        for prompt, boxes in zip(batch.prompts, batch.boxes_xyxy_px, strict=True):
            assert not held_out & set(prompt.names)
            assert len(prompt.matches) == len(boxes)


def test_training_scenes_are_drawn_from_the_pairs_asked_for():
    for seed in range(100):
        assert not set(make_scene(seed, pairs=SEEN_PAIRS).pairs) & set(HELD_OUT_PAIRS)


def test_new_shapes_and_colours_can_be_drawn():
    scene = make_scene(1, pairs=[("purple", "gear")], counts=(3, 3))

    assert set(scene.names) == {"purple gear"}
    assert "purple" in SPARE_COLOURS


def test_an_unknown_shape_is_refused():
    with pytest.raises(KeyError, match="dodecahedron"):
        make_scene(1, pairs=[("red", "dodecahedron")])


@pytest.mark.parametrize(
    ("name", "matches"),
    [("red circle", True), ("circle", True), ("red object", True), ("blue circle", False), ("star", False)],
)
def test_a_name_means_what_it_says(name, matches):
    assert phrase_of(name).matches(("red", "circle")) is matches


def test_prompts_point_every_object_to_all_names_that_mean_it():
    random = np.random.default_rng(0)
    present = [("red", "circle"), ("blue", "star"), ("red", "star")]

    for _ in range(200):
        prompt = sample_prompt(random, present, SEEN_PAIRS, 20)

        for pair, numbers in zip(present, prompt.matches, strict=True):
            plain = [number for number, name in enumerate(prompt.names) if phrase_of(name).matches(pair)]
            assert set(plain) <= set(numbers)  # synonyms and plurals come on top
