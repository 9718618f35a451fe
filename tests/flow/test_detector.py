"""Guarantees of worker/detectors/mmgdino.py with the tiny model: mmdet's results, whatever else is in the call.

The first ones say what a number may differ by: nothing but rounding separates a batch from single images, one caption
of a long list from a call with its names alone, and our path from mmdet's own.
"""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from contract.errors import (
    CheckpointMismatch,
    ConfigError,
    ImageUnreadable,
    LangModelMissing,
    OutOfDeviceMemory,
    PromptError,
    SettingsError,
)
from groundcrew.zoo.scenes import ALL_PAIRS, Scene, make_scene
from worker.detectors import mmgdino
from worker.detectors.base import Boxes, ModelSource
from worker.detectors.configs import prepare_for_inference, read_config
from worker.detectors.mmgdino import MMGroundingDino
from worker.detectors.preprocess import MAX_ASPECT_RATIO, Preprocessor

TINY = Path(__file__).parents[2] / "groundcrew" / "zoo" / "tiny-shapes"
CONFIG, CHECKPOINT = TINY / "config.py", TINY / "model.safetensors"
NAMES = tuple(f"{colour} {shape}" for colour, shape in ALL_PAIRS)
ODD_NAMES = (
    *("U.S. flag", "circle?", "(circle)", "circle (round)", "a_b__c", "3.5", "!!", ")(", "..a..", "a . b"),
    *("红绿灯", "🔴", "réd çircle", "  red \n\t circle  ", "x" * 150, "a [SEP] b", "[CLS]", "[PAD]"),
)
SIZES_PX = [(256, 256), (300, 420), (256, 256), (96, 200)]

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def detector() -> MMGroundingDino:
    return mmgdino.load(ModelSource("tiny-shapes", "1", str(CONFIG), CHECKPOINT), "cpu", threads=1, precision="fp32")


@pytest.fixture(scope="module")
def short_captions(detector: MMGroundingDino) -> MMGroundingDino:
    """The same model, as if it could read 32 tokens only."""
    return MMGroundingDino(detector._model, detector._preprocess, limit_tokens=32)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(seed, size_px=size_px) for seed, size_px in enumerate(SIZES_PX, start=100)]


@pytest.fixture(scope="module")
def images(scenes: list[Scene]) -> list[Image]:
    return [scene.image for scene in scenes]


def assert_equal(first: Boxes, second: Boxes, *, score: float = 1e-4, pixels: float = 0.05) -> None:
    """The same boxes up to rounding."""
    assert len(first) == len(second)
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_allclose(first.scores, second.scores, atol=score)
    np.testing.assert_allclose(first.xyxy_px, second.xyxy_px, atol=pixels)


def find_all(detector: MMGroundingDino, images: list[Image], prompts: tuple[str, ...] = NAMES[:12]) -> list[Boxes]:
    return detector.detect(images, prompts, score_threshold=0.05, nms_iou=None)


def test_a_batch_of_any_sizes_equals_its_images_one_by_one(detector: MMGroundingDino, images: list[Image]) -> None:
    together = find_all(detector, images)

    for image, boxes in zip(images, together, strict=True):
        (alone,) = find_all(detector, [image])
        assert_equal(boxes, alone)
        assert len(boxes) > 0


@pytest.mark.parametrize("bgr_to_rgb", [True, False])
def test_it_equals_mmdet_s_own_inference(bgr_to_rgb: bool, images: list[Image]) -> None:
    from mmdet.apis import inference_detector  # only after worker.detectors.stack has made mmcv.ops importable

    # Given the same weights behind mmdet.apis, for a model that reads RGB and for one that reads BGR
    config = prepare_for_inference(read_config(CONFIG), None)
    config.model.data_preprocessor.bgr_to_rgb = bgr_to_rgb
    model = mmgdino.build_model(config).eval()
    model.load_state_dict(load_file(CHECKPOINT))
    model.cfg = config
    prompts = (*NAMES[:6], "a shape - 3", "white")
    ours = MMGroundingDino(model, Preprocessor(config))

    found = ours.detect(images, prompts, score_threshold=0.0, nms_iou=None)

    for image, boxes in zip(images, found, strict=True):
        bgr = np.ascontiguousarray(image[..., ::-1])
        with DefaultScope.overwrite_default_scope("mmdet"):
            theirs = inference_detector(model, bgr, text_prompt=list(prompts), custom_entities=True).pred_instances
        np.testing.assert_allclose(boxes.scores, theirs.scores, atol=1e-5)
        right, bottom = image.shape[1], image.shape[0]  # mmdet's own boxes may lie in what was padded; ours may not
        inside = np.clip(theirs.bboxes, 0, [right, bottom, right, bottom])
        np.testing.assert_allclose(boxes.xyxy_px, inside, atol=0.01)
        np.testing.assert_array_equal(boxes.labels, theirs.labels)


