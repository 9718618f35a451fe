"""Guarantees of worker/detectors/configs.py: names are found, nothing is downloaded, and the whole family predicts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from contract.errors import ConfigError, LangModelMissing
from worker.detectors.configs import find_config, list_shipped_configs, prepare_for_inference, read_config
from worker.detectors.mmgdino import MMGroundingDino, build_model
from worker.detectors.preprocess import Preprocessor

SWIN_T = "grounding_dino_swin-t_pretrain_obj365"

#: One name for each model that the configs of the wheel describe; the others differ in data and training only.
DISTINCT_MODELS = (
    f"mm_grounding_dino/{SWIN_T}",
    "mm_grounding_dino/grounding_dino_swin-t_finetune_8xb4_20e_cat",
    "mm_grounding_dino/grounding_dino_swin-l_pretrain_all",
    "grounding_dino/grounding_dino_swin-t_pretrain_obj365_goldg_cap4m",
    "grounding_dino/grounding_dino_swin-t_finetune_16xb2_1x_coco",
    "grounding_dino/grounding_dino_swin-t_finetune_8xb2_20e_cat",
    "grounding_dino/grounding_dino_swin-b_pretrain_mixeddata",
    "grounding_dino/grounding_dino_swin-b_finetune_16xb2_1x_coco",
    "grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco",
)

#: Swin-B of MM Grounding DINO was published after mmdet 3.3: its users bring this file along.
SWIN_B_FILE = f"""
_base_ = {str(find_config(SWIN_T))!r}
model = dict(
    backbone=dict(
        pretrain_img_size=384,
        embed_dims=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=12,
        drop_path_rate=0.3,
    ),
    neck=dict(in_channels=[256, 512, 1024]),
)
"""

SMALL_PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "FixScaleResize", "scale": (256, 256), "keep_ratio": True},
    {"type": "PackDetInputs", "meta_keys": ("ori_shape", "img_shape", "scale_factor")},
]


def describe_model(config: Config) -> str:
    """What a network is built from, as text."""
    return json.dumps(config.model.to_dict() | {"train_cfg": None, "test_cfg": None}, default=str)


@pytest.mark.parametrize(
    "name",
    [
        SWIN_T,
        f"{SWIN_T}.py",
        f"mm_grounding_dino/{SWIN_T}",
        "grounding_dino_swin-l_pretrain_all",
        "lvis/grounding_dino_swin-t_finetune_16xb4_1x_lvis",
        "grounding_dino_swin-t_finetune_16xb4_1x_lvis",
        "grounding_dino/grounding_dino_swin-b_pretrain_mixeddata.py",
    ],
)
def test_a_config_of_the_wheel_is_found_by_its_name(name: str) -> None:
    path = find_config(name)

    assert path.is_file()
    assert path.with_suffix("").as_posix().endswith(name.removesuffix(".py"))


def test_a_name_that_two_families_share_means_the_newer_one() -> None:
    assert find_config("grounding_dino_swin-t_pretrain_odinw13").parts[-3] == "mm_grounding_dino"
    assert find_config("grounding_dino/odinw/grounding_dino_swin-t_pretrain_odinw13").parts[-3] == "grounding_dino"


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SWIN_B_FILE)

    assert find_config(str(path)) == path


@pytest.mark.parametrize("name", ["grounding_dino_swin-t_pretrain_obj356", "swin-t_pretrain_obj365", "../setup", ""])
def test_an_unknown_name_is_refused_and_close_ones_are_listed(name: str) -> None:
    with pytest.raises(ConfigError, match="CONFIG_FILE") as refused:
        find_config(name)

    assert (SWIN_T in refused.value.message) == ("swin-t" in name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model = dict(", "SyntaxError"),
        ("_base_ = 'nowhere.py'", "nowhere.py"),
        ("model = dict(type='FasterRCNN')", "'FasterRCNN'; only 'GroundingDINO'"),
        ("optimizer = 1", "'none'; only 'GroundingDINO'"),
    ],
)
def test_a_file_that_is_no_config_of_ours_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(text)

    with pytest.raises(ConfigError, match=complaint):
        read_config(path)


@pytest.mark.parametrize("name", DISTINCT_MODELS)
def test_a_config_is_prepared_for_inference(name: str, thin_bert: Path) -> None:
    config = prepare_for_inference(read_config(find_config(name)), thin_bert)

    assert config.model.encoder.num_cp == 0
    assert not config.model.backbone.get("with_cp")
    assert config.model.language_model.name == str(thin_bert)
    assert "://" not in describe_model(config)
    Preprocessor(config)


def test_preparing_leaves_the_config_alone(thin_bert: Path) -> None:
    config = read_config(find_config(SWIN_T))

    prepare_for_inference(config, thin_bert)

    assert config.model.encoder.num_cp == 6
    assert config.model.language_model.name == "bert-base-uncased"


def test_without_a_language_model_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_config(find_config(SWIN_T))

    with pytest.raises(LangModelMissing, match=r"bert-base-uncased.*LANG_MODEL is not set.*hf download"):
        prepare_for_inference(config, None)
    with pytest.raises(LangModelMissing, match=r"LANG_MODEL .*nowhere is not a directory"):
        prepare_for_inference(config, tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["config.json", "vocab.txt", "model.safetensors"])
def test_an_incomplete_language_model_is_refused_and_the_missing_file_named(
    missing: str, thin_bert: Path, tmp_path: Path
) -> None:
    shutil.copytree(thin_bert, tmp_path / "bert")
    (tmp_path / "bert" / missing).unlink()

    with pytest.raises(LangModelMissing, match=missing):
        prepare_for_inference(read_config(find_config(SWIN_T)), tmp_path / "bert")


def test_a_config_may_name_a_directory_beside_itself(thin_bert: Path, tmp_path: Path) -> None:
    shutil.copytree(thin_bert, tmp_path / "words")
    path = tmp_path / "config.py"
    path.write_text(SWIN_B_FILE.replace("model = dict(", "model = dict(language_model=dict(name='words'),"))

    config = prepare_for_inference(read_config(path), None)

    assert config.model.language_model.name == str(tmp_path / "words")


def test_a_config_without_a_test_pipeline_is_refused() -> None:
    with pytest.raises(ConfigError, match="no usable test pipeline"):
        Preprocessor(Config({"model": {}}))


def test_a_config_whose_model_does_not_build_is_refused(thin_bert: Path) -> None:
    config = prepare_for_inference(read_config(find_config(SWIN_T)), thin_bert)
    config.model.backbone.type = "SwinTransformerV9"

    with pytest.raises(ConfigError, match=r"does not build: KeyError.*SwinTransformerV9"):
        build_model(config)


def predict_something(config: Config) -> int:
    """Boxes in one small grey image from random weights."""
    torch.manual_seed(0)
    model = build_model(config)
    model.init_weights()
    detector = MMGroundingDino(model, Preprocessor(Config({"test_pipeline": SMALL_PIPELINE})))
    grey = np.full((100, 120, 3), 114, dtype=np.uint8)
    (boxes,) = detector.detect([grey], ("red circle", "star"), score_threshold=0.0, nms_iou=None)
    assert np.isfinite(boxes.scores).all()
    assert np.isfinite(boxes.xyxy_px).all()
    return len(boxes)


@pytest.mark.slow
def test_every_config_of_the_wheel_describes_a_model_of_the_list(thin_bert: Path) -> None:
    configs = {
        name: prepare_for_inference(read_config(path), thin_bert) for name, path in list_shipped_configs().items()
    }

    for config in configs.values():
        Preprocessor(config)
    models = {name: describe_model(config) for name, config in configs.items()}
    assert len(models) > 50
    assert {models[name] for name in DISTINCT_MODELS} == set(models.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT_MODELS)
def test_every_model_of_the_wheel_builds_and_predicts(name: str, thin_bert: Path) -> None:
    config = prepare_for_inference(read_config(find_config(name)), thin_bert)

    assert predict_something(config) == config.model.test_cfg.max_per_img


@pytest.mark.slow
def test_a_swin_b_of_ones_own_builds_and_predicts(thin_bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "swin-b.py"
    path.write_text(SWIN_B_FILE)
    config = prepare_for_inference(read_config(path), thin_bert)

    assert config.model.backbone.embed_dims == 128
    assert predict_something(config) == 300
