"""Command-line flags made from the settings, so that each setting is a variable and a flag with one description.

Called by: groundcrew.cli, groundcrew.bench, docs/hooks.py. Must not import: backend, worker.
Example: `@settings_options` above a click command gives it --port, --device, --config-file ... as keyword arguments;
`@settings_options_shown("redis_url")` gives it all of them too, but its --help names REDIS_URL only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from contract.settings import Settings
from groundcrew.command_page import SettingOption

F = TypeVar("F", bound=Callable[..., Any])

_SHORT = {"api_host": "--host", "api_port": "--port"}  #: as the older template calls them

#: Heading of the settings from this one on, in the order of contract/settings.py.
_SECTIONS = {
    "label_studio_url": "Label Studio",
    "redis_url": "Queue",
    "config_file": "Model",
    "score_threshold": "Boxes",
    "predict_wait_s": "When to predict and to train",
    "batch_size": "Limits and threads",
    "api_host": "The API",
}


def settings_options(command: F) -> F:
    """Add one option a setting; what is not given stays None, so that the environment or the default counts."""
    return settings_options_shown(*Settings.model_fields)(command)


def settings_options_shown(*names: str) -> Callable[[F], F]:
    """The same options, of which --help shows only the named ones."""

    def add(command: F) -> F:
        for name, field in reversed(Settings.model_fields.items()):
            command = click.option(
                flag_of(name), name, cls=SettingOption, section=section_of(name), hidden=name not in names,
                default=None, metavar=_metavar(field), help=_help(name, field),
            )(command)  # fmt: skip
        return command

    return add


def flag_of(name: str) -> str:
    """`label_studio_url` -> `--label-studio-url`"""
    return _SHORT.get(name, "--" + name.replace("_", "-"))


def section_of(name: str) -> str:
    """The heading that a setting stands under."""
    heading = ""
    for other in Settings.model_fields:
        heading = _SECTIONS.get(other, heading)
        if other == name:
            break
    return heading


def default_of(field: FieldInfo) -> str:
    """The default as people write it; empty for none and for secrets."""
    default = field.get_default()
    return "" if default in (None, "") or isinstance(default, SecretStr) else str(default)


def _help(name: str, field: FieldInfo) -> str:
    shown = f" [default: {default_of(field)}]" if default_of(field) else ""
    return f"{field.description or ''}{shown} ({name.upper()})"


def _metavar(field: FieldInfo) -> str:
    kinds = {"int": "N", "float": "X", "bool": "true|false"}
    text = str(getattr(field.annotation, "__name__", field.annotation))
    return next((word for kind, word in kinds.items() if text.startswith(kind)), "PATH" if _is_path(field) else "TEXT")


def _is_path(field: FieldInfo) -> bool:
    return field.annotation in (Path, Path | None)
