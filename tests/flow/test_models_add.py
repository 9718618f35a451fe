"""`groundcrew models add`: what is added loads, is data only, and is the file that was meant.

Called by: pytest. Uses the tiny model's real files. Must not import: Celery, redis.
Example: .venv/bin/python -m pytest tests/flow/test_models_add.py
"""

import hashlib
import shutil

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from contract.errors import CheckpointMismatch, CheckpointRefused, GroundcrewError
from contract.registry import ZOO, Registry
from contract.settings import read_settings
from groundcrew.cli import cli
from worker.detectors.base import ModelSource
from worker.detectors.mmgdino import load

TINY = ZOO / "tiny-shapes"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mmcv")


@pytest.fixture
def registry(tmp_path):
    return Registry(read_settings({"MODEL_DIR": str(tmp_path / "models")}))


@pytest.fixture
def add(tmp_path):
    def run(*arguments):
        command = ["models", "add", *map(str, arguments), "--model-dir", str(tmp_path / "models")]
        return CliRunner().invoke(cli, command, catch_exceptions=False).output

    return run


@pytest.fixture
def checkpoint(tmp_path):
    """The tiny model's weights as a .pth whose name carries its digits, as OpenMMLab's do."""
    path = tmp_path / "tiny.pth"
    torch.save({"state_dict": load_file(TINY / "model.safetensors")}, path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(tmp_path / f"tiny_20261125-{digits[:8]}.pth")


def load_version(made):
    return load(ModelSource(made.name, made.version, made.config, made.checkpoint, made.lang_model), "cpu")


def test_a_directory_becomes_a_version_that_serves_any_project(add, registry):
    said = add(TINY, "--name", "street", "--version", "2")
    assert "street-2 is registered" in said
    load_version(registry.get("street-2"))
    registry.promote(7, "street-2")
    assert registry.current(7).ref == "street-2"
    assert (registry.get("street-2").checkpoint.parent / "replay.zip").exists()


def test_a_config_with_its_checkpoint_becomes_a_version(add, registry, checkpoint):
    flags = ["--config-file", TINY / "config.py", "--checkpoint-file", checkpoint, "--lang-model", TINY / "bert"]
    add(*flags, "--name", "shapes", "--version", "9", "--sha256", checkpoint.stem[-8:].upper())
    version = registry.get("shapes-9")
    load_version(version)
    before, after = load_file(TINY / "model.safetensors"), load_file(version.checkpoint)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_file_than_the_one_that_was_meant_is_refused(add, registry, checkpoint):
    flags = ["--config-file", TINY / "config.py", "--lang-model", TINY / "bert", "--name", "x", "--version", "1"]
    with pytest.raises(CheckpointRefused, match=r"SHA-256 of .*, not 00000000: .*Download it again"):
        add(*flags, "--checkpoint-file", checkpoint, "--sha256", "00000000")
    renamed = checkpoint.rename(checkpoint.with_name("tiny_20261125-0123abcd.pth"))
    with pytest.raises(CheckpointRefused, match="not 0123abcd"):
        add(*flags, "--checkpoint-file", renamed)
    assert [row.ref for row in registry.list()] == [registry.base.ref]


def test_weights_that_do_not_fit_are_refused(add, registry, tmp_path):
    broken = shutil.copytree(TINY, tmp_path / "broken", ignore=shutil.ignore_patterns("card.json"))
    weights = load_file(broken / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("reg_branches.0.0.weight")))
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match="missing"):
        add(broken, "--name", "x", "--version", "1")
    assert [row.ref for row in registry.list()] == [registry.base.ref]


@pytest.mark.parametrize("more", [[], ["--name", "a/b", "--version", "1"]])
def test_a_model_without_a_name_is_refused(add, checkpoint, more):
    with pytest.raises(GroundcrewError, match="give --name and --version"):
        add("--config-file", TINY / "config.py", "--checkpoint-file", checkpoint, *more)


def test_nothing_to_add_is_said(add):
    with pytest.raises(GroundcrewError, match="Nothing to add: name a DIRECTORY"):
        add("--name", "x", "--version", "1")