def test_each_caption_of_a_long_list_equals_a_call_with_its_names_alone(
    detector: MMGroundingDino, short_captions: MMGroundingDino, images: list[Image]
) -> None:
    # Given 24 names, which fill more than one caption of 32 tokens
    prompts = NAMES[:24]
    captions = short_captions._encode(prompts)
    assert len(captions) > 2

    together = find_all(short_captions, images, prompts)

    for image, boxes in zip(images, together, strict=True):
        parts = []
        for caption in captions:
            ids = caption.prompt_ids.tolist()
            (part,) = find_all(detector, [image], tuple(prompts[i] for i in ids))
            parts += [
                (score, ids[label], *xyxy)
                for score, label, xyxy in zip(part.scores, part.labels, part.xyxy_px, strict=True)
            ]
        parts.sort(key=lambda row: -row[0])
        wanted = np.array(parts[: detector._max_boxes], dtype=np.float64)
        np.testing.assert_allclose(boxes.scores, wanted[:, 0], atol=1e-4)
        np.testing.assert_allclose(np.sort(boxes.labels), np.sort(wanted[:, 1]))
        np.testing.assert_allclose(np.sort(boxes.xyxy_px, 0), np.sort(wanted[:, 2:], 0), atol=0.05)


def test_a_list_cut_into_captions_finds_nearly_the_same_as_in_one(
    detector: MMGroundingDino, short_captions: MMGroundingDino, scenes: list[Scene]
) -> None:
    # Given 16 names in one caption or in two. Not equal: image and text see each other in fusion layers, and every
    # caption chooses its own queries. Measured over 60 scenes: see docs/why.md
    images = [scene.image for scene in scenes]
    prompts = tuple(dict.fromkeys(name for scene in scenes for name in scene.names))[:16]
    assert (len(detector._encode(prompts)), len(short_captions._encode(prompts))) == (1, 2)

    whole = detector.detect(images, prompts, score_threshold=0.4, nms_iou=0.7)
    cut = short_captions.detect(images, prompts, score_threshold=0.1, nms_iou=0.7)

    for expected, boxes in zip(whole, cut, strict=True):
        for label, score, xyxy_px in zip(expected.labels, expected.scores, expected.xyxy_px, strict=True):
            near = (boxes.labels == label) & (np.abs(boxes.xyxy_px - xyxy_px).max(1) < 10)
            assert np.abs(boxes.scores[near] - score).min(initial=1.0) < 0.25
    assert sum(map(len, whole)) >= 4


def test_more_names_than_the_text_length_are_all_looked_for(detector: MMGroundingDino, scenes: list[Scene]) -> None:
    # Given 160 names, twice the text length; the right ones stand at the end
    prompts = tuple(f"{size} {name}" for size in ("tiny", "huge") for name in NAMES[:40]) + NAMES
    assert len(detector._encode(prompts)) > 1

    found = detector.detect([scene.image for scene in scenes], prompts, score_threshold=0.0, nms_iou=None)

    labels = np.concatenate([boxes.labels for boxes in found])
    assert labels.max() >= len(prompts) - len(NAMES)
    assert set(labels.tolist()) <= set(range(len(prompts)))


def test_boxes_are_sorted_and_of_the_promised_types(detector: MMGroundingDino, images: list[Image]) -> None:
    for image, boxes in zip(images, find_all(detector, images), strict=True):
        height, width = image.shape[:2]
        assert (np.diff(boxes.scores) <= 0).all()
        assert (boxes.xyxy_px >= 0).all()
        assert (boxes.xyxy_px <= np.array([width, height, width, height]) + 1e-3).all()
        assert (boxes.xyxy_px.dtype, boxes.scores.dtype, boxes.labels.dtype) == (np.float32, np.float32, np.int64)


