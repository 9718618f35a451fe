"""The benchmarks' detector and their report: the same boxes every time, and tables made of files."""

import json

import numpy as np

from benchmarks.metered_worker import Metered, read_calls
from benchmarks.report import write_report
from benchmarks.scale import middle_rate
from benchmarks.sleeping import SleepingDetector

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
PROMPTS = ("red circle", "blue square")


def look(detector, images, threshold=0.3):
    return detector.detect(images, PROMPTS, score_threshold=threshold, nms_iou=None)


def test_the_same_image_gets_the_same_boxes_whatever_stands_beside_it():
    detector = SleepingDetector(call_s=0, image_s=0)
    (alone,) = look(detector, [IMAGE])
    _, beside = look(detector, [IMAGE + 1, IMAGE])
    np.testing.assert_array_equal(alone.xyxy_px, beside.xyxy_px)
    np.testing.assert_array_equal(alone.labels, beside.labels)
    assert (alone.xyxy_px[:, :2] < alone.xyxy_px[:, 2:]).all()


def test_boxes_below_the_threshold_are_left_out():
    (found,) = look(SleepingDetector(call_s=0, image_s=0), [IMAGE], threshold=0.75)
    assert found.scores.tolist() == [np.float32(0.9), np.float32(0.8)]


def test_each_call_is_written_down_with_its_images(tmp_path):
    metered = Metered(SleepingDetector(call_s=0, image_s=0), tmp_path / "calls.jsonl")
    look(metered, [IMAGE])
    look(metered, [IMAGE, IMAGE])
    calls = read_calls(tmp_path / "calls.jsonl")
    assert [call.images for call in calls] == [1, 2]
    assert all(call.began_s <= call.ended_s for call in calls)


def test_the_rate_is_that_of_the_middle_of_the_run(tmp_path):
    path = tmp_path / "calls.jsonl"
    ends_s = [0, *range(100, 120), 500]
    path.write_text("".join(json.dumps([end - 1, end, 0, 2]) + "\n" for end in ends_s))
    assert middle_rate(read_calls(path)) == 2


def test_the_report_shows_every_saved_figure_its_origin_and_the_caveats(tmp_path):
    machine = {"processor": "a processor", "cores": 2, "memory_gib": 8, "load_average": [0.5, 0.4, 0.3]}
    figures = {"ratio": 4.2, "rows": [{"workers": 1, "images_per_s": 29}], "memory": {"API": [1, 2]}}
    saved = {"benchmark": "queue", "date": "a day", "machine": machine, "versions": {"redis": "7"}, "figures": figures}
    (tmp_path / "queue.json").write_text(json.dumps(saved))
    (tmp_path / "README.md").write_text("# Benchmarks\n\nabc\n\n## Caveats\n\n- shared machines\n")
    assert write_report(tmp_path, tmp_path / "README.md", tmp_path / "performance.md") == 1
    page = (tmp_path / "performance.md").read_text()
    for row in ("| ratio | 4.2 |", "| 1 | 29 |", "| API | 1, 2 |"):
        assert row in page
    for origin in ("a day; a processor, 2 cores", "redis 7", "- shared"):
        assert origin in page
    assert "abc" not in page
