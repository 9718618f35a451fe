"""Finds an mmdet config by path or by name, and makes it one for inference without any download.

Called by `mmgdino.load`, and by training and tests that build the same model.
Must not import backend, groundcrew or other detectors. A config file is code that runs when it is read: only the
operator's own path and the files of our and mmdet's wheels run; what lies in a model registry is read as data.
Example: `prepare_for_inference(read_config(find_config("grounding_dino_swin-t_pretrain_obj365")), Path("bert"))`.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
from pathlib import Path

from mmengine.config import Config, ConfigDict

from contract.errors import ConfigError, LangModelMissing
from contract.publish import CARD
from contract.registry import ZOO
from worker.detectors.config_data import read_version_config

#: Folders of mmdet's wheel whose configs build `GroundingDINO`; the first wins where both hold a name.
FAMILIES = ("mm_grounding_dino", "grounding_dino")


def find_config(name: str) -> Path:
    """The file behind CONFIG_FILE: an existing path, else a config of mmdet's wheel.

    Args:
        name: a path, or `[[folder/]sub-folder/]name[.py]` as in `mmdet/.mim/configs`.

    Raises:
        ConfigError: neither; the message lists close names.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = list_shipped_configs()
    wanted = name.removesuffix(".py")
    for shipped_name, shipped_path in shipped.items():
        if shipped_name == wanted or shipped_name.endswith(f"/{wanted}"):
            return shipped_path
    close = difflib.get_close_matches(path.stem, {Path(shipped_name).name: None for shipped_name in shipped}, 3, 0.3)
    raise ConfigError(
        f"CONFIG_FILE {name!r} is neither a file nor a config of mmdet's wheel. Close names: {', '.join(close)}."
    )


def list_shipped_configs() -> dict[str, Path]:
    """Name such as `mm_grounding_dino/lvis/grounding_dino_...` -> file, for every config in mmdet's wheel."""
    spec = importlib.util.find_spec("mmdet")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("mmdet is not installed: pip install 'groundcrew[worker]'.")
    root = Path(spec.submodule_search_locations[0]) / ".mim" / "configs"
    paths = (path for family in FAMILIES for path in sorted((root / family).rglob("grounding_dino_*.py")))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def read_config(path: Path) -> Config:
    """Run the operator's config file, or read that of a published version without running it.

    Raises:
        ConfigError: it fails, or describes another detector than `GroundingDINO`.
    """
    config = read_version_config(path) if _is_published(path) else _run_config(path)
    detector = config.get("model", {}).get("type", "none")
    if str(detector).rpartition(".")[2] != "GroundingDINO":
        raise ConfigError(f"CONFIG_FILE {path} describes the model {detector!r}; only 'GroundingDINO' can be served.")
    return config


def _run_config(path: Path) -> Config:
    try:
        return Config.fromfile(path)
    except Exception as error:  # the file is a program of the operator's: it can fail in any way
        raise ConfigError(f"CONFIG_FILE {path} cannot be read: {type(error).__name__}: {error}") from error


def _is_published(path: Path) -> bool:
    """Every version of a registry has its card beside the config; the zoo ships with this package."""
    return (path.parent / CARD).exists() and ZOO not in path.resolve().parents


def prepare_for_inference(config: Config, lang_model: Path | None) -> Config:
    """A copy that builds offline: no gradient checkpointing, no pretrained weights to fetch, BERT from a directory.

    Raises:
        LangModelMissing: there is no local BERT directory, or it lacks files.
    """
    prepared = config.copy()  # shallow
    prepared.model = copy.deepcopy(config.model)
    model = prepared.model
    model.encoder.num_cp = 0  # checkpointing of encoder layers needs fairscale, and only saves memory in training
    _switch_off(model.backbone, with_cp=False, init_cfg=None, pretrained=None)
    _switch_off(model, init_cfg=None)
    _switch_off(model.language_model, use_checkpoint=False)
    model.language_model.name = str(_find_lang_model(config, lang_model))
    return prepared


def _switch_off(section: ConfigDict, **values: bool | None) -> None:
    section.update({key: value for key, value in values.items() if key in section})


def _find_lang_model(config: Config, lang_model: Path | None) -> Path:
    name = config.model.language_model.name
    beside_config = Path(config.filename or "").parent / name
    candidates = [lang_model] if lang_model else [beside_config, Path(name)]
    directory = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if directory is None:
        where = f"LANG_MODEL {lang_model} is not a directory" if lang_model else "LANG_MODEL is not set"
        raise LangModelMissing(
            f"The config needs the language model {name!r}, {where}, and nothing is downloaded on its own. Fetch it "
            f"once with 'hf download {name} --local-dir {name}' and set LANG_MODEL to that directory."
        )
    _check_lang_model(directory)
    return directory


def _check_lang_model(directory: Path) -> None:
    needed = {
        "config.json": ("config.json",),
        "vocab.txt or tokenizer.json": ("vocab.txt", "tokenizer.json"),
        "model.safetensors or pytorch_model.bin": ("*.safetensors", "pytorch_model*.bin"),
    }
    missing = [name for name, patterns in needed.items() if not any(map(list, map(directory.glob, patterns)))]
    if missing:
        raise LangModelMissing(f"LANG_MODEL {directory} lacks {'; '.join(missing)}.")
