"""How large images are looked at: in overlapping tiles, so that small things keep enough pixels for the model.

Called by: contract.registry (the settings' tiling), contract.stamps, worker.tiles. Pure: no I/O, no clock.
Must not import: anything but contract.labels, contract.settings and the standard library.
Example: `choose_tiling(Tiling(0, 0.2, True), read_label_config(xml))` -> Tiling(1024, 0.2, True) for tile="1024"
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from contract.labels import LabelMap
from contract.settings import Settings


@dataclass(frozen=True)
class Tiling:
    """Squares of one size that cover an image. Part of the model version: other tiles find other boxes."""

    size_px: int  #: side of a tile; 0: images are looked at as a whole only
    overlap: float  #: least share of a tile that the next one sees, too; 0 to below 1
    whole_image: bool  #: look at the whole image as well, for what is larger than a tile


def default_tiling(settings: Settings) -> Tiling:
    """What holds where the label config says nothing."""
    return Tiling(settings.tile_size_px, settings.tile_overlap, settings.tile_whole_image)


def choose_tiling(default: Tiling, label_map: LabelMap) -> Tiling:
    """The tiling of one project: its label config's `tile` and `tile_overlap` win."""
    size_px = default.size_px if label_map.tile_size_px is None else label_map.tile_size_px
    overlap = default.overlap if label_map.tile_overlap is None else label_map.tile_overlap
    return replace(default, size_px=size_px, overlap=overlap)


def tile_starts(length_px: int, size_px: int, overlap: float) -> list[int]:
    """Where tiles begin along one side: evenly spread, the first at 0 and the last ending with the image."""
    if length_px <= size_px:
        return [0]
    count = 1 + math.ceil((length_px - size_px) / (size_px * (1 - overlap)))
    return [round(number * (length_px - size_px) / (count - 1)) for number in range(count)]
