"""Guarantees of worker/detectors/fast: mmdet's results in 32 bits, close ones in 16, whatever was asked before.

A small Swin with random weights, whose levels fit neither windows nor halves, and the tiny model.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from numpy.typing import NDArray
from safetensors.torch import load_file

from contract.errors import SettingsError
from groundcrew.zoo.scenes import ALL_PAIRS, make_scene
from worker.detectors.base import Boxes
from worker.detectors.configs import find_config, prepare_for_inference, read_config
from worker.detectors.fast.model import FastDino
from worker.detectors.fast.support import why_not, why_not_swin
from worker.detectors.mmgdino import MMGroundingDino, build_model
from worker.detectors.precision import choose_dtype, has_bfloat16
from worker.detectors.preprocess import Preprocessor
from worker.detectors.prompts import encode_prompts
from worker.detectors.stack import DetDataSample, GroundingDINO

TINY = Path(__file__).parents[2] / "groundcrew" / "zoo" / "tiny-shapes"
SWIN_T = "grounding_dino_swin-t_pretrain_obj365"
NAMES = tuple(f"{colour} {shape}" for colour, shape in ALL_PAIRS[:7])
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "FixScaleResize", "scale": (320, 220), "keep_ratio": True},
    {"type": "PackDetInputs", "meta_keys": ("ori_shape", "img_shape", "scale_factor")},
]
TYPES = [torch.float32, torch.bfloat16]

Image = NDArray[np.uint8]


def make_config(bert: Path) -> Config:
    """Swin-T's config, shrunk in width and depth, with what a shrunk one would not show left as it is."""
    config = prepare_for_inference(read_config(find_config(SWIN_T)), bert)
    config.model.backbone.update(embed_dims=24, depths=[2, 2, 2, 2], num_heads=[1, 2, 3, 4])
    config.model.neck.in_channels = [48, 96, 192]
    config.model.encoder.num_layers = config.model.decoder.num_layers = 2
    config.model.encoder.layer_cfg.ffn_cfg.feedforward_channels = 64
    config.model.num_queries = 80
    config.model.test_cfg.max_per_img = 100
    config.pop("test_dataloader")  # its pipeline would go before the small one
    config.test_pipeline = PIPELINE
    return config


def make_swin(config: Config, seed: int = 0) -> GroundingDINO:
    """Random weights, also where training starts with zeros."""
    torch.manual_seed(seed)
    model = build_model(copy.deepcopy(config))
    model.init_weights()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.03 * torch.randn_like(value)
    return model.eval()


@pytest.fixture(scope="module")
def swin_config(thin_bert: Path) -> Config:
    return make_config(thin_bert)


@pytest.fixture(scope="module")
def tiny_config() -> Config:
    return prepare_for_inference(read_config(TINY / "config.py"), None)


@pytest.fixture(scope="module")
def swin(swin_config: Config) -> GroundingDINO:
    return make_swin(swin_config)


@pytest.fixture(scope="module")
def tiny(tiny_config: Config) -> GroundingDINO:
    model = build_model(copy.deepcopy(tiny_config)).eval()
    model.load_state_dict(load_file(TINY / "model.safetensors"))
    return model


@pytest.fixture(scope="module", params=["swin", "tiny"])
def model_and_config(request: pytest.FixtureRequest) -> tuple[GroundingDINO, Config]:
    return request.getfixturevalue(request.param), request.getfixturevalue(f"{request.param}_config")


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [make_scene(seed, size_px=size).image for seed, size in enumerate([(256, 256), (310, 200), (256, 256)], 40)]


def find(detector: MMGroundingDino, images: list[Image], names: tuple[str, ...] = NAMES) -> list[Boxes]:
    return detector.detect(images, names, score_threshold=0.0, nms_iou=None)


def assert_equal(first: Boxes, second: Boxes, *, score: float = 1e-5, pixels: float = 0.05) -> None:
    """Scores rank by rank; each of the best boxes of one near a box of the other that has its name."""
    np.testing.assert_allclose(first.scores, second.scores, atol=score)
    for box, label in zip(first.xyxy_px[:20], first.labels[:20], strict=True):
        near = np.abs(second.xyxy_px[second.labels == label] - box).max(1)
        assert near.min(initial=np.inf) < pixels


def test_in_32_bits_it_equals_mmdet(model_and_config: tuple[GroundingDINO, Config], images: list[Image]) -> None:
    model, config = model_and_config
    plain = MMGroundingDino(model, Preprocessor(config), dtype=None)
    fast = MMGroundingDino(model, Preprocessor(config))

    for expected, boxes in zip(find(plain, images), find(fast, images), strict=True):
        assert_equal(boxes, expected)
        assert len(boxes) > 20


def test_the_small_swin_takes_the_fast_backbone_too(swin: GroundingDINO, tiny: GroundingDINO) -> None:
    assert (why_not(swin), why_not_swin(swin)) == ("", "")
    assert (why_not(tiny), why_not_swin(tiny)) == ("", "the backbone is a ResNet")


def test_in_16_bits_it_is_close(tiny: GroundingDINO, tiny_config: Config, images: list[Image]) -> None:
    plain = MMGroundingDino(tiny, Preprocessor(tiny_config), dtype=None)
    fast = MMGroundingDino(tiny, Preprocessor(tiny_config), dtype=torch.bfloat16)

    for expected, boxes in zip(find(plain, images), find(fast, images), strict=True):
        sure = expected.scores > 0.3
        np.testing.assert_allclose(boxes.scores[: sum(sure)], expected.scores[sure], atol=0.02)
        np.testing.assert_allclose(boxes.xyxy_px[: sum(sure)], expected.xyxy_px[sure], atol=2)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_batch_equals_its_images_one_by_one(
    dtype: torch.dtype, model_and_config: tuple[GroundingDINO, Config], images: list[Image]
) -> None:
    model, config = model_and_config
    fast = MMGroundingDino(model, Preprocessor(config), dtype=dtype)

    together = find(fast, images)

    for image, boxes in zip(images, together, strict=True):
        (alone,) = find(fast, [image])
        np.testing.assert_array_equal(boxes.scores, alone.scores)
        np.testing.assert_array_equal(boxes.xyxy_px, alone.xyxy_px)


