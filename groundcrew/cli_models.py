"""The commands `groundcrew models list | show | promote | rollback | add`.

Called by: groundcrew.cli. Must not import at the top: torch, backend, worker, rich (a --help stays fast).
What they do is in groundcrew/models_command.py; here are their flags only.
Example: `groundcrew models promote tiny-shapes-p3-1`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from contract.settings import read_settings
from groundcrew.command_page import Page
from groundcrew.options import settings_options_shown
from groundcrew.output import json_option, print_found, say_or_json

_PROJECT = click.option("--project", "project_id", type=int, help="Label Studio's number of the project")
_REGISTRY = settings_options_shown("model_dir", "model_cache_dir", "config_file", "checkpoint_file")


@click.group(cls=Page)
def models() -> None:
    """Model versions: list, show, promote, roll back, add."""


@models.command("list")
@_PROJECT
@json_option
@_REGISTRY
def list_models(project_id: int | None, as_json: bool, **flags: Any) -> None:
    """The base model and all versions: which is current, which were refused and why."""
    from groundcrew import models_command as command

    print_found(command.list_models(read_settings(**flags), project_id), as_json, command.print_models)


@models.command("show")
@click.argument("ref")
@click.option("--pictures", "pictures_dir", type=click.Path(path_type=Path, file_okay=False),
              help="Put its pictures there: the loss, and precision over recall before and after")  # fmt: skip
@json_option
@_REGISTRY
def show_model(ref: str, pictures_dir: Path | None, as_json: bool, **flags: Any) -> None:
    """The card of one version: from what it was made, how it was measured before and after, how it is used."""
    from groundcrew import models_command as command

    print_found(command.show_model(read_settings(**flags), ref, pictures_dir), as_json, command.print_model)


@models.command("promote")
@click.argument("ref")
@_PROJECT
@json_option
@_REGISTRY
def promote_model(ref: str, project_id: int | None, as_json: bool, **flags: Any) -> None:
    """Make a version current for its project (or for --project), whatever the measurement said."""
    from groundcrew.models_command import promote_model
    from groundcrew.progress import waiting

    with waiting("fetching its files and comparing their checksums"):
        done = promote_model(read_settings(**flags), ref, project_id)
    say_or_json(done, as_json)


@models.command("rollback")
@click.option("--project", "project_id", type=int, required=True, help="Label Studio's number of the project")
@json_option
@_REGISTRY
def rollback_model(project_id: int, as_json: bool, **flags: Any) -> None:
    """Go back to the version that was current before."""
    from groundcrew.models_command import rollback_model
    from groundcrew.progress import waiting

    with waiting("fetching its files and comparing their checksums"):
        done = rollback_model(read_settings(**flags), project_id)
    say_or_json(done, as_json)


@models.command("add")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@click.option("--name", help="Unless card.json in the directory says it")
@click.option("--version", help="Unless card.json in the directory says it")
@click.option("--sha256", default="", help="First digits, or all, that the checkpoint must have. Those that "
              "OpenMMLab puts into the name of a .pth are always compared")  # fmt: skip
@json_option
@settings_options_shown("model_dir", "model_cache_dir", "config_file", "checkpoint_file", "lang_model")
def add_model(directory: Path | None, name: str | None, version: str | None, sha256: str, as_json: bool,
              **flags: Any) -> None:  # fmt: skip
    """Register a model as a version: a DIRECTORY with config.py, model.safetensors and bert/, or a config of mmdet
    with its checkpoint and language model."""
    from groundcrew.models_command import add_model
    from groundcrew.progress import waiting

    with waiting("reading the weights, copying the files and taking their checksums"):
        done = add_model(read_settings(**flags), directory, name, version, sha256)
    say_or_json(done, as_json)
