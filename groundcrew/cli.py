"""The command line: `groundcrew up | demo | doctor | predict | jobs | models | finetune | bench | completion`.

Called by: people, Makefile, backend/_wsgi.py. Must not import at the top: torch, backend, worker (a --help stays fast).
Example: `groundcrew predict photo.jpg --prompt "red circle . blue square"`
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click

from contract.errors import BrokerUnavailable, GroundcrewError, SettingsError
from contract.settings import Settings, read_settings
from groundcrew.bench import bench
from groundcrew.cli_models import models
from groundcrew.command_page import Page
from groundcrew.exit_codes import ExitCode, exit_code_of
from groundcrew.options import settings_options, settings_options_shown
from groundcrew.output import json_option, print_found, say

SECTIONS = {
    "Start": ("demo", "up", "doctor"),
    "Find boxes": ("predict",),
    "Watch": ("jobs",),
    "Get better": ("finetune", "models"),
    "Tools": ("bench", "completion"),
}
EXAMPLES = """
groundcrew demo                                               see it at work, with a Label Studio of its own
groundcrew up --label-studio-url http://localhost:8080        beside your Label Studio
groundcrew predict photos/ --prompt "car . traffic light"     boxes for files, without any server
groundcrew finetune --project 1                               learn from what project 1 corrected
eval "$(groundcrew completion bash)"                          completion with the tab key, in this shell
"""


@click.group(
    cls=Page,
    sections=SECTIONS,
    examples=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="groundcrew")
def cli() -> None:
    """A crew of Grounding DINO workers that draws the boxes in Label Studio first.

    Start with `groundcrew demo`, or `groundcrew up` beside your own Label Studio. Each setting is a flag and an
    environment variable; a flag wins. Results go to standard output, everything else to standard error.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partly done, 4 try again later, 70 a bug, 130 Ctrl-C.
    """
    logging.basicConfig(format="%(levelname)s %(message)s")


@cli.command()
@settings_options
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes, a model each")
@json_option
def up(workers: int, as_json: bool, **flags: Any) -> None:
    """Start Redis, API, worker and writer on this machine, until Ctrl-C.

    Each flag is also an environment variable (in brackets); a flag wins.
    """
    from groundcrew.credentials import CREDENTIALS_FILE, describe_new, with_credentials
    from groundcrew.up import Up
    from groundcrew.welcome import print_welcome

    settings, made = with_credentials(read_settings(**flags), CREDENTIALS_FILE)
    if made:
        say("\n".join(describe_new(settings, CREDENTIALS_FILE)))

    def on_ready(url: str) -> None:
        if as_json:
            click.echo(json.dumps({"url": url, "pid": os.getpid(), "workers": workers}))
        else:
            print_welcome(settings, url)

    Up(settings, workers=workers, say=say).run(on_ready)


@cli.command()
@click.option("--once", is_flag=True, help="End after the check instead of staying up")
@click.option("--out", "out_dir", type=click.Path(path_type=Path), default=Path("demo/out"), show_default=True)
@json_option
def demo(once: bool, out_dir: Path, as_json: bool) -> None:
    """A real Label Studio with a project of generated images, labelled by real workers.

    Its last line is a JSON object with what was found; with --json everything else goes to standard error.
    """
    from groundcrew.demo import run_demo

    sys.exit(run_demo(once=once, out_dir=out_dir, steps=sys.stderr if as_json else sys.stdout))


@cli.command()
@settings_options_shown("label_studio_url", "label_studio_api_key", "redis_url", "config_file", "checkpoint_file",
                        "lang_model", "device", "model_dir", "prompt_map_file")  # fmt: skip
@json_option
def doctor(as_json: bool, **flags: Any) -> None:
    """Check Redis, Label Studio, token, model and device; each problem comes with its remedy."""
    from groundcrew.doctor import run_doctor

    settings: Settings | SettingsError
    try:
        settings = settings_of_running_crew(flags)
    except SettingsError as error:  # a finding like any other
        settings = error
    sys.exit(run_doctor(settings, as_json=as_json))


@cli.command()
@click.argument("sources", metavar="[FILE|FOLDER|GLOB|URL]...", nargs=-1)
@click.option("--prompt", help='What to find, for example "red circle . blue square"')
@click.option("--project", "project_id", type=int, help="All tasks of this Label Studio project, for its own labels")
@click.option("--out", "out_dir", type=click.Path(path_type=Path), default=Path("predictions"), show_default=True)
@click.option("--format", "formats", default="pictures,coco", show_default=True, metavar="LIST",
              help="What to write, with commas between: pictures, coco, label-studio")  # fmt: skip
@click.option("--image-prefix", default="", metavar="URL",
              help="For label-studio: what stands before a file's name; without it the file is embedded")  # fmt: skip
@json_option
@settings_options_shown("label_studio_url", "label_studio_api_key", "local_files_root", "config_file",
                        "checkpoint_file", "lang_model", "device", "model_dir", "torch_threads", "score_threshold",
                        "nms_iou", "tile_size_px", "tile_overlap", "tile_whole_image", "prompt_map_file",
                        "batch_size", "image_limit_px")  # fmt: skip
def predict(sources: tuple[str, ...], prompt: str | None, project_id: int | None, out_dir: Path, formats: str,
            image_prefix: str, as_json: bool, **flags: Any) -> None:  # fmt: skip
    """Find boxes in files, folders, addresses or a whole project, without any server.

    Writes pictures with boxes drawn, predictions.json in COCO's form and, with --format label-studio, tasks.json and
    label-config.xml to import into Label Studio. Nothing is sent to Label Studio.

    \b
    groundcrew predict photos/ --prompt "car . person"
    groundcrew predict 'shots/*.png' https://example.org/a.jpg --prompt car --format coco,label-studio
    groundcrew predict --project 3 --format label-studio
    """
    from groundcrew.predict import predict_project, predict_sources, print_summary
    from groundcrew.predict_output import Output

    output = Output.read(out_dir, formats, image_prefix)
    match (bool(sources), prompt, project_id):
        case (True, str(), None):
            found = predict_sources(read_settings(**flags), sources, prompt, output)
        case (False, _, int()):
            found = predict_project(settings_of_running_crew(flags), project_id, output, prompt)
        case (True, None, None):
            raise click.UsageError('say what to find, for example --prompt "red circle . blue square"')
        case _:
            raise click.UsageError("name files, folders, patterns or addresses, or else --project N")
    print_found(found, as_json, print_summary)


@cli.command()
@click.argument("words", metavar="[[cancel] JOB_ID | dead | replay ID | drop ID]", nargs=-1)
@click.option("--project", "project_id", type=int, help="Only this Label Studio project")
@click.option("--all", "every", is_flag=True, help="With replay or drop: all dead letters")
@json_option
@settings_options_shown("redis_url")
def jobs(words: tuple[str, ...], project_id: int | None, every: bool, as_json: bool, **flags: Any) -> None:
    """What is queued, running, done and failed; or one job with its reason; or cancel that job.

    A job that waits is cancelled at once; a fine-tune that runs is told to stop and does so within seconds.
    `dead` lists what was given up and why; `replay` sends it again, `drop` forgets it.
    """
    from groundcrew import dead_letters
    from groundcrew.jobs import cancel_job, print_jobs, show_jobs

    settings = _with_redis(settings_of_running_crew(flags))
    if words and words[0] in ("dead", "replay", "drop"):
        if (len(words) > 1) == (every or words[0] == "dead"):
            raise click.UsageError("say `jobs dead`, `jobs replay ID`, `jobs drop ID`, or --all in place of the id")
        act = {"dead": dead_letters.list_dead, "replay": dead_letters.replay_dead, "drop": dead_letters.drop_dead}
        named = {} if words[0] == "dead" else {"ids": words[1:], "every": every}
        print_found(act[words[0]](settings, **named), as_json, dead_letters.print_dead)
        return
    match words:
        case ():
            found = show_jobs(settings, None, project_id)
        case ("cancel", job_id):
            found = cancel_job(settings, job_id)
        case (job_id,) if job_id != "cancel":
            found = show_jobs(settings, job_id, project_id)
        case _:
            raise click.UsageError("say `jobs`, `jobs JOB_ID` or `jobs cancel JOB_ID`")
    print_found(found, as_json, print_jobs)


@cli.command()
@click.option("--project", "project_id", type=int, required=True, help="Label Studio's number of the project")
@click.option("--base", default="", help="Version to start from  [default: the current one]")
@click.option("--set", "pairs", metavar="NAME=VALUE", multiple=True, help="Training option, for example epochs=5")
@click.option("--detach", is_flag=True, help="Print the job's id and end, instead of showing how far it is")
@json_option
@settings_options_shown("redis_url")
def finetune(project_id: int, base: str, pairs: tuple[str, ...], detach: bool, as_json: bool, **flags: Any) -> None:
    """Make a better version out of a project's annotations; it becomes current only if it is better.

    Ctrl-C ends this display, not the job. Exit codes: 0 done, whether promoted or refused; 1 failed or cancelled.
    """
    from groundcrew import finetune_command as command

    settings = _with_redis(settings_of_running_crew(flags))
    job_id = command.request_finetune(settings, project_id, base=base, options=command.read_options(pairs))
    if not as_json:
        click.echo(job_id)
    if not command.trainers(settings):
        say("no trainer is alive, so it waits; start one with `groundcrew up` or `python -m worker train`")
    found = {"id": job_id} if detach else command.follow(settings, job_id)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif not detach:
        say(command.conclude(found))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """The script that lets a shell complete commands and flags with the tab key.

    \b
    bash   eval "$(groundcrew completion bash)"     in ~/.bashrc, or once in this shell
    zsh    eval "$(groundcrew completion zsh)"      in ~/.zshrc
    fish   groundcrew completion fish > ~/.config/fish/completions/groundcrew.fish
    """
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None  # click knows all three
    click.echo(complete(cli, {}, "groundcrew", "_GROUNDCREW_COMPLETE").source())


def settings_of_running_crew(flags: dict[str, Any]) -> Settings:
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


def _with_redis(settings: Settings) -> Settings:
    """Raises BrokerUnavailable where nobody said which Redis, and no crew runs in this directory."""
    if not settings.redis_url:
        raise BrokerUnavailable("no crew runs in this directory: start `groundcrew up` here, or set REDIS_URL")
    return settings


cli.add_command(bench)
cli.add_command(models)


def main(command: click.Command = cli) -> NoReturn:
    """Entry point: an error is one sentence and a number (groundcrew/exit_codes.py); its traceback needs --debug."""
    try:
        sys.exit(command.main(prog_name="groundcrew", standalone_mode=False) or ExitCode.DONE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # `groundcrew jobs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILED)
    except Exception as error:  # the last place to say it in words
        sys.exit(_tell(error))


def _tell(error: Exception) -> ExitCode:
    """Print the sentence; returns the exit code."""
    debugging = logging.getLogger().isEnabledFor(logging.DEBUG)
    if debugging:
        traceback.print_exception(error)
    if isinstance(error, GroundcrewError):
        click.echo(f"groundcrew: {error.code}: {error.message}", err=True)
    else:
        more = "" if debugging else "; run it again with --debug to see where, and report it"
        click.echo(f"groundcrew: unexpected {type(error).__name__}: {error}{more}", err=True)
    return exit_code_of(error)


if __name__ == "__main__":
    main()
