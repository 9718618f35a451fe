"""What the older template's command line becomes: settings in the environment, and `groundcrew up`.

Called by: pytest. The command itself is run by tests/services/test_old_command.py.
Must not import: groundcrew, worker.
Example: .venv/bin/python -m pytest tests/unit/test_old_command.py
"""

import sys
from pathlib import Path

import pytest

from backend import _wsgi
from contract.settings import Settings

HERE = Path("/home/ann/project")


def settings_of(*arguments: str) -> dict[str, str]:
    return _wsgi.read_settings(_wsgi.read_arguments(arguments), HERE)


def command_of(*arguments: str) -> list[str]:
    return _wsgi.command_line("python", _wsgi.read_arguments(arguments))


def test_the_documented_command_becomes_settings_and_a_port():
    arguments = ["--with", "config_file=swin-t", "checkpoint_file=weights/best.pth", "device=cpu", "--port", "8003"]

    assert settings_of(*arguments) == {
        "CONFIG_FILE": "swin-t",
        "CHECKPOINT_FILE": "/home/ann/project/weights/best.pth",
        "DEVICE": "cpu",
    }
    assert command_of(*arguments) == ["python", "-m", "groundcrew", "up", "--port", "8003"]


def test_without_arguments_it_serves_the_template_s_port_on_this_machine_only():
    assert settings_of() == {}
    assert command_of() == ["python", "-m", "groundcrew", "up", "--port", "9090"]


def test_a_host_is_passed_on():
    assert command_of("--host", "0.0.0.0")[-2:] == ["--host", "0.0.0.0"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hostname=http://ls:8080", {"LABEL_STUDIO_URL": "http://ls:8080"}),
        ("access_token=abc", {"LABEL_STUDIO_API_KEY": "abc"}),
        ("LABEL_STUDIO_HOST=http://ls", {"LABEL_STUDIO_URL": "http://ls"}),
        ("LANG_MODEL=bert", {"LANG_MODEL": "/home/ann/project/bert"}),
        ("checkpoint_file=/abs/a.pth", {"CHECKPOINT_FILE": "/abs/a.pth"}),
        ("label_studio_api_key=a=b=", {"LABEL_STUDIO_API_KEY": "a=b="}),
        ("webhook_secret=", {"WEBHOOK_SECRET": ""}),
    ],
)
def test_names_and_values_of_pairs(given, expected):
    assert settings_of("--with", given) == expected


def test_flags_of_the_newer_template_are_settings_too():
    arguments = ["-d", "--model-dir", "versions", "--basic-auth-user", "ann", "--basic-auth-pass", "secret", "--check"]

    assert settings_of(*arguments) == {
        "LOG_LEVEL": "DEBUG",
        "MODEL_DIR": "/home/ann/project/versions",
        "BASIC_AUTH_USER": "ann",
        "BASIC_AUTH_PASS": "secret",
    }


def test_a_config_file_is_a_path_only_where_such_a_file_exists(tmp_path):
    (tmp_path / "my.py").touch()
    flags = _wsgi.read_arguments(["--with", "config_file=my.py"])

    assert _wsgi.read_settings(flags, tmp_path) == {"CONFIG_FILE": str(tmp_path / "my.py")}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--with", "checkpoint=a.pth"], "'checkpoint' is not a setting of Groundcrew; did you mean 'checkpoint_file'"),
        (["--with", "xyzzy=1"], "'xyzzy' is not a setting of Groundcrew; known are: alive_file, api_token, "),
        (["--with", "device"], "'device' is not KEY=VALUE"),
        (["--port", "many"], "invalid int value: 'many'"),
        (["--prot", "8003"], "unrecognized arguments: --prot"),
    ],
)
def test_a_wrong_argument_ends_with_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        settings_of(*arguments)

    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_pair_wins_over_every_spelling_in_the_environment():
    environment = {"checkpoint_file": "old.pth", "LABEL_STUDIO_HOST": "http://old", "PATH": "/bin"}
    settings = {"CHECKPOINT_FILE": "new.pth", "LABEL_STUDIO_URL": "http://new"}

    assert _wsgi.merge_environment(environment, settings) == settings | {"PATH": "/bin"}


def test_every_setting_can_be_given():
    """The script cannot import contract/settings.py where it runs, so it repeats the names."""
    by_flag = {"api_host", "api_port"}

    assert set(_wsgi.PATH_SETTINGS + _wsgi.OTHER_SETTINGS) == set(Settings.model_fields) - by_flag


def test_this_python_is_used_when_it_has_all_that_is_needed(tmp_path):
    assert _wsgi.find_python(tmp_path, needed_modules=("json",)) == sys.executable


def test_the_repository_s_python_is_used_when_this_one_lacks_something(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()

    assert _wsgi.find_python(tmp_path, needed_modules=("json", "no_such_module")) == str(python)


def test_nothing_is_found_before_make_install(tmp_path):
    assert _wsgi.find_python(tmp_path, needed_modules=("no_such_module",)) is None
