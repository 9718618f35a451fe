"""Which tiles of an annotated image are learned from, and what they show: computed by hand.

Called by: pytest. Must not import: torch, mmdet.
Example: .venv/bin/python -m pytest tests/unit/test_tile_plan.py
"""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from contract.errors import JobCancelled
from contract.tiling import Tiling
from worker.dataset import Category, Dataset, DatasetImage, DatasetInfo, LabelledBox
from worker.images import decode_image
from worker.tile_plan import plan_tiles
from worker.tiles import TileLook, cut_into_tiles
from worker.training.cuts import cut_training_images, take
from worker.training.samples import read_samples, write_samples

TWO_TILES = Tiling(600, 0.2, False)  # of an image of 1000 x 600: from 0 to 600, and from 400 to 1000
TEN_TILES = Tiling(300, 0.0, False)  # of an image of 3000 x 300


def plan(boxes, tiling=TWO_TILES, size_px=(1000, 600), task_id=7):
    return plan_tiles(size_px, np.array(boxes, np.float32).reshape(-1, 4), tiling, task_id)


def lefts(found):
    return [cut.bounds_px[0] for cut in found.cuts]


# -- boxes -------------------------------------------------------------------------------------------------------------


def test_boxes_are_clipped_to_each_tile_that_sees_enough_of_them():
    boxes = [
        (100, 100, 200, 200),  # the left tile's alone
        (450, 100, 550, 200),  # whole in both
        (350, 300, 550, 340),  # the right tile sees 150 of its 200 pixels
        (340, 400, 440, 440),  # 40 of 100: just enough
    ]

    left, right = plan(boxes).cuts

    assert left.bounds_px == (0, 0, 600, 600)
    assert left.numbers.tolist() == [0, 1, 2, 3]
    assert left.boxes_xyxy_px.tolist() == [list(box) for box in boxes]
    assert right.bounds_px == (400, 0, 1000, 600)
    assert right.numbers.tolist() == [1, 2, 3]
    assert right.boxes_xyxy_px.tolist() == [[50, 100, 150, 200], [0, 300, 150, 340], [0, 400, 40, 440]]
    assert len(left.hidden_xyxy_px) == len(right.hidden_xyxy_px) == 0


def test_what_a_tile_sees_too_little_of_is_hidden_and_no_example_of_nothing():
    """39 of 100 pixels: neither "here is one" nor "here is none"."""
    left, right = plan([(339, 500, 439, 540), (700, 100, 800, 200)]).cuts

    assert left.numbers.tolist() == [0]
    assert right.numbers.tolist() == [1]
    assert right.hidden_xyxy_px.tolist() == [[0, 500, 39, 540]]


def test_what_is_larger_than_any_tile_is_measured_by_the_tile_that_sees_most_of_it():
    """Each of both tiles sees 600 of 1000 pixels; of the other one 600 of 900 and 500 of 900."""
    left, right = plan([(0, 560, 1000, 580), (0, 100, 900, 120)]).cuts

    assert left.boxes_xyxy_px.tolist() == [[0, 560, 600, 580], [0, 100, 600, 120]]
    assert right.boxes_xyxy_px.tolist() == [[0, 560, 600, 580], [0, 100, 500, 120]]


def test_no_box_is_lost_however_long_it_is():
    """Of 3000 pixels no tile sees more than a tenth."""
    found = plan([(0, 100, 3000, 120)], TEN_TILES, (3000, 300))

    assert lefts(found) == list(range(0, 3000, 300))
    assert all(cut.boxes_xyxy_px.tolist() == [[0, 100, 300, 120]] for cut in found.cuts)


def test_the_whole_image_is_learned_with_all_boxes_where_prediction_looks_at_it():
    boxes = [(100, 100, 200, 200), (339, 500, 439, 540)]

    found = plan(boxes, Tiling(600, 0.2, True))

    assert [cut.bounds_px for cut in found.cuts] == [(0, 0, 600, 600), (0, 0, 1000, 600)], "the right one is a corner"
    assert found.cuts[-1].boxes_xyxy_px.tolist() == [list(box) for box in boxes]
    assert (found.tiles, found.tiles_without_boxes, found.left_out) == (1, 0, 1)


