"""Model versions without a model: small files that only the registry looks at, and disks that break.

Called by: tests of the registry. Must not import: torch.
Example: `registry.publish(version_files(tmp_path), card(project_id=3))`
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from contract.cards import VersionCard
from contract.publish import Disk

CONTENT = {"config.py": "model = 1\n", "model.safetensors": "weights", "bert/vocab.txt": "red\n", "loss.png": "picture"}


def version_files(tmp_path: Path, tag: str = "a") -> Path:
    """A directory such as training leaves; each tag has weights of its own."""
    folder = tmp_path / f"trained-{tag}"
    for name, text in CONTENT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text} {tag}" if name == "model.safetensors" else text)
    return folder


def card(number: int = 1, **fields: Any) -> VersionCard:
    """The card of fine-tune `number` of project 3."""
    values = {"name": "tiny-shapes-p3", "version": str(number), "project_id": 3, "base": "tiny-shapes-1",
              "created_at": f"2026-11-25T00:00:{number:02d}Z", "decision": "promoted"} | fields  # fmt: skip
    return VersionCard.model_validate(values)


class DiskFull(OSError):
    """What a full disk raises."""

    def __init__(self) -> None:
        super().__init__(28, "No space left on device")


class BreakingDisk(Disk):
    """A disk that works for `good_steps` steps; the next one does half of its work and breaks.

    With `kill` the process ends there and then, as kill -9 would end it: nothing is cleaned up.
    """

    def __init__(self, good_steps: int, *, kill: bool = False) -> None:
        self._left = good_steps
        self._kill = kill

    def copy(self, source: Path, target: Path) -> str:
        if self._breaks():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes()[:3])
            self._end()
        return super().copy(source, target)

    def write(self, target: Path, body: bytes) -> None:
        if self._breaks():
            target.write_bytes(body[: len(body) // 2])
            self._end()
        super().write(target, body)

    def rename(self, old: Path, new: Path) -> None:
        if self._breaks():
            self._end()
        super().rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        if self._breaks():
            self._end()
        super().link(old, new)

    def sync_folder(self, folder: Path) -> None:
        if self._breaks():
            self._end()
        super().sync_folder(folder)

    def _breaks(self) -> bool:
        self._left -= 1
        return self._left < 0

    def _end(self) -> None:
        if self._kill:
            os._exit(9)
        raise DiskFull
