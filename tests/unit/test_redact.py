"""Nothing that looks like a credential, and no secret of the settings, stays in text that is kept or shown.

Run by: pytest. Must not import: backend, worker.
Example: pytest tests/unit/test_redact.py
"""

from __future__ import annotations

import json
import logging
import sys

import pytest

from contract.redact import RedactingFormatter, redact, secrets_of
from contract.settings import read_settings


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("cannot reach redis://:S3CRET@redis:6379/0", "redis:6379/0"),
        ("cannot reach redis://user:S3CRET@redis:6379/0", "cannot reach redis://"),
        ("GET https://s3.example/a.png?X-Amz-Credential=S3CRET&X-Amz-Signature=S3CRET failed", "a.png?*** failed"),
        ("Authorization: Bearer S3CRETS3CRET", "Authorization"),
        ("{'Authorization': 'Token S3CRETS3CRET'}", "Token ***"),
        ("Basic S3CRETS3CRET==", "Basic"),
        ('{"access_token": "S3CRET", "id": 1}', '"id": 1'),
        ("password=S3CRET host=h", "host=h"),
        ("LABEL_STUDIO_API_KEY=S3CRET", "LABEL_STUDIO_API_KEY="),
        ("jwt eyJhbGciS3CRET.S3CRET.S3CRET refused", "refused"),
        ("POST /webhook/S3CRET 401", "401"),
        ("POST /s/S3CRET/webhook 401", "/webhook 401"),
        ("bad data:image/png;base64," + "S3CRET" * 50, "bad data:image/png"),
    ],
)
def test_what_looks_like_a_credential_goes_and_the_rest_stays(text: str, kept: str) -> None:
    assert "S3CRET" not in redact(text)
    assert kept in redact(text)


@pytest.mark.parametrize(
    "text",
    ["POST /predict 200 in 4 ms id=8f0c", "job p1-t7-3fa2c19b: 3 boxes", "image_too_large: the file is larger than 9",
     "http://127.0.0.1:9000 has no such image (404)",
     "project 1, label '红绿灯' asks for", "the tokenizer: 256 tokens"],
)  # fmt: skip
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_secrets_of_the_settings_are_known_by_value() -> None:
    names = ("label_studio_api_key", "basic_auth_pass", "webhook_secret", "api_token", "notify_secret")
    values = {name: f"{name}-value-{'x' * 40}" for name in names}
    settings = read_settings(values | {"basic_auth_user": "u", "redis_url": "redis://:redis%2Dpass@h/0",
                                       "notify_secret": "whsec_" + "QUJD" * 10})  # fmt: skip
    text = " ".join([*(getattr(settings, name).get_secret_value() for name in names), "redis-pass"])
    assert set(redact(text, secrets_of(settings)).split()) == {"***"}


def test_tracebacks_are_redacted_too() -> None:
    inner = logging.Formatter("%(message)s")
    try:
        raise ValueError("cannot open https://bucket/a.png?sig=S3CRET")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed with %s", ("hush-hush",), sys.exc_info())
    line = RedactingFormatter(inner, ["hush-hush"]).format(record)
    assert "ValueError" in line
    assert "S3CRET" not in line
    assert "hush" not in line


def test_json_lines_stay_json() -> None:
    line = json.dumps({"message": "password=S3CRET&x", "url": "https://h/a?sig=S3CRET", "token": "S3CRET"})
    redacted = redact(line)
    assert "S3CRET" not in redacted
    assert set(json.loads(redacted)) == {"message", "url", "token"}
