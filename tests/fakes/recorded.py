"""What Label Studio 1.23.2 really sent, recorded once and kept in tests/golden.

Called by: tests. Must not import: backend, worker.
Example: `recorded("setup").body["project"] == "1.1795562812"`
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "label_studio_1.23.2"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@dataclass(frozen=True)
class Recorded:
    """One request. The path of webhooks is ours, whatever the recording listener's was."""

    method: str
    path: str
    body: Any


def recorded(name: str) -> Recorded:
    """A recorded request. Where the recording shortened a list of 259 tasks, it is filled up again."""
    found = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    body = found["body"]
    if body and isinstance(body.get("tasks"), list) and "..." in str(body["tasks"][-1]):
        body["tasks"] = tasks_like(body["tasks"][0], 259)
    return Recorded(found["method"], found["path"].replace("/hook", "/webhook"), body)


def tasks_like(task: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Tasks 1 to `count`, each with an image of its own."""
    return [task | {"id": n, "data": {"image": f"/data/upload/1/{n:08d}-img.png"}} for n in range(1, count + 1)]
