"""The model that ships finds what is in fresh scenes, names it rightly, and loads with the tools of its makers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from groundcrew.zoo.detection import Detections, detect
from groundcrew.zoo.evaluate_tiny import ask_present_and, full_name, judge, mean_ap50
from groundcrew.zoo.metrics import rates_at
from groundcrew.zoo.scenes import make_scene
from groundcrew.zoo.tiny_model import TINY_SHAPES, load_tiny

# Said by mmcv and torch about their own code.
pytestmark = pytest.mark.filterwarnings(
    "ignore:position encoding of key", "ignore:torch.meshgrid", "ignore:checkpoint is None"
)

SCENES = 30
FIRST_SEED = 600_000  # neither training nor the figures of the card use these
LEAST_AP50_SEEN = 0.95
LEAST_AP50_HELD_OUT = 0.93
LEAST_MEAN_IOU = 0.92
MOST_BYTES = 10_000_000
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model():
    return load_tiny()


@pytest.fixture(scope="module")
def card():
    return json.loads((TINY_SHAPES / "card.json").read_text())


@pytest.fixture(scope="module")
def pictures(model):
    scenes = [make_scene(FIRST_SEED + number) for number in range(SCENES)]
    return judge(model, scenes, ask_present_and(8), full_name)


def with_fault(pictures, fault):
    """The same pictures, with every detection changed."""
    return [replace(picture, found=fault(picture)) for picture in pictures]


def shift_right(picture):
    """Every box moved by 5 % of its width."""
    found = picture.found
    boxes = found.boxes_xyxy_px.copy()
    boxes[:, 0::2] += 0.05 * (boxes[:, 2:3] - boxes[:, 0:1])
    return Detections(boxes, found.scores, found.labels)


def exchange_names(picture):
    """Every box named by the next name of the prompt."""
    found = picture.found
    return Detections(found.boxes_xyxy_px, found.scores, (found.labels + 1) % len(picture.names))


def test_it_is_mmdets_own_grounding_dino(model):
    from mmdet.models.detectors.grounding_dino import GroundingDINO

    assert type(model) is GroundingDINO


def test_it_finds_what_is_there_by_name(pictures):
    assert mean_ap50(pictures, held_out=False) >= LEAST_AP50_SEEN


def test_it_finds_pairs_that_training_never_showed(pictures):
    assert mean_ap50(pictures, held_out=True) >= LEAST_AP50_HELD_OUT


def test_its_boxes_fit(pictures, card):
    assert rates_at(pictures, card["score_threshold"]).mean_iou >= LEAST_MEAN_IOU


def test_its_default_threshold_parts_right_from_wrong(pictures, card):
    rates = rates_at(pictures, card["score_threshold"])

    assert rates.precision >= 0.93
    assert rates.recall >= 0.93


def test_boxes_shifted_by_a_twentieth_would_be_noticed(pictures, card):
    assert rates_at(with_fault(pictures, shift_right), card["score_threshold"]).mean_iou < LEAST_MEAN_IOU


def test_names_in_the_wrong_order_would_be_noticed(pictures):
    assert mean_ap50(with_fault(pictures, exchange_names)) < 0.3


@pytest.mark.parametrize("size_px", [(480, 640), (1024, 700)])
def test_boxes_are_in_pixels_of_the_picture_as_given(model, card, size_px):
    scenes = [make_scene(FIRST_SEED + number, size_px=size_px) for number in range(3)]

    rates = rates_at(judge(model, scenes, ask_present_and(3), full_name), card["score_threshold"])

    assert rates.recall >= 0.9
    assert rates.mean_iou >= 0.9


def test_words_for_what_is_not_there_find_nothing(model, card):
    image = make_scene(FIRST_SEED, counts=(3, 3)).image

    found = detect(model, image, ["person", "car", "dog"])

    assert len(found.above(card["score_threshold"]).scores) == 0


def test_mmdets_own_inference_tools_give_the_same_boxes(model, card, tmp_path):
    """`init_detector` and `inference_detector` read the test pipeline of the shipped config."""
    from mmdet.apis import inference_detector, init_detector
    from PIL import Image

    scene = make_scene(FIRST_SEED + 1, pairs=[("red", "circle"), ("blue", "square")], counts=(3, 3))
    Image.fromarray(scene.image).save(tmp_path / "scene.png")
    detector = init_detector(str(TINY_SHAPES / "config.py"), None, palette="coco", device="cpu")
    detector.load_state_dict(model.state_dict())

    theirs = inference_detector(
        detector, str(tmp_path / "scene.png"), text_prompt="red circle. blue square.", custom_entities=True
    ).pred_instances

    ours = detect(model, scene.image, ["red circle", "blue square"]).above(card["score_threshold"])
    best = torch.argsort(theirs.scores, descending=True)[: len(ours.scores)]
    np.testing.assert_allclose(theirs.scores[best].numpy(), ours.scores, atol=1e-3)
    np.testing.assert_allclose(theirs.bboxes[best].numpy(), ours.boxes_xyxy_px, atol=0.5)


def test_its_language_model_loads_with_transformers():
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(TINY_SHAPES / "bert", local_files_only=True)
    bert = BertModel.from_pretrained(TINY_SHAPES / "bert", add_pooling_layer=False, local_files_only=True)

    tokens = tokenizer("Red circle. purple gear.", return_tensors="pt")

    assert tokenizer.unk_token_id not in tokens.input_ids
    assert bert(**tokens).last_hidden_state.shape == (1, 8, 128)


def test_it_is_small_enough_to_ship_and_says_what_it_is(card):
    files = [*TINY_SHAPES.glob("bert/*"), *(TINY_SHAPES / name for name in ("config.py", "card.json", WEIGHTS))]
    size_bytes = sum(file.stat().st_size for file in files)

    assert size_bytes <= MOST_BYTES
    assert (card["name"], card["version"]) == ("tiny-shapes", "1")
    assert "not a photo detector" in card["text"]
