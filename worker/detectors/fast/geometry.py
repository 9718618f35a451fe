"""What depends on the sizes of the feature levels only: positions, proposals, and where a padded level lies in memory.

Called by encoder.py, decoder.py and model.py of this folder. Must not import anything of ours but grids of this file.
Images of one size share it; `model.py` keeps the last few.
Example: `geometry = Geometry.of(((100, 134), (50, 67)), model, torch.device("cpu"))`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.detectors.stack import GroundingDINO

Shapes = tuple[tuple[int, int], ...]  #: height and width of each level, in cells


@dataclass(frozen=True, eq=False)
class Geometry:
    """One set of level sizes."""

    shapes: Shapes
    position: Tensor  # (cells, channels) positional encoding plus that of the level
    centre_px: Tensor  # (cells, 2, levels) x and y of each cell's centre, in cells of each level, minus a half
    proposals: Tensor  # (cells, 4) centre and size before the sigmoid; infinite where not valid
    invalid: Tensor  # (K,) numbers of the cells whose proposal is not valid

    @property
    def cells(self) -> int:
        """Of all levels."""
        return sum(height * width for height, width in self.shapes)

    @classmethod
    def of(cls, shapes: Shapes, model: GroundingDINO, device: torch.device) -> Geometry:
        """Let mmdet compute its encodings and proposals, once, for one image without padding."""
        features = [torch.zeros(1, 1, *shape, device=device) for shape in shapes]
        levels = zip(features, model.level_embed, strict=True)
        position = [model.positional_encoding(None, input=one)[0].flatten(1).T + level for one, level in levels]
        proposals, valid = _make_proposals(shapes, device)
        return cls(
            shapes=shapes,
            position=torch.cat(position),
            centre_px=_centres(shapes, device),
            proposals=proposals,
            invalid=(~valid).nonzero()[:, 0],
        )


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    """(height * width, 2) x and y of the cells' centres as fractions of the level."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1).view(-1, 2)


def _centres(shapes: Shapes, device: torch.device) -> Tensor:
    sizes = torch.tensor(shapes, device=device, dtype=torch.float32).flip(1).T  # (2, levels) width, height
    fractions = torch.cat([_grid(*shape, device) for shape in shapes])  # (cells, 2)
    return fractions[..., None] * sizes - 0.5


def _make_proposals(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    """As `gen_encoder_output_proposals` of mmdet's DeformableDETR: a box of 5 % around each cell, doubled a level."""
    boxes = []
    for number, shape in enumerate(shapes):
        centre = _grid(*shape, device)
        boxes.append(torch.cat((centre, torch.full_like(centre, 0.05 * 2.0**number)), 1))
    fractions = torch.cat(boxes)  # (cells, 4)
    valid = ((fractions > 0.01) & (fractions < 0.99)).all(1)
    proposals = torch.log(fractions / (1 - fractions))
    return proposals.masked_fill(~valid[:, None], float("inf")), valid
