"""Writes what `docker-compose up` needs: .env from .env.example, and a file of its own for every secret.

Called by: make env, before the first start. Standard library only: it runs without our packages.
Containers see the files below /run/secrets, and `docker inspect` and process lists show none of them. They may be read
by everybody (containers have users of their own), but lie in a directory that only its owner may enter.
Example: python3 deploy/make_env.py .env.example .env secrets
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path

RANDOM = (
    "redis_password", "flower_password", "basic_auth_pass", "webhook_secret", "api_token", "postgres_password",
    "label_studio_password", "grafana_password",
)  # fmt: skip
GIVEN = ("label_studio_api_key", "aws_credentials")  #: only the reader has them
KEY_BYTES = 32


def write_secrets(directory: Path) -> list[str]:
    """Make the files that are missing; returns their names. What is there stays as it is."""
    directory.mkdir(mode=0o700, exist_ok=True)
    values = {name: secrets.token_urlsafe(24) for name in RANDOM} | dict.fromkeys(GIVEN, "")
    values["notify_secret"] = "whsec_" + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    made = [name for name, value in values.items() if _write_once(directory / name, value)]
    password = (directory / "redis_password").read_text(encoding="utf-8").strip()
    return made + ["redis_url"] * _write_once(directory / "redis_url", f"redis://:{password}@redis:6379/0")


def _write_once(path: Path, text: str, mode: int = 0o644) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)  # whatever the umask
        file.write(text)
    return True


def main(example: str, target: str, directory: str) -> int:
    wrote = _write_once(Path(target), Path(example).read_text(encoding="utf-8"), 0o600)
    made = write_secrets(Path(directory))
    print(f"{target} {'is written' if wrote else 'is left as it is'}; new files in {directory}/: {len(made)}")
    print(f"Now set LABEL_STUDIO_URL in {target}, and write a token into {directory}/label_studio_api_key")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
