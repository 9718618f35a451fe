"""Guarantees of worker/training/captions.py and augment.py: what a training step asks for fits, and is true."""

import numpy as np
import pytest

from worker.training.augment import Augmentation, augment
from worker.training.captions import Caption, PromptBook, add_absent, make_book, sample_caption

PROMPTS = {1: ["cat"], 2: ["red car", "automobile"], 3: ["dog"], **{n: [f"thing {n}"] for n in range(4, 40)}}


def book(limit_tokens: int = 250, limit_names: int = 256) -> PromptBook:
    return make_book(PROMPTS, str.strip, lambda name: len(name.split()) + 1, limit_tokens, limit_names)


def captions(present: list[int], count: int = 300, **limits: int) -> list[Caption]:
    random = np.random.default_rng(0)
    return [sample_caption(random, book(**limits), present) for _ in range(count)]


def test_spans_are_where_the_names_are() -> None:
    caption = Caption(["red circle", "star"], [[1]])
    assert caption.text == "red circle. star. "
    assert [caption.text[start:end] for start, end in caption.spans] == ["red circle", "star"]


def test_every_box_is_matched_by_exactly_the_names_of_its_category() -> None:
    for caption in captions([1, 2, 2]):
        for category, group in zip([1, 2, 2], caption.matches, strict=True):
            assert {caption.names[place] for place in group} == set(PROMPTS[category]) & set(caption.names)


def test_short_and_long_lists_take_turns() -> None:
    lengths = [len(caption.names) for caption in captions([1, 3])]
    everything = sum(map(len, PROMPTS.values()))
    assert lengths.count(everything) > 80
    assert sum(length <= 2 for length in lengths) > 30
    assert sum(2 < length < everything for length in lengths) > 80


def test_captions_fit_the_model_and_keep_what_is_there() -> None:
    for caption in captions([1, 3], limit_tokens=20, limit_names=5):
        assert len(caption.names) <= 5
        assert sum(len(name.split()) + 1 for name in caption.names) <= 20
    longest = max(captions([1, 3], limit_tokens=20), key=lambda caption: len(caption.names))
    assert {"cat", "dog"} <= set(longest.names)


def test_an_empty_image_asks_for_something() -> None:
    assert all(caption.names and caption.matches == [] for caption in captions([]))


def test_a_project_of_one_label() -> None:
    one = make_book({5: ["cat"]}, str, len, 250, 256)
    assert sample_caption(np.random.default_rng(0), one, [5]).names == ["cat"]


def test_added_names_are_no_answer() -> None:
    random = np.random.default_rng(0)
    before = Caption(["star", "cat"], [[0], [1], []])
    for _ in range(50):
        after = add_absent(random, before, book(), tokens=6)
        assert [[after.names[place] for place in group] for group in after.matches] == [["star"], ["cat"], []]
        assert len(after.names) == len(set(after.names))
    assert add_absent(random, before, book(limit_tokens=6), tokens=6).names == before.names


def test_boxes_move_with_the_image() -> None:
    # given a white box on black
    pixels = np.zeros((80, 160, 3), np.uint8)
    pixels[20:60, 10:50] = 255
    boxes = np.array([[10, 20, 50, 60]], np.float32)
    random = np.random.default_rng(0)
    how = Augmentation(80, 200, crop_chance=0.7, flip_chance=0.5)
    seen_boxes = 0
    for _ in range(50):
        # when
        view, moved, seen = augment(random, pixels, boxes, how, scale=1.0)
        # then it is white inside
        if seen[0]:
            x0, y0, x1, y1 = moved[0].round().astype(int)
            assert view[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].min() > 200
            assert view[..., 0].astype(float).sum() == pytest.approx(255 * (x1 - x0) * (y1 - y0), rel=0.1)
            seen_boxes += 1
    assert seen_boxes > 25


def test_view_has_the_size_for_inference() -> None:
    pixels, none = np.zeros((100, 300, 3), np.uint8), np.zeros((0, 4), np.float32)
    plain = Augmentation(80, 200)
    assert augment(np.random.default_rng(0), pixels, none, plain, scale=1.0)[0].shape == (67, 200, 3)
    assert augment(np.random.default_rng(0), pixels, none, plain, scale=0.5)[0].shape == (33, 100, 3)


def test_view_is_padded_as_for_inference() -> None:
    white = np.full((100, 300, 3), 255, np.uint8)
    padded = Augmentation(80, 200, multiple_px=32, fill_rgb=(1, 2, 3))
    view, boxes, _ = augment(np.random.default_rng(0), white, np.array([[0, 0, 300, 100]]), padded, scale=1.0)
    assert view.shape == (96, 224, 3)
    assert view[:67, :200].min() == 255
    assert (view[67:] == (1, 2, 3)).all()
    assert (view[:, 200:] == (1, 2, 3)).all()
    assert boxes.tolist() == [[0, 0, 200, 67]]
