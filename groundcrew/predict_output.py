"""What `groundcrew predict` writes: pictures, COCO, Label Studio JSON; each asked for by name.

Called by: groundcrew.predict, groundcrew.cli. Must not import at the top: torch, worker, PIL (a --help stays fast).
Example: `Output.read(Path("predictions"), "pictures,label-studio", "").formats`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import GroundcrewError, RequestError

if TYPE_CHECKING:
    from contract.labels import LabelMap
    from groundcrew.coco import FoundImage
    from worker.detectors.base import Boxes
    from worker.images import Pixels

FORMATS = ("pictures", "coco", "label-studio")
COCO_NAME, TASKS_NAME, CONFIG_NAME = "predictions.json", "tasks.json", "label-config.xml"
LEAST_SIDE_PX = 480  #: smaller images are drawn enlarged, or their labels could not be read
JPEG_QUALITY = 92


class CannotWrite(GroundcrewError):
    """A file cannot be written."""

    code = "cannot_write"


@dataclass(frozen=True)
class Output:
    """Where to, and what."""

    out_dir: Path
    formats: frozenset[str]
    image_prefix: str = ""  #: of the image addresses in tasks.json

    @classmethod
    def read(cls, out_dir: Path, formats: str, image_prefix: str) -> Output:
        """From flags. Raises RequestError naming the format that does not exist."""
        names = frozenset(filter(None, (name.strip() for name in formats.split(","))))
        unknown = sorted(names.difference(FORMATS))
        if unknown or not names:
            raise RequestError("--format", f"does not know {unknown[0] if unknown else 'nothing'}; "
                               f"write one or more of {', '.join(FORMATS)}")  # fmt: skip
        return cls(out_dir, names, image_prefix)

    def prepare(self) -> None:
        """Make the folder. Raises CannotWrite."""
        try:
            self.out_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotWrite(f"{self.out_dir} cannot be made: {error.strerror}") from error

    def draw(self, name: str, pixels: Pixels, boxes: Boxes, names: Sequence[str]) -> None:
        """One picture with its boxes, if pictures were asked for. Raises CannotWrite."""
        if "pictures" not in self.formats:
            return
        from PIL import Image

        from groundcrew.boxes import LabelledBox
        from groundcrew.pictures import draw_boxes

        labelled = [
            LabelledBox(names[label], tuple(corners), score)
            for corners, score, label in zip(
                boxes.xyxy_px.tolist(), boxes.scores.tolist(), boxes.labels.tolist(), strict=True
            )
        ]
        drawn = draw_boxes(Image.fromarray(pixels), labelled, labels=names, least_side_px=LEAST_SIDE_PX)
        path = self.out_dir / name
        try:
            drawn.save(path, quality=JPEG_QUALITY)
        except OSError as error:
            raise CannotWrite(f"{path} cannot be written: {error.strerror or error}") from error

    def write_coco(
        self, found: Sequence[FoundImage], failures: Sequence[tuple[str, str]], *, prompts: Sequence[str],
        info: Mapping[str, object],
    ) -> None:  # fmt: skip
        """predictions.json, if COCO was asked for. Raises CannotWrite."""
        if "coco" in self.formats:
            from groundcrew.coco import to_coco

            self._write(COCO_NAME, as_json(to_coco(found, failures, prompts=prompts, info=info)))

    def write_tasks(
        self, found: Sequence[FoundImage], label_map: LabelMap, *, stamp: str, score_threshold: float,
        local_files_root: Path | None, label_config: str,
    ) -> None:  # fmt: skip
        """tasks.json and label-config.xml, if Label Studio's form was asked for. Raises CannotWrite."""
        if "label-studio" in self.formats:
            from groundcrew.label_studio_json import choose_address, to_tasks, write_label_config

            address_of = choose_address(self.image_prefix, local_files_root)
            tasks = to_tasks(found, label_map, stamp=stamp, score_threshold=score_threshold, address_of=address_of)
            self._write(TASKS_NAME, as_json(tasks))
            self._write(CONFIG_NAME, label_config or write_label_config(label_map))

    def _write(self, name: str, text: str) -> None:
        try:
            (self.out_dir / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise CannotWrite(f"{self.out_dir / name} cannot be written: {error.strerror}") from error


def as_json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