def test_no_box_is_below_the_threshold_and_none_above_it_is_lost(
    detector: MMGroundingDino, images: list[Image]
) -> None:
    (everything,) = detector.detect(images[:1], NAMES[:3], score_threshold=0.0, nms_iou=None)
    middle = float(everything.scores[len(everything) // 2])

    (some,) = detector.detect(images[:1], NAMES[:3], score_threshold=middle, nms_iou=None)

    np.testing.assert_array_equal(some.scores, everything.scores[everything.scores >= middle])


def test_nothing_found_is_an_empty_result(detector: MMGroundingDino, images: list[Image]) -> None:
    found = detector.detect(images[:2], NAMES[:3], score_threshold=1.1, nms_iou=0.5)

    assert [boxes.xyxy_px.shape for boxes in found] == [(0, 4), (0, 4)]
    assert [boxes.labels.shape for boxes in found] == [(0,), (0,)]


def test_no_images_give_no_results(detector: MMGroundingDino) -> None:
    assert detector.detect([], NAMES[:3], score_threshold=0.1, nms_iou=0.5) == []


def test_one_name_gives_a_box_for_each_query_though_the_config_asks_for_more(
    detector: MMGroundingDino, images: list[Image]
) -> None:
    model = detector._model
    limit = model.test_cfg["max_per_img"]
    model.test_cfg["max_per_img"] = 10 * model.num_queries
    greedy = MMGroundingDino(model, detector._preprocess)
    model.test_cfg["max_per_img"] = limit

    (boxes,) = greedy.detect(images[:1], ("red circle",), score_threshold=0.0, nms_iou=None)

    assert len(boxes) == model.num_queries


def test_equal_prompts_get_equal_boxes(detector: MMGroundingDino, images: list[Image]) -> None:
    (once,) = detector.detect(images[:1], ("red star", "blue ring"), score_threshold=0.02, nms_iou=None)
    (twice,) = detector.detect(images[:1], ("red star", "blue ring", " red_star "), score_threshold=0.02, nms_iou=None)

    for label, other in ((0, 0), (1, 1), (2, 0)):
        np.testing.assert_array_equal(twice.xyxy_px[twice.labels == label], once.xyxy_px[once.labels == other])
        np.testing.assert_array_equal(twice.scores[twice.labels == label], once.scores[once.labels == other])


def test_suppression_works_within_a_prompt_or_within_a_group(detector: MMGroundingDino, images: list[Image]) -> None:
    prompts = ("red star", "red_star", "blue ring")

    def count(nms_iou: float | None, groups: tuple[int, ...] | None = None) -> list[int]:
        (boxes,) = detector.detect(images[:1], prompts, score_threshold=0.0, nms_iou=nms_iou, groups=groups)
        return np.bincount(boxes.labels, minlength=3).tolist()

    every, own, shared = count(None), count(0.5), count(0.5, (7, 7, 3))

    assert every[0] == every[1] > own[0] == own[1] > 0
    assert shared == [own[0], 0, own[2]]


@pytest.mark.parametrize("prompt", ODD_NAMES)
def test_odd_names_change_nothing_about_their_neighbours(
    prompt: str, detector: MMGroundingDino, images: list[Image]
) -> None:
    (boxes,) = detector.detect(images[:1], ("red circle", prompt, "blue star"), score_threshold=0.0, nms_iou=None)

    assert np.isfinite(boxes.scores).all()
    assert set(boxes.labels.tolist()) <= {0, 1, 2}
    assert (boxes.labels != 1).any()


@pytest.mark.parametrize("prompt", ["", "  ", ".", "?", "( . )", "\u200b", "_"])
def test_a_name_without_a_word_is_refused_and_named(
    prompt: str, detector: MMGroundingDino, images: list[Image]
) -> None:
    with pytest.raises(PromptError) as refused:
        detector.detect(images[:1], ("red circle", prompt), score_threshold=0.1, nms_iou=None)

    assert repr(prompt) in refused.value.message


def test_no_prompts_and_too_long_prompts_are_refused(detector: MMGroundingDino, images: list[Image]) -> None:
    with pytest.raises(PromptError, match="list is empty"):
        detector.detect(images[:1], (), score_threshold=0.1, nms_iou=None)
    with pytest.raises(PromptError, match=r"'red red .* takes 30\d tokens; the model reads at most 254"):
        detector.detect(images[:1], ("circle", "red " * 300), score_threshold=0.1, nms_iou=None)


@pytest.mark.parametrize("shape", [(4, 400), (400, 4), (1, 1), (1, MAX_ASPECT_RATIO)])
def test_thin_and_tiny_images_are_looked_at(shape: tuple[int, int], detector: MMGroundingDino) -> None:
    # Given images with fewer feature cells than the decoder has queries, where mmdet itself fails
    image = np.full((*shape, 3), 200, dtype=np.uint8)

    (boxes,) = detector.detect([image], NAMES[:3], score_threshold=0.0, nms_iou=None)

    assert len(boxes) > 0
    assert np.isfinite(boxes.xyxy_px).all()
    assert (boxes.xyxy_px.max(0) <= np.array([shape[1], shape[0]] * 2) + 1e-3).all()


def test_an_image_too_thin_for_anything_is_refused(detector: MMGroundingDino) -> None:
    with pytest.raises(ImageUnreadable, match="101 x 1 pixels is too thin"):
        detector.detect([np.zeros((1, 101, 3), np.uint8)], NAMES[:3], score_threshold=0.1, nms_iou=None)


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))])
def test_an_array_that_is_no_rgb_image_is_a_programming_error(image: Image, detector: MMGroundingDino) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
        detector.detect([image], NAMES[:3], score_threshold=0.1, nms_iou=None)


