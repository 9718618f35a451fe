"""The command line: `groundcrew up | demo | doctor | predict | jobs | models | finetune | bench`.

Called by: people, Makefile, backend/_wsgi.py. Must not import at the top: torch, backend, worker (a --help stays fast).
Example: `groundcrew predict photo.jpg --prompt "red circle . blue square"`
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from contract.errors import GroundcrewError, SettingsError
from contract.settings import Settings, read_settings
from groundcrew.bench import bench
from groundcrew.options import settings_options


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="groundcrew")
@click.option("--debug", is_flag=True, help="Log everything, and show the traceback of an error")
def cli(debug: bool) -> None:
    """A crew of Grounding DINO workers that draws the boxes in Label Studio first.

    Start with `groundcrew demo`, or `groundcrew up` beside your own Label Studio. Exit codes: 0 done, 1 failed with one
    sentence on standard error, 2 wrong usage.
    """
    logging.basicConfig(level="DEBUG" if debug else "WARNING", format="%(levelname)s %(message)s")


@cli.command()
@settings_options
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes, a model each")
def up(workers: int, **flags: Any) -> None:
    """Start Redis, API, worker and writer on this machine, until Ctrl-C.

    Each flag is also an environment variable (in brackets); a flag wins.
    """
    from groundcrew.up import Up
    from groundcrew.welcome import print_welcome

    settings = read_settings(**flags)
    Up(settings, workers=workers, say=_say).run(lambda url: print_welcome(settings, url))


@cli.command()
@click.option("--once", is_flag=True, help="End after the check instead of staying up")
@click.option("--out", "out_dir", type=click.Path(path_type=Path), default=Path("demo/out"), show_default=True)
def demo(once: bool, out_dir: Path) -> None:
    """A real Label Studio with a project of generated images, labelled by real workers."""
    from groundcrew.demo import run_demo

    sys.exit(run_demo(once=once, out_dir=out_dir))


@cli.command()
@settings_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text")
def doctor(as_json: bool, **flags: Any) -> None:
    """Check Redis, Label Studio, token, model and device; each problem comes with its remedy."""
    from groundcrew.doctor import run_doctor

    settings: Settings | SettingsError
    try:
        settings = _settings_of_running_crew(flags)
    except SettingsError as error:  # a finding like any other
        settings = error
    sys.exit(run_doctor(settings, as_json=as_json))


@cli.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--prompt", required=True, help='What to find, for example "red circle . blue square"')
@click.option("--out", "out_dir", type=click.Path(path_type=Path), default=Path("predictions"), show_default=True)
@settings_options
def predict(images: tuple[Path, ...], prompt: str, out_dir: Path, **flags: Any) -> None:
    """Find boxes in image files, without any server; writes pictures with boxes and a COCO-style JSON."""
    from groundcrew.predict import predict_files

    predict_files(read_settings(**flags), images, prompt, out_dir)


@cli.command()
@click.argument("words", metavar="[[cancel] JOB_ID]", nargs=-1)
@click.option("--project", "project_id", type=int, help="Only this Label Studio project")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables")
@settings_options
def jobs(words: tuple[str, ...], project_id: int | None, as_json: bool, **flags: Any) -> None:
    """What is queued, running, done and failed; or one job with its reason; or cancel that job.

    A job that waits is cancelled at once; a fine-tune that runs is told to stop and does so within seconds.
    """
    from groundcrew.jobs import cancel_job, print_jobs, show_jobs

    settings = _settings_of_running_crew(flags)
    match words:
        case ():
            found = show_jobs(settings, None, project_id)
        case ("cancel", job_id):
            found = cancel_job(settings, job_id)
        case (job_id,) if job_id != "cancel":
            found = show_jobs(settings, job_id, project_id)
        case _:
            raise click.UsageError("say `jobs`, `jobs JOB_ID` or `jobs cancel JOB_ID`")
    _print(found, as_json, print_jobs)


@cli.group()
def models() -> None:
    """Model versions: list, show, promote, roll back, add."""


_PROJECT = click.option("--project", "project_id", type=int, help="Label Studio's number of the project")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table")


@models.command("list")
@_PROJECT
@_JSON
@settings_options
def list_models(project_id: int | None, as_json: bool, **flags: Any) -> None:
    """The base model and all versions: which is current, which were refused and why."""
    from groundcrew import models_command as command

    _print(command.list_models(read_settings(**flags), project_id), as_json, command.print_models)


@models.command("show")
@click.argument("ref")
@_JSON
@settings_options
def show_model(ref: str, as_json: bool, **flags: Any) -> None:
    """The card of one version: from what it was made, how it was measured, how it is used."""
    from groundcrew import models_command as command

    _print(command.show_model(read_settings(**flags), ref), as_json, command.print_model)


@models.command("promote")
@click.argument("ref")
@_PROJECT
@settings_options
def promote_model(ref: str, project_id: int | None, **flags: Any) -> None:
    """Make a version current for its project (or for --project), whatever the measurement said."""
    from groundcrew.models_command import promote_model

    _say(promote_model(read_settings(**flags), ref, project_id))


@models.command("rollback")
@click.option("--project", "project_id", type=int, required=True, help="Label Studio's number of the project")
@settings_options
def rollback_model(project_id: int, **flags: Any) -> None:
    """Go back to the version that was current before."""
    from groundcrew.models_command import rollback_model

    _say(rollback_model(read_settings(**flags), project_id))


@models.command("add")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", help="Unless card.json in the directory says it")
@click.option("--version", help="Unless card.json in the directory says it")
@settings_options
def add_model(directory: Path, name: str | None, version: str | None, **flags: Any) -> None:
    """Register a directory with config.py, model.safetensors and perhaps bert/ as a version."""
    from groundcrew.models_command import add_model

    _say(add_model(read_settings(**flags), directory, name, version))


@cli.command()
@click.option("--project", "project_id", type=int, required=True, help="Label Studio's number of the project")
@click.option("--base", default="", help="Version to start from  [default: the current one]")
@click.option("--set", "pairs", metavar="NAME=VALUE", multiple=True, help="Training option, for example epochs=5")
@click.option("--detach", is_flag=True, help="Print the job's id and end, instead of showing how far it is")
@settings_options
def finetune(project_id: int, base: str, pairs: tuple[str, ...], detach: bool, **flags: Any) -> None:
    """Make a better version out of a project's annotations; it becomes current only if it is better.

    Ctrl-C ends this display, not the job. Exit codes: 0 done, whether promoted or refused; 1 failed or cancelled.
    """
    from groundcrew import finetune_command as command

    settings = _settings_of_running_crew(flags)
    job_id = command.request_finetune(settings, project_id, base=base, options=command.read_options(pairs))
    click.echo(job_id)
    if not command.trainers(settings):
        _say("no trainer is alive, so it waits; start one with `groundcrew up` or `python -m worker train`")
    if not detach:
        _say(command.conclude(command.follow(settings, job_id)))


def _print(found: Any, as_json: bool, print_table: Callable[[Any], None]) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_table(found)


def _settings_of_running_crew(flags: dict[str, Any]) -> Settings:
    """Settings that point at the Redis and the API of `groundcrew up` in this directory, unless others are named."""
    from groundcrew.up import STATE_FILE

    settings = read_settings(**flags)
    if settings.redis_url or not STATE_FILE.exists():
        return settings
    state = json.loads(STATE_FILE.read_text(encoding="utf-8"))
    api = urlsplit(state["api_url"])
    found = {"redis_url": state["redis_url"], "api_host": api.hostname, "api_port": api.port}
    return settings.model_copy(
        update={name: value for name, value in found.items() if name not in settings.model_fields_set}
    )


def _say(sentence: str) -> None:
    click.echo(f"groundcrew: {sentence}", err=True)


cli.add_command(bench)


def main() -> None:
    """Entry point: an error is one sentence; its traceback is shown with --debug only."""
    try:
        cli()
    except GroundcrewError as error:
        logging.debug("details", exc_info=error)
        click.echo(f"groundcrew: {error.code}: {error.message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
