"""The command line as a whole: its help, its exit codes, and that nobody sees a traceback without asking for it.

Called by: pytest. Must not import: torch, backend, worker.
Example: .venv/bin/python -m pytest tests/unit/test_cli.py
"""

import json
import logging
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from contract.errors import BrokerUnavailable, ImageUnavailable, ModelError, PromptError, SettingsError
from contract.settings import Settings
from groundcrew.cli import SECTIONS, cli, main
from groundcrew.exit_codes import ExitCode, PartlyDone, exit_code_of
from groundcrew.options import flag_of

WITHOUT_JSON = {"completion", "bench report"}  # a script, a page


def commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by the words that call it."""
    for name, command in group.commands.items():
        words = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, words)
        else:
            yield words, command


def help_of(*words: str) -> str:
    shown = CliRunner(env={"COLUMNS": "110"}).invoke(cli, [*words, "--help"], prog_name="groundcrew")
    assert shown.exit_code == 0
    return shown.output


@pytest.fixture
def quiet_again():
    """--debug turns on logging for the whole process; this turns it off behind the test."""
    yield
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture
def run(monkeypatch, capsys, quiet_again):
    """Ends a command in the way given; returns the exit code and what stood on standard error."""

    def run(error: BaseException | None, *arguments: str) -> tuple[int, str]:
        @click.group(cls=type(cli))
        def group() -> None:
            """A group."""

        @group.command()
        def work() -> None:
            """A command."""
            if error is not None:
                raise error

        monkeypatch.setattr(sys, "argv", ["groundcrew", *arguments])
        with pytest.raises(SystemExit) as ended:
            main(group)
        return ended.value.code, capsys.readouterr().err

    return run


# -- the page ----------------------------------------------------------------------------------------------------------


def test_every_command_stands_in_the_page_under_a_heading():
    page = help_of()

    assert {name for names in SECTIONS.values() for name in names} == set(cli.commands)
    for heading, names in SECTIONS.items():
        assert f"{heading}:" in page
        assert all(f"\n  {name} " in page for name in names)
    assert "..." not in page.split("Start:")[1], "a summary is cut off"


def test_the_examples_of_the_page_name_flags_that_exist():
    known = {flag for _, command in commands() for param in command.params for flag in param.opts}

    examples = help_of().split("Examples:")[1]
    named = {word for word in examples.split() if word.startswith("--")}
    assert named
    assert named <= known


def test_every_command_has_json_and_debug():
    for words, command in commands():
        flags = {flag for param in command.params for flag in param.opts}
        assert "--debug" in flags, words
        assert "--json" in flags or words in WITHOUT_JSON, words


def test_up_shows_every_setting_under_a_heading_and_others_only_what_concerns_them():
    up, jobs = help_of("up"), help_of("jobs")

    assert all(f"({name.upper()})" in " ".join(up.split()) for name in Settings.model_fields)
    assert "Label Studio (settings):" in up
    assert up.index("--workers") < up.index("--label-studio-url")
    assert "(REDIS_URL)" in jobs
    assert "--batch-size" not in jobs
    assert "Every other setting of `groundcrew up --help` is accepted here, too." in jobs


def test_hidden_settings_are_accepted_all_the_same():
    asked = CliRunner().invoke(cli, ["jobs", "--batch-size", "0"])

    assert isinstance(asked.exception, SettingsError)
    assert "BATCH_SIZE" in str(asked.exception)
    assert flag_of("api_port") == "--port"


# -- what it ends with -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (ModelError("the model is damaged"), 1),
        (SettingsError("DEVICE: no such device"), 2),
        (PromptError("names nothing"), 2),
        (PartlyDone(), 3),
        (BrokerUnavailable(), 4),
        (ImageUnavailable(), 4),
        (KeyError("x"), 70),
        (KeyboardInterrupt(), 130),
        (click.UsageError("say what"), 2),
    ],
)
def test_the_exit_code_says_what_to_do(run, error, code):
    assert run(error, "work")[0] == code


def test_the_documented_codes_are_all_there_are():
    assert {int(code) for code in ExitCode} == {0, 1, 2, 3, 4, 70, 130}
    assert all(code.meaning for code in ExitCode)
    assert exit_code_of(RuntimeError()) is ExitCode.BUG
    shown = " ".join(help_of().split())
    assert all(f"{int(code)} " in shown.split("Exit codes:")[1] for code in ExitCode)


def test_an_error_is_one_sentence_without_a_traceback(run):
    _, said = run(ModelError("the model is damaged; name another one"), "work")

    assert said == "groundcrew: model_error: the model is damaged; name another one\n"


def test_an_unexpected_error_is_one_line_that_names_debug(run):
    _, said = run(ValueError("odd"), "work")

    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert "unexpected ValueError: odd" in said
    assert "--debug" in said


@pytest.mark.parametrize("arguments", [("--debug", "work"), ("work", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(run, arguments):
    code, said = run(ValueError("odd"), *arguments)

    assert code == ExitCode.BUG
    assert "Traceback (most recent call last)" in said
    assert "raise error" in said


def test_wrong_usage_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["groundcrew", "predict", "photo.jpg"])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == ExitCode.WRONG_USAGE
    assert 'say what to find, for example --prompt "red circle . blue square"' in capsys.readouterr().err


# -- small things ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_calls_us(shell):
    script = CliRunner().invoke(cli, ["completion", shell]).output

    assert "_GROUNDCREW_COMPLETE" in script


def test_completion_offers_what_begins_so(monkeypatch):
    """What the script asks for at `groundcrew fine<TAB>`."""
    asked = {"_GROUNDCREW_COMPLETE": "bash_complete", "COMP_WORDS": "groundcrew fine", "COMP_CWORD": "1"}
    shown = CliRunner(env=asked).invoke(cli, [], prog_name="groundcrew")

    assert shown.output.split() == ["plain,finetune"]


def test_models_json_says_what_was_done(tmp_path):
    made = CliRunner().invoke(
        cli, ["models", "promote", "tiny-shapes-1", "--project", "1", "--json", "--model-dir", str(tmp_path)]
    )

    assert json.loads(made.output) == {"done": "project 1 now uses tiny-shapes-1; jobs that wait get the new version"}


def test_without_a_crew_it_says_where_to_look_for_one(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(sys, "argv", ["groundcrew", "jobs"])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == ExitCode.TRY_AGAIN
    assert "start `groundcrew up` here, or set REDIS_URL" in capsys.readouterr().err
