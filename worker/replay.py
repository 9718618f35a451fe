"""Images of what a base model knows already, shown again while it learns something new, so that it does not forget.

Called by worker/train.py and worker/training/stream.py (the part "train"), worker/evaluate.py (the part "held_out",
the forgetting check) and whoever packs such a file. Must not import torch, mmdet or groundcrew.
A base ships them as one `replay.zip` beside its config.py: data, never code. It holds the images and `replay.json`:
{"closed_world": true, "train": [{"file", "boxes_xyxy_px", "captions": [{"names", "matches"}]}], "held_out": [...]}.
Example: `replay = open_replay(Path("groundcrew/zoo/tiny-shapes")); replay.read_pixels(replay.train[0])`.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.errors import CheckpointRefused
from worker.images import Pixels, decode_image
from worker.training.captions import Caption
from worker.training.samples import IMAGE_LIMIT_PX

REPLAY_FILE = "replay.zip"
INDEX_FILE = "replay.json"


@dataclass(frozen=True, eq=False)
class ReplayItem:
    """One image, with ready-made captions of which each use takes one; held-out images have exactly one."""

    file: str
    boxes_xyxy_px: NDArray[np.float32]  # (N, 4) xyxy, pixels
    captions: Sequence[Caption]


@dataclass(eq=False)
class Replay:
    """An opened replay.zip; images are read when they are needed, also by forked loader processes."""

    path: Path
    closed_world: bool  #: what the captions do not name is not in the images: any other name finds nothing there
    train: Sequence[ReplayItem]
    held_out: Sequence[ReplayItem]
    _archive: zipfile.ZipFile | None = field(default=None, repr=False)
    _process_id: int = field(default=0, repr=False)

    def read_pixels(self, item: ReplayItem) -> Pixels:
        """(H, W, 3) RGB.

        Raises:
            CheckpointRefused, ImageUnreadable: the file is damaged.
        """
        # A fork shares the position in the file with its parent: each process opens its own.
        if self._archive is None or self._process_id != os.getpid():
            self._archive, self._process_id = zipfile.ZipFile(self.path), os.getpid()
        try:
            return decode_image(self._archive.read(item.file), limit_px=IMAGE_LIMIT_PX)
        except (KeyError, zipfile.BadZipFile) as error:
            raise CheckpointRefused(f"{self.path} is damaged: {error}.") from error

    def __getstate__(self) -> dict[str, object]:
        """For loader processes that are spawned: an open file cannot travel."""
        return {**self.__dict__, "_archive": None}


def open_replay(base_directory: Path | None) -> Replay | None:
    """The replay data of a base, or None if it ships none.

    Raises:
        CheckpointRefused: replay.zip is there, but not what it should be.
    """
    path = base_directory / REPLAY_FILE if base_directory is not None else None
    if path is None or not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            index = json.loads(archive.read(INDEX_FILE))
        parts = {part: [_read_item(entry) for entry in index[part]] for part in ("train", "held_out")}
        return Replay(path, bool(index["closed_world"]), parts["train"], parts["held_out"])
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointRefused(f"{path} is damaged: {type(error).__name__}: {error}.") from error


def _read_item(entry: dict[str, object]) -> ReplayItem:
    boxes = np.array(entry["boxes_xyxy_px"], np.float32).reshape(-1, 4)
    captions = [Caption(caption["names"], caption["matches"]) for caption in entry["captions"]]  # type: ignore[attr-defined]
    if not captions or any(len(caption.matches) != len(boxes) or not caption.names for caption in captions):
        raise ValueError(f"{entry['file']} has captions that do not fit its boxes")
    return ReplayItem(str(entry["file"]), boxes, captions)


def write_replay(
    path: Path,
    train: Iterable[tuple[ReplayItem, bytes]],
    held_out: Iterable[tuple[ReplayItem, bytes]],
    *,
    closed_world: bool,
) -> None:
    """Pack items and their image files (WebP, JPEG, PNG: stored as they are) into a replay.zip."""
    index: dict[str, object] = {"closed_world": closed_world}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for part, items in (("train", train), ("held_out", held_out)):
            entries = []
            for item, content in items:
                # A fixed date: equal data give an equal file, and an equal checksum.
                archive.writestr(zipfile.ZipInfo(item.file), content)
                entries.append(_describe_item(item))
            index[part] = entries
        text = json.dumps(index, separators=(",", ":"))
        archive.writestr(zipfile.ZipInfo(INDEX_FILE), text, compress_type=zipfile.ZIP_DEFLATED)


def _describe_item(item: ReplayItem) -> dict[str, object]:
    captions = [{"names": list(caption.names), "matches": caption.matches} for caption in item.captions]
    return {"file": item.file, "boxes_xyxy_px": item.boxes_xyxy_px.astype(float).tolist(), "captions": captions}