def test_an_image_that_fits_into_a_tile_stays_as_it_is():
    found = plan([(1, 2, 3, 4)], Tiling(1000, 0.2, True))

    assert [cut.bounds_px for cut in found.cuts] == [(0, 0, 1000, 600)]
    assert (found.tiles, found.left_out) == (0, 0)


# -- tiles without boxes -----------------------------------------------------------------------------------------------


def test_as_many_tiles_without_boxes_as_with_and_the_task_decides_which():
    boxes = [(310, 10, 350, 50), (610, 10, 650, 50)]

    found = plan(boxes, TEN_TILES, (3000, 300))

    assert (found.tiles, found.tiles_without_boxes, found.left_out) == (4, 2, 6)
    assert [len(cut.numbers) for cut in found.cuts].count(0) == 2
    assert {300, 600} < set(lefts(found))
    assert lefts(plan(boxes, TEN_TILES, (3000, 300))) == lefts(found)
    others = {tuple(lefts(plan(boxes, TEN_TILES, (3000, 300), task_id))) for task_id in range(20)}
    assert len(others) > 5


def test_one_tile_of_an_image_that_shows_nothing():
    found = plan([], TEN_TILES, (3000, 300))

    assert (found.tiles, found.tiles_without_boxes, found.left_out) == (1, 1, 9)


def test_a_tile_that_shows_only_a_corner_is_left_out():
    found = plan([(270, 10, 310, 50)], TEN_TILES, (3000, 300))

    assert 0 in lefts(found)
    assert 300 not in lefts(found)
    assert (found.tiles, found.tiles_without_boxes, found.left_out) == (2, 1, 8)


# -- pixels ------------------------------------------------------------------------------------------------------------


def test_hidden_pixels_have_the_mean_colour_except_where_another_box_lies():
    pixels = np.zeros((600, 1000, 3), np.uint8)
    pixels[:, 400:] = (10, 20, 30)
    pixels[500:540, 339:439] = 250  # of the object that is cut off
    before = pixels.copy()
    boxes = [(339, 500, 439, 540), (420, 530, 520, 590)]  # the other one lies on it a little
    _, right = plan(boxes).cuts

    tile = take(pixels, right)

    mean = before[:, 400:].reshape(-1, 3).mean(0).round()
    assert tile.shape == (600, 600, 3)
    assert (tile[500:530, :39] == mean).all()
    assert (tile[530:540, 20:39] == 250).all(), "it belongs to the box that is shown"
    assert (tile[530:540, :20] == mean).all()
    untouched = np.ones((600, 600), bool)
    untouched[500:540, :39] = False
    assert (tile[untouched] == before[:, 400:][untouched]).all()
    assert (pixels == before).all()


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    """Two images to learn from, the second one small, and one to measure with."""
    random = np.random.default_rng(3)
    sizes = {"large.png": (600, 1000), "small.png": (300, 400), "val.png": (600, 1000)}
    for name, (height, width) in sizes.items():
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / name)
    car, bus = LabelledBox(450, 100, 100, 100, 1), LabelledBox(100, 100, 50, 50, 2)
    images = [DatasetImage(11, "large.png", 1000, 600, "train", (bus, car)),
              DatasetImage(12, "small.png", 400, 300, "train", (bus,)),
              DatasetImage(13, "val.png", 1000, 600, "val", (car,))]  # fmt: skip
    return Dataset(DatasetInfo(1, "", "", ""), (Category(1, "car", ("car",)), Category(2, "bus", ("bus",))),
                   tuple(images), tmp_path, {}, (), TileLook(Tiling(600, 0.2, True), 0.3))  # fmt: skip


def cut(dataset, directory, cancelled=lambda: False, say=lambda done, total: None):
    return cut_training_images(dataset, directory, say, cancelled)


def test_tiles_are_files_with_the_pixels_that_prediction_sees(dataset, tmp_path):
    samples = cut(dataset, tmp_path / "tiles").split("train")

    assert [list(sample.category_ids) for sample in samples] == [[2, 1], [1], [2, 1], [2]]
    large = decode_image((tmp_path / "large.png").read_bytes(), limit_px=10**6)
    bounds = list(cut_into_tiles(1000, 600, dataset.tiles.tiling))
    assert len(bounds) == 3
    for sample, (left, top, right, bottom) in zip(samples, bounds, strict=False):
        shown = decode_image(sample.image_path.read_bytes(), limit_px=10**6)
        np.testing.assert_array_equal(shown, large[top:bottom, left:right])
    assert [sample.image_path.name for sample in samples[2:]] == ["large.png", "small.png"], "whole images: no copies"


