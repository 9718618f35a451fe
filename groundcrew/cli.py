"""The command line: `groundcrew up | demo | doctor | predict | jobs`.

Called by: people, Makefile, backend/_wsgi.py. Must not import at the top: torch, backend, worker (a --help stays fast).
Example: `groundcrew predict photo.jpg --prompt "red circle . blue square"`
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from contract.errors import GroundcrewError, SettingsError
from contract.settings import Settings, read_settings
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
@click.argument("job_id", required=False)
@click.option("--project", "project_id", type=int, help="Only this Label Studio project")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables")
@settings_options
def jobs(job_id: str | None, project_id: int | None, as_json: bool, **flags: Any) -> None:
    """What is queued, running, done and failed; or one job with its reason."""
    from groundcrew.jobs import print_jobs, show_jobs

    found = show_jobs(_settings_of_running_crew(flags), job_id, project_id)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_jobs(found)


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
