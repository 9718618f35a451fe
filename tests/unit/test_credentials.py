"""Credentials of `groundcrew up`: made when others can reach the API and nobody has set any, kept, and left alone else.

Run by: pytest. Must not import: backend, worker.
Example: pytest tests/unit/test_credentials.py
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from contract.errors import SettingsError
from contract.settings import Settings, read_settings
from groundcrew.credentials import describe_new, with_credentials


def up(folder: Path, **fields: object) -> tuple[Settings, bool]:
    return with_credentials(read_settings({}, **fields), folder / "kept" / "credentials.json")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "crew.example.org"])
def test_an_api_that_others_can_reach_asks_for_credentials(tmp_path: Path, host: str) -> None:
    settings, made = up(tmp_path, api_host=host)
    assert made
    assert settings.basic_auth_user == "groundcrew"
    assert len(settings.basic_auth_pass.get_secret_value()) >= 32
    assert len(settings.webhook_secret.get_secret_value()) >= 32


def test_they_are_made_once_kept_for_the_owner_only_and_shown_once(tmp_path: Path) -> None:
    first, made = up(tmp_path, api_host="0.0.0.0")
    again, made_again = up(tmp_path, api_host="0.0.0.0")
    assert (made, made_again) == (True, False)
    assert again == first
    path = tmp_path / "kept" / "credentials.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = first.webhook_secret.get_secret_value()
    assert f"put /s/{secret} behind the Backend URL" in "\n".join(describe_new(first, path))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_an_api_for_this_machine_only_stays_open(tmp_path: Path, host: str) -> None:
    settings, made = up(tmp_path, api_host=host)
    assert not made
    assert not settings.basic_auth_user


@pytest.mark.parametrize("own", [{"basic_auth_user": "me", "basic_auth_pass": "mine"}, {"api_token": "mine"}])
def test_credentials_of_the_operator_are_left_alone(tmp_path: Path, own: dict[str, str]) -> None:
    settings, made = up(tmp_path, api_host="0.0.0.0", **own)
    assert not made
    assert settings == read_settings({}, api_host="0.0.0.0", **own)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    up(tmp_path, api_host="0.0.0.0")
    (tmp_path / "kept" / "credentials.json").write_text("{")
    with pytest.raises(SettingsError, match=r"credentials\.json cannot be read .* delete it"):
        up(tmp_path, api_host="0.0.0.0")
