"""The doctor loads the model as a worker does, and what does not load is told with a remedy.

Called by: pytest. Uses the tiny model.
Must not import: Celery, redis.
Example: .venv/bin/python -m pytest tests/flow/test_doctor_model.py
"""

import pytest
from safetensors.numpy import load_file, save_file

from contract.registry import TINY, ZOO
from contract.settings import read_settings
from groundcrew.checks.labels import token_counter
from groundcrew.checks.model import check_device, check_model
from groundcrew.checks.patient import Patient

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mmcv")

CONFIG, CHECKPOINT, BERT = (ZOO / TINY / name for name in ("config.py", "model.safetensors", "bert"))


def patient(**fields: object) -> Patient:
    return Patient(read_settings({name: str(value) for name, value in fields.items()}))


def test_the_tiny_model_loads_and_its_card_is_shown():
    check = check_model(patient(score_threshold=0.4))

    assert check.status == "ok"
    assert "tiny-shapes-1 loads: boxes from score 0.40, NMS at IoU" in check.message
    assert "coloured shapes only" in check.message


def test_a_checkpoint_of_ones_own_is_loaded():
    check = check_model(patient(config_file=CONFIG, checkpoint_file=CHECKPOINT, lang_model=BERT))

    assert check.status == "ok"
    assert check.message.endswith("; model.safetensors")


def test_a_config_that_does_not_exist_is_a_problem():
    check = check_model(patient(config_file="grounding_dino_swin-x", checkpoint_file=CHECKPOINT))

    assert check.status == "problem"
    assert "grounding_dino_swin-x" in check.message
    assert "CONFIG_FILE" in check.remedy


def test_a_checkpoint_that_lacks_a_key_is_a_problem(tmp_path):
    weights = load_file(CHECKPOINT)
    missing = sorted(weights)[0]
    save_file({name: value for name, value in weights.items() if name != missing}, tmp_path / "lacking.safetensors")

    check = check_model(patient(config_file=CONFIG, checkpoint_file=tmp_path / "lacking.safetensors", lang_model=BERT))

    assert check.status == "problem"
    assert missing in check.message
    assert check.remedy == "Set CHECKPOINT_FILE and CONFIG_FILE to files that were made together."


def test_a_checkpoint_that_is_missing_is_a_problem(tmp_path):
    check = check_model(patient(config_file=CONFIG, checkpoint_file=tmp_path / "none.pth", lang_model=BERT))

    assert check.status == "problem"


def test_a_missing_language_model_is_a_problem():
    name = "mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365"

    check = check_model(patient(config_file=name, checkpoint_file=CHECKPOINT))

    assert check.status == "problem"
    assert "LANG_MODEL" in check.remedy


def test_the_device_is_named_and_one_that_is_not_there_is_a_problem():
    assert "cpu (DEVICE=cpu, torch" in check_device(patient(device="cpu")).message
    absent = check_device(patient(device="cuda:63"))
    assert absent.status == "problem"
    assert "DEVICE=auto or cpu" in absent.remedy


def test_a_full_size_model_on_a_cpu_is_a_warning():
    assert check_device(patient(device="cpu", config_file="x", checkpoint_file="x.pth")).status == "warning"


def test_tokens_are_counted_as_the_models_tokenizer_counts_them():
    count = token_counter(patient())

    assert count("red circle") == 2
    assert count("xylophone") > 1  # a word that the tiny vocabulary has to spell
    assert token_counter(patient(config_file="x", checkpoint_file="x.pth")) is None
