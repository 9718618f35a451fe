"""Writes .env from .env.example, with a random value for every secret that is empty there. Standard library only.

Called by: make env, before the first `docker-compose up`. It runs without our packages.
Example: python3 deploy/make_env.py .env.example .env
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

RANDOM = ("REDIS_PASSWORD", "FLOWER_PASSWORD", "BASIC_AUTH_PASS", "WEBHOOK_SECRET", "API_TOKEN")
_EMPTY = re.compile(rf"^({'|'.join(RANDOM)})=$", re.MULTILINE)


def fill(example: str) -> str:
    return _EMPTY.sub(lambda found: f"{found[1]}={secrets.token_urlsafe(24)}", example)


def main(example: str, target: str) -> int:
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{target} exists and is left as it is", file=sys.stderr)
        return 1
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(fill(Path(example).read_text(encoding="utf-8")))
    print(f"{target} is written, with random passwords; now set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY in it")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