def test_images_are_left_alone(detector: MMGroundingDino, images: list[Image]) -> None:
    flipped = images[1][:, ::-1]
    flipped.setflags(write=False)

    (boxes,) = find_all(detector, [flipped])
    (copied,) = find_all(detector, [flipped.copy()])

    assert_equal(boxes, copied)


def test_running_out_of_memory_has_its_own_error(detector: MMGroundingDino, images: list[Image]) -> None:
    # Given a real allocation of a petabyte on the way
    hungry = MMGroundingDino(detector._model, lambda image: torch.empty(1 << 50))

    with pytest.raises(OutOfDeviceMemory, match=r"1 image\(s\) did not fit into the memory of cpu"):
        hungry.detect(images[:1], NAMES[:3], score_threshold=0.1, nms_iou=None)


def test_other_errors_stay_what_they_are(detector: MMGroundingDino, images: list[Image]) -> None:
    broken = MMGroundingDino(detector._model, lambda image: torch.zeros(2) @ torch.zeros(3))

    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        broken.detect(images[:1], NAMES[:3], score_threshold=0.1, nms_iou=None)


def test_warming_up_needs_nothing(detector: MMGroundingDino) -> None:
    detector.warm_up()


def test_loading_and_detecting_never_reach_for_the_network(
    images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a machine where any connection is an error
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    detector = mmgdino.load(ModelSource("tiny-shapes", "1", str(CONFIG), CHECKPOINT), "cpu")

    assert len(find_all(detector, images[:1])) == 1


def test_half_precision_files_run_in_full_precision(detector: MMGroundingDino) -> None:
    assert {value.dtype for value in load_file(CHECKPOINT).values() if value.is_floating_point()} == {torch.float16}

    assert {parameter.dtype for parameter in detector._model.parameters()} == {torch.float32}


def test_a_file_as_the_published_ones_gives_the_same_boxes(
    detector: MMGroundingDino, images: list[Image], tmp_path: Path
) -> None:
    # Given what mmengine wrote in 2023: a log beside the weights, and the buffer that BERT had then
    state = {key: value.float() for key, value in load_file(CHECKPOINT).items()}
    state["language_model.language_backbone.body.model.embeddings.position_ids"] = torch.arange(512)[None]
    log = {"log_scalars": {"train/loss": HistoryBuffer([2.5, 1.5], [1, 1])}}
    torch.save({"meta": {"epoch": 30}, "state_dict": state, "message_hub": log}, tmp_path / "epoch_30.pth")

    source = ModelSource("tiny-shapes", "1", str(CONFIG), tmp_path / "epoch_30.pth")
    loaded = mmgdino.load(source, "cpu", precision="fp32")

    assert_equal(find_all(loaded, images[:1])[0], find_all(detector, images[:1])[0])


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    state = load_file(CHECKPOINT)
    state["bbox_head.reg_branches.0.0.wieght"] = state.pop("bbox_head.reg_branches.0.0.weight")
    save_file(state, tmp_path / "renamed.safetensors")

    with pytest.raises(CheckpointMismatch, match=r"1 missing: bbox_head\.reg_branches\.0\.0\.weight\. 1 unexpected"):
        mmgdino.load(ModelSource("tiny-shapes", "1", str(CONFIG), tmp_path / "renamed.safetensors"), "cpu")


def test_without_a_checkpoint_the_weights_are_random_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    mmgdino.load(ModelSource("tiny-shapes", "0", str(CONFIG)), "cpu").warm_up()

    assert "the weights are random" in caplog.text


@pytest.mark.parametrize(
    ("config", "lang_model", "error"),
    [
        ("grounding_dino_swin-t_pretrain_obj365", None, LangModelMissing),
        ("grounding_dino_swin-z", TINY / "bert", ConfigError),
        (str(CONFIG), TINY / "nowhere", LangModelMissing),
    ],
)
def test_a_source_that_is_incomplete_says_what_is_missing(
    config: str, lang_model: Path | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        mmgdino.load(ModelSource("m", "1", config, CHECKPOINT, lang_model), "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps", "", "cpu,cuda"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(SettingsError, match="DEVICE"):
        mmgdino.choose_device(device)


def test_auto_takes_the_gpu_where_there_is_one() -> None:
    assert mmgdino.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert mmgdino.choose_device("cpu") == torch.device("cpu")