def test_images_that_share_matrix_products_as_on_a_gpu_equal_single_ones(
    model_and_config: tuple[GroundingDINO, Config],
) -> None:
    model, _ = model_and_config
    caption = encode_prompts(model, NAMES, 256)[0]
    pixels = torch.randn(3, 3, 200, 264, generator=torch.Generator().manual_seed(0))
    samples = [DetDataSample(metainfo={"img_shape": (200, 264)})] * 3

    with torch.inference_mode():
        (together,) = FastDino(model, torch.float32, images_together=2).score(pixels, samples, [caption])
        (alone,) = FastDino(model, torch.float32, images_together=1).score(pixels, samples, [caption])

    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.sort(1).values, other.sort(1).values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_caption_of_a_long_list_equals_a_call_with_its_names_alone(
    dtype: torch.dtype, model_and_config: tuple[GroundingDINO, Config], images: list[Image]
) -> None:
    model, config = model_and_config
    whole = MMGroundingDino(model, Preprocessor(config), dtype=dtype)
    cut = MMGroundingDino(model, Preprocessor(config), limit_tokens=14, dtype=dtype)
    captions = cut._encode(NAMES)
    assert len(captions) > 1

    (together,) = find(cut, images[:1])

    parts = [find(whole, images[:1], tuple(NAMES[i] for i in caption.prompt_ids.tolist()))[0] for caption in captions]
    wanted = np.sort(np.concatenate([part.scores for part in parts]))[::-1][: len(together)]
    np.testing.assert_allclose(together.scores, wanted, atol=1e-5)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_remembered_of_sizes_prompts_and_weights_changes_nothing(
    dtype: torch.dtype, swin_config: Config, swin: GroundingDINO, images: list[Image]
) -> None:
    # Given two versions that have both seen other sizes, other prompts and each other's images
    preprocess = Preprocessor(swin_config)
    models = swin, make_swin(swin_config, seed=1)
    used = [MMGroundingDino(model, preprocess, dtype=dtype) for model in models]
    for image, names in zip(images, (NAMES[:1], NAMES[3:]), strict=False):
        for detector in used:
            find(detector, [image], names)

    for model, detector in zip(models, used, strict=True):
        for image in images[:2]:
            (fresh,) = find(MMGroundingDino(model, preprocess, dtype=dtype), [image])
            (again,) = find(detector, [image])
            np.testing.assert_array_equal(again.scores, fresh.scores)
            np.testing.assert_array_equal(again.xyxy_px, fresh.xyxy_px)
    assert not np.array_equal(find(used[0], images[:1])[0].scores, find(used[1], images[:1])[0].scores)


@pytest.mark.parametrize("pad", ["in a batch", "thin"])
def test_images_that_need_padding_take_mmdet_s_path(pad: str, swin_config: Config, images: list[Image]) -> None:
    # Given a preprocessor that pads to multiples of 64, or an image with fewer cells than queries
    config = copy.deepcopy(swin_config)
    if pad == "in a batch":
        config.model.data_preprocessor.pad_size_divisor = 64
    image = images[1] if pad == "in a batch" else np.full((6, 400, 3), 99, np.uint8)
    model = make_swin(config)

    (boxes,) = find(MMGroundingDino(model, Preprocessor(config), dtype=torch.bfloat16), [image])

    (plain,) = find(MMGroundingDino(model, Preprocessor(config), dtype=None), [image])
    np.testing.assert_array_equal(boxes.scores, plain.scores)


def test_a_model_it_does_not_know_takes_mmdet_s_path_and_says_so(
    swin_config: Config, images: list[Image], caplog: pytest.LogCaptureFixture
) -> None:
    config = copy.deepcopy(swin_config)
    config.model.encoder.layer_cfg.ffn_cfg.act_cfg = {"type": "GELU"}
    model = make_swin(config)

    (boxes,) = find(MMGroundingDino(model, Preprocessor(config), dtype=torch.bfloat16), images[:1])

    (plain,) = find(MMGroundingDino(model, Preprocessor(config), dtype=None), images[:1])
    np.testing.assert_array_equal(boxes.scores, plain.scores)
    assert caplog.text.count("mmdet's slower path: a feed-forward network has the activation GELU") == 1


def test_another_neck_keeps_the_fast_encoder(swin_config: Config, images: list[Image]) -> None:
    config = copy.deepcopy(swin_config)
    config.model.neck.act_cfg = {"type": "ReLU"}
    model = make_swin(config)
    assert (why_not(model), why_not_swin(model)) == ("", "the neck has another norm or an activation")

    (boxes,) = find(MMGroundingDino(model, Preprocessor(config)), images[:1])

    (plain,) = find(MMGroundingDino(model, Preprocessor(config), dtype=None), images[:1])
    assert_equal(boxes, plain)


def test_auto_takes_16_bits_where_the_processor_multiplies_them() -> None:
    cpu = torch.device("cpu")

    assert choose_dtype("fp32", cpu) == torch.float32
    assert choose_dtype("auto", cpu) == (torch.bfloat16 if has_bfloat16(cpu) else torch.float32)
    with pytest.raises(SettingsError, match="PRECISION 'fp16' is not one of auto, fp32, bf16"):
        choose_dtype("fp16", cpu)
