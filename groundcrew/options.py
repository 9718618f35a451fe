"""Command-line flags made from the settings, so that each setting is a variable and a flag with one description.

Called by: groundcrew.cli. Must not import: backend, worker.
Example: `@settings_options` above a click command gives it --port, --device, --config-file ... as keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from contract.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_SHORT = {"api_host": "--host", "api_port": "--port"}  #: as the older template calls them


def settings_options(command: F) -> F:
    """Add one option a setting; what is not given stays None, so that the environment or the default counts."""
    for name, field in reversed(Settings.model_fields.items()):
        flag = _SHORT.get(name, "--" + name.replace("_", "-"))
        command = click.option(flag, name, default=None, metavar=_metavar(field), help=_help(name, field))(command)
    return command


def _help(name: str, field: FieldInfo) -> str:
    default = field.get_default()
    shown = "" if default in (None, "") or isinstance(default, SecretStr) else f" [default: {default}]"
    return f"{field.description or ''}{shown} ({name.upper()})"


def _metavar(field: FieldInfo) -> str:
    kinds = {"int": "N", "float": "X", "bool": "true|false"}
    text = str(getattr(field.annotation, "__name__", field.annotation))
    return next((word for kind, word in kinds.items() if text.startswith(kind)), "PATH" if _is_path(field) else "TEXT")


def _is_path(field: FieldInfo) -> bool:
    return field.annotation in (Path, Path | None)
