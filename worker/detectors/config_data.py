"""Reads the config of a published version as data: nothing in it runs, and it names no code but parts of detectors.

Called by `configs.read_config` for every config.py that lies in a model registry, which others may write to.
Must not import backend, groundcrew, torch or other detectors.
mmengine runs a config to read it, imports what `custom_imports` names, fetches what `_base_` names, and calls whatever
a dotted `type` names, os.system included (mmengine 0.10.7, Registry.get). A version needs none of that.
Example: `read_version_config(Path("models/versions/tiny-shapes-p3-1/config.py")).model.type == "GroundingDINO"`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config

from contract.errors import ConfigError

SECTIONS = frozenset({"default_scope", "model", "test_pipeline", "test_dataloader", "visualizer"})
LIMIT_BYTES = 1 << 20  #: the longest config of mmdet's wheel is 20 kB, flattened
WEIGHT_SOURCES = ("init_cfg", "pretrained")  #: would load another file; a version has its own weights
_OWN_FOLDER = re.compile(r"\{\{\s*fileDirname\s*\}\}")  #: the one variable of mmengine that versions use
_CLASS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def read_version_config(path: Path) -> Config:
    """The sections that inference and training need.

    Raises:
        ConfigError: the file holds more than plain values, or names code; the message says where.
    """
    sections: dict[str, object] = {}
    for statement in _parse(path).body:
        name = _assigned_name(statement, path)
        sections[name] = _check(_Reader(path).read(statement.value), path, name)
    return Config(sections, filename=str(path))


def _parse(path: Path) -> ast.Module:
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise ConfigError(f"{path} is longer than {LIMIT_BYTES} bytes: it is not the config of a version.")
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _assigned_name(statement: ast.stmt, path: Path) -> str:
    if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
        raise _refused(path, statement, "is a statement; the config of a version may only assign plain values")
    name = statement.targets[0].id
    if len(statement.targets) > 1 or name not in SECTIONS:
        raise _refused(path, statement, f"assigns {name!r}; known are {', '.join(sorted(SECTIONS))}")
    return name


class _Reader:
    """Literals of Python, and `dict(...)`, as mmengine writes configs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, node: ast.expr) -> object:
        if isinstance(node, ast.Dict):
            return self._dict(node)
        if isinstance(node, ast.List | ast.Tuple):
            values = [self.read(element) for element in node.elts]
            return values if isinstance(node, ast.List) else tuple(values)
        if isinstance(node, ast.Call):
            return self._call(node)
        try:
            value = ast.literal_eval(node)
        except ValueError as error:
            raise _refused(self._path, node, "is an expression, which would have to run") from error
        folder = str(self._path.parent)
        return _OWN_FOLDER.sub(lambda _: folder, value) if isinstance(value, str) else value

    def _dict(self, node: ast.Dict) -> dict[object, object]:
        if None in node.keys:
            raise _refused(self._path, node, "unpacks a dictionary")
        return {self.read(key): self.read(value) for key, value in zip(node.keys, node.values, strict=True) if key}

    def _call(self, node: ast.Call) -> dict[object, object]:
        plain = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        if not plain or any(keyword.arg is None for keyword in node.keywords):
            raise _refused(self._path, node, "is a call, which would have to run")
        return {keyword.arg: self.read(keyword.value) for keyword in node.keywords}


def _check(value: object, path: Path, place: str) -> object:
    """The same values, without what would load other weights. Raises ConfigError for names of code."""
    if isinstance(value, Mapping):
        return {key: _check_entry(key, entry, path, f"{place}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_check(entry, path, f"{place}[{number}]") for number, entry in enumerate(value))
    return value


def _check_entry(key: object, value: object, path: Path, place: str) -> object:
    if not isinstance(key, str) or key.startswith("_"):
        raise ConfigError(f"{path} holds {place}: keys of a version's config are names, none begins with _.")
    if key in WEIGHT_SOURCES:
        return None
    if key == "type" and not (isinstance(value, str) and _is_part(value)):
        raise ConfigError(f"{path} holds {place} = {value!r}: only parts that mmdet registers may be named, no code.")
    return _check(value, path, place)


def _is_part(name: str) -> bool:
    """A registered name. What has a dot, or is a module, mmengine would import when the registry does not know it."""
    return bool(_CLASS_NAME.fullmatch(name)) and importlib.util.find_spec(name) is None


def _refused(path: Path, node: ast.AST, problem: str) -> ConfigError:
    return ConfigError(f"{path}, line {getattr(node, 'lineno', 1)} {problem}.")