@pytest.mark.slow
def test_an_image_that_a_raised_limit_lets_through_is_cut_too(dataset, tmp_path):
    """IMAGE_LIMIT_PX is 64 million by default: this one has 65, in one colour."""
    Image.new("L", (13000, 5000)).save(tmp_path / "huge.png")
    image = DatasetImage(14, "huge.png", 13000, 5000, "train", (LabelledBox(100, 100, 50, 50, 1),))
    huge = dataclasses.replace(dataset, images=(image,), tiles=TileLook(Tiling(1000, 0.0, False), 0.3))

    samples = cut(huge, tmp_path / "tiles").split("train")

    assert [list(sample.category_ids) for sample in samples].count([1]) == 1


def test_images_to_measure_with_stay_whole(dataset, tmp_path):
    data = cut(dataset, tmp_path / "tiles")

    (sample,) = data.split("val")
    assert sample.image_path == tmp_path / "val.png"
    assert data.tiles == dataset.tiles
    assert not list((tmp_path / "tiles").glob("13-*"))


def test_a_resumed_job_writes_only_what_is_missing_and_learns_from_the_same(dataset, tmp_path):
    # given the tiles of a trainer that was killed, the second one half written
    directory = tmp_path / "tiles"
    before = cut(dataset, directory).split("train")
    first, second = before[0].image_path, before[1].image_path
    written_ns, content = first.stat().st_mtime_ns, second.read_bytes()
    second.rename(second.with_name(f".{second.name}.0.part"))
    # when
    after = cut(dataset, directory).split("train")
    # then
    assert first.stat().st_mtime_ns == written_ns
    assert second.read_bytes() == content
    assert [sample.image_path for sample in after] == [sample.image_path for sample in before]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.boxes_xyxy_px, other.boxes_xyxy_px)


def test_whoever_waits_hears_how_many_images_are_cut(dataset, tmp_path):
    heard = []

    def say(done, total):
        heard.append((done, total, len(list(tmp_path.glob("tiles/*.png")))))

    cut(dataset, tmp_path / "tiles", say=say)

    assert heard == [(0, 2, 0), (1, 2, 2), (2, 2, 2)], "the first image is two tiles; the second one stays whole"


def test_cutting_can_be_cancelled(dataset, tmp_path):
    asked = []
    with pytest.raises(JobCancelled):
        cut(dataset, tmp_path / "tiles", lambda: bool(asked.append(1) or len(asked) > 1))
    assert len(list((tmp_path / "tiles").iterdir())) == 1


def test_without_tiles_the_dataset_is_learned_from_as_it_is(dataset, tmp_path):
    whole = dataclasses.replace(dataset, tiles=None)

    assert cut(whole, tmp_path / "tiles") is whole
    assert not (tmp_path / "tiles").exists()


def test_other_processes_learn_and_measure_in_the_same_tiles(dataset, tmp_path):
    data = cut(dataset, tmp_path / "tiles")
    write_samples(tmp_path / "samples.json", data)

    again = read_samples(tmp_path / "samples.json")

    assert again.tiles == dataset.tiles
    assert [s.image_path for s in again.split("train")] == [s.image_path for s in data.split("train")]


# -- dataset.json ------------------------------------------------------------------------------------------------------


def test_dataset_json_keeps_whole_images_and_says_how_they_are_cut(dataset, tmp_path):
    dataset.write(tmp_path / "work")

    again = Dataset.read(tmp_path / "work")

    assert again == dataset
    assert [image.width_px for image in again.images] == [1000, 400, 1000]
    tiles = {name: value for name, value in again.counts.items() if name.startswith("tile")}
    assert tiles == {"tile_size_px": 600, "tile_overlap_percent": 20, "tiles_train": 2,
                     "tiles_train_without_boxes": 0, "tiles_left_out": 0}  # fmt: skip


def test_without_tiles_dataset_json_and_its_hash_say_nothing_of_them(dataset, tmp_path):
    whole = dataclasses.replace(dataset, tiles=None)

    path = whole.write(tmp_path / "work")

    assert b"tile" not in path.read_bytes()
    assert not [name for name in whole.counts if name.startswith("tile")]
    assert len({whole.sha256, dataset.sha256}) == 2
